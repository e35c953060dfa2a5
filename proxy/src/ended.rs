//! How a connection ended, in the words of the access log and the metrics.

use std::sync::Arc;

use watchword_policy::Decision;
use watchword_proto::tunnel::Denied;
use watchword_tunnel::{AppStream, CloseReason, Closed};

use crate::refusal::{Refusal, Why};

/// What policies said, in the words of the log.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    /// `allow`, `deny`, or `would-deny` where only audit policies would.
    pub(crate) decision: &'static str,
    policy: Option<Arc<str>>,
    rule: Option<Arc<str>>,
}

impl Verdict {
    /// Nobody was asked, or what is asked about is not the whole.
    pub(crate) fn none() -> Self {
        Self {
            decision: "allow",
            policy: None,
            rule: None,
        }
    }

    pub(crate) fn of(decision: &Decision) -> Self {
        let (decision, policy, rule) = match &decision.would_deny {
            Some(denial) => ("would-deny", &denial.policy, &denial.rule),
            None => (decision.verdict.as_str(), &decision.policy, &decision.rule),
        };
        Self {
            decision,
            policy: policy.clone(),
            rule: rule.clone(),
        }
    }

    /// By what is no policy, in the words of one.
    pub(crate) fn by(decision: &'static str, policy: Arc<str>, rule: Option<Arc<str>>) -> Self {
        Self {
            decision,
            policy: Some(policy),
            rule,
        }
    }

    pub(crate) fn of_refusal(refusal: &Refusal) -> Self {
        Self {
            decision: "deny",
            policy: refusal.policy.clone(),
            rule: refusal.rule.clone(),
        }
    }

    /// Empty where none is named.
    pub(crate) fn policy(&self) -> &str {
        self.policy.as_deref().unwrap_or_default()
    }

    /// Empty where none is named.
    pub(crate) fn rule(&self) -> &str {
        self.rule.as_deref().unwrap_or_default()
    }
}

/// How a connection ended.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    /// `ok`, `denied`, `refused` or `failed`.
    pub(crate) result: &'static str,
    /// From a closed set.
    pub(crate) reason: &'static str,
    pub(crate) verdict: Verdict,
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
            verdict: Verdict::none(),
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
    pub(crate) fn finished(sent: u64, received: u64, verdict: Verdict) -> Self {
        Self {
            result: "ok",
            verdict,
            sent,
            received,
            ..Self::failed("finished", "")
        }
    }

    /// A stream that we served: what our app sent is what the caller received.
    pub(crate) fn of_served<A: AppStream>(closed: &Closed<A>, verdict: Verdict) -> Self {
        Self {
            sent: closed.received,
            received: closed.sent,
            verdict,
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
            verdict: Verdict {
                decision: "deny",
                policy: Some(printable(&denied.policy).into()),
                rule: Some(printable(&denied.rule).into()),
            },
            ..Self::failed(Why::label_of(denied.reason()), "")
        }
    }

    pub(crate) fn denied(refusal: &Refusal) -> Self {
        Self {
            result: "denied",
            verdict: Verdict::of_refusal(refusal),
            ..Self::failed(refusal.reason, "")
        }
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
