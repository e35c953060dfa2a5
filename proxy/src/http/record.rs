//! The record of each request: made when its head is read, ended once, with
//! what was decided and why it ended, in the log and the metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use http::{HeaderMap, Method, StatusCode};
use watchword_daemon::{Asked, RequestSpan};
use watchword_policy::{Decision, Principal};

use super::fault::Fault;
use crate::ended::Verdict;
use crate::enforce::Question;
use crate::facts::Facts;
use crate::refusal::Refusal;

/// Of a path, in the log.
const MAX_PATH: usize = 512;

/// One request. Dropped without an end, its caller has gone.
pub(crate) struct Record {
    question: Question,
    began: Instant,
    method: Method,
    facts: Option<Arc<Facts>>,
    status: Option<StatusCode>,
    verdict: Verdict,
    sent: Arc<AtomicU64>,
    received: Arc<AtomicU64>,
    span: Option<RequestSpan>,
    /// Of a request that could not be cleaned: as it came.
    raw: String,
    ended: bool,
}

/// How a request ended.
struct End<'a> {
    result: &'static str,
    reason: &'static str,
    detail: &'a str,
}

/// A macro, since a level must be known when the line is compiled.
macro_rules! access_line {
    ($level:path, $record:expr, $end:expr, $path:expr, $host:expr) => {{
        use $level as level;
        let visitor = &$record.question.visitor;
        level!(
            target: "access",
            direction = "inbound",
            client_id = &*visitor.peer_text,
            server_id = visitor.own_text.as_str(),
            client = %visitor.from,
            dialled = %visitor.dialled,
            protocol = $record.question.protocol.as_str(),
            method = $record.method.as_str(),
            path = $path,
            host = $host,
            status = $record.status.map_or(0, |status| status.as_u16()),
            decision = $record.verdict.decision,
            policy = $record.verdict.policy(),
            rule = $record.verdict.rule(),
            result = $end.result,
            reason = $end.reason,
            bytes_sent = $record.sent.load(Ordering::Relaxed),
            bytes_received = $record.received.load(Ordering::Relaxed),
            duration_ms = u64::try_from($record.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            detail = $end.detail,
            trace_id = $record.span.as_ref().and_then(RequestSpan::trace_id).map(tracing::field::display),
            "request"
        );
    }};
}

impl Record {
    pub(crate) fn begin(question: Question, method: Method) -> Self {
        Self {
            question,
            began: Instant::now(),
            method,
            facts: None,
            status: None,
            verdict: Verdict::none(),
            sent: Arc::default(),
            received: Arc::default(),
            span: None,
            raw: String::new(),
            ended: false,
        }
    }

    /// From the caller, counted elsewhere.
    pub(crate) fn sent(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.sent)
    }

    /// To the caller, counted elsewhere.
    pub(crate) fn received(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.received)
    }

    pub(crate) fn is_about(&mut self, facts: Arc<Facts>) {
        let visitor = &self.question.visitor;
        let asked = Asked {
            method: &facts.method,
            path: facts.path(),
            port: visitor.dialled.port(),
            from: visitor.from.ip(),
            client: &visitor.peer_text,
            server: &visitor.own_text,
        };
        self.span = Some(visitor.mesh.traces.begin(&asked, &facts.headers));
        self.facts = Some(facts);
    }

    /// Makes the next hop's span a child of this request's.
    pub(crate) fn pass_trace_on(&self, headers: &mut HeaderMap) {
        if let Some(span) = &self.span {
            span.pass_on(headers);
        }
    }

    pub(crate) fn allowed(&mut self, decision: &Decision) {
        self.judged(Verdict::of(decision));
        if let Some(denial) = &decision.would_deny {
            self.note_denial(denial.reason.as_str(), true);
        }
    }

    fn judged(&mut self, verdict: Verdict) {
        if let Some(span) = &mut self.span {
            let [policy, rule] =
                [verdict.policy(), verdict.rule()].map(|name| Some(name).filter(|name| !name.is_empty()));
            span.judged(verdict.decision, policy, rule);
        }
        self.verdict = verdict;
    }

    /// For people: what was asked, by method and path.
    fn note_denial(&self, reason: &'static str, audit: bool) {
        let facts = self.facts.as_deref();
        let shown = facts.map(|facts| format!("{} {}", self.method, clipped(facts.path())));
        self.question.visitor.note_denial(reason, &self.verdict, (shown, audit));
    }

    pub(crate) fn answered(&mut self, status: StatusCode) {
        self.status = Some(status);
    }

    /// Carried to its end.
    pub(crate) fn finished(self) {
        self.end("ok", "finished", "");
    }

    pub(crate) fn denied(mut self, refusal: &Refusal, status: StatusCode) {
        self.status = Some(status);
        self.judged(Verdict::of_refusal(refusal));
        self.note_denial(refusal.reason, false);
        self.end("denied", refusal.reason, "");
    }

    /// By nobody's policy: it can't be understood. `target` is as it came.
    pub(crate) fn refused(mut self, fault: Fault, target: &str) {
        self.raw = target.chars().take(MAX_PATH).collect();
        self.status = Some(fault.status());
        self.verdict.decision = "deny";
        self.end("denied", fault.label(), &fault.sentence());
    }

    pub(crate) fn cut(mut self, refusal: &Refusal) {
        self.judged(Verdict::of_refusal(refusal));
        self.end("failed", "policy-changed", "");
    }

    pub(crate) fn app_unreachable(self, error: &dyn std::error::Error) {
        self.end("refused", "app-unreachable", &error.to_string());
    }

    /// Between us and the app, or us and the caller.
    pub(crate) fn broken(self, reason: &'static str, error: &dyn std::error::Error) {
        self.end("failed", reason, &error.to_string());
    }

    fn end(mut self, result: &'static str, reason: &'static str, detail: &str) {
        self.write(&End { result, reason, detail });
    }

    fn write(&mut self, end: &End<'_>) {
        self.ended = true;
        let visitor = &self.question.visitor;
        visitor.mesh.connections.telemetry().request_ended(
            &visitor.peer_label,
            &self.method,
            self.status,
            self.began.elapsed(),
        );
        let facts = self.facts.as_deref();
        let path = facts.map_or(self.raw.as_str(), |facts| clipped(facts.path()));
        let host = facts
            .and_then(|facts| facts.host.as_ref()?.to_str().ok())
            .unwrap_or_default();
        let is_strangers = end.result == "denied" && visitor.peer == Principal::Unauthenticated;
        // A request that did not come to its end is what people look for, and
        // one that would not have, if audit policies were enforced.
        if end.result == "ok" && self.verdict.decision == "allow" {
            access_line!(tracing::info, self, end, path, host);
        } else if !is_strangers || visitor.mesh.connections.may_write_of_stranger() {
            access_line!(tracing::warn, self, end, path, host);
        }
        // One that has no status was cut off: it ends as cancelled.
        if let (Some(span), Some(status)) = (self.span.take(), self.status) {
            span.end(status);
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.ended {
            self.write(&End {
                result: "failed",
                reason: "caller-gone",
                detail: "",
            });
        }
    }
}

/// A normalised path is ASCII.
fn clipped(path: &str) -> &str {
    path.get(..MAX_PATH).unwrap_or(path)
}
