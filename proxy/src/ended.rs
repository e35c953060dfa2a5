//! How a connection ended, in the words of the access log and the metrics.

use std::sync::Arc;

use watchword_policy::Decision;
use watchword_proto::tunnel::Denied;
use watchword_tunnel::{AppStream, CloseReason, Closed};

use crate::refusal::{Refusal, Why};

/// How a connection ended.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    /// `ok`, `denied`, `refused` or `failed`.
    pub(crate) result: &'static str,
    /// From a closed set.
    pub(crate) reason: &'static str,
    pub(crate) policy: String,
    pub(crate) rule: String,
    /// From the app that called.
    pub(crate) sent: u64,
    /// To the app that called.
    pub(crate) received: u64,
    /// For people; empty when there is no more to say.
    pub(crate) detail: String,
}

impl Ended {
    pub(crate) fn failed(reason: &'static str, detail: impl Into<String>) -> Self {
        Self {
            result: "failed",
            reason,
            policy: String::new(),
            rule: String::new(),
            sent: 0,
            received: 0,
            detail: detail.into(),
        }
    }

    /// The app could not be reached.
    pub(crate) fn refused(detail: &str) -> Self {
        Self {
            result: "refused",
            ..Self::failed("app-unreachable", detail)
        }
    }

    /// Carried to its end.
    pub(crate) fn finished(sent: u64, received: u64, decision: &Decision) -> Self {
        let text = |name: &Option<Arc<str>>| name.as_deref().unwrap_or_default().to_owned();
        Self {
            result: "ok",
            policy: text(&decision.policy),
            rule: text(&decision.rule),
            sent,
            received,
            ..Self::failed("finished", "")
        }
    }

    /// A stream that we served: what our app sent is what the caller received.
    pub(crate) fn of_served<A: AppStream>(closed: &Closed<A>, decision: &Decision) -> Self {
        let carried = Self::finished(closed.received, closed.sent, decision);
        Self {
            sent: carried.sent,
            received: carried.received,
            policy: carried.policy,
            rule: carried.rule,
            ..why(&closed.why)
        }
    }

    /// A stream that our app made.
    pub(crate) fn of_made<A: AppStream>(closed: &Closed<A>) -> Self {
        Self {
            sent: closed.sent,
            received: closed.received,
            ..why(&closed.why)
        }
    }

    /// The other side's policies said no.
    pub(crate) fn denied_by_peer(denied: &Denied) -> Self {
        Self {
            result: "denied",
            policy: printable(&denied.policy),
            rule: printable(&denied.rule),
            ..Self::failed(Why::label_of(denied.reason()), "")
        }
    }

    pub(crate) fn denied(refusal: &Refusal) -> Self {
        let text = |name: &Option<Arc<str>>| name.as_deref().unwrap_or_default().to_owned();
        let mut ended = Self::failed(refusal.reason, "");
        ended.result = "denied";
        ended.policy = text(&refusal.policy);
        ended.rule = text(&refusal.rule);
        ended
    }
}

fn why(close: &CloseReason) -> Ended {
    let detail = match close {
        CloseReason::Finished => {
            return Ended {
                result: "ok",
                ..Ended::failed(close.label(), "")
            };
        }
        CloseReason::PeerReset(reason) | CloseReason::Cut(reason) => Why::label_of(*reason).to_owned(),
        CloseReason::Lost(error) => error.to_string(),
        CloseReason::AppReset | CloseReason::OpenTimeout => String::new(),
    };
    Ended::failed(close.label(), detail)
}

/// A peer's words, fit for a log and a terminal.
fn printable(text: &str) -> String {
    text.chars()
        .map(|letter| if letter.is_control() { '\u{fffd}' } else { letter })
        .collect()
}
