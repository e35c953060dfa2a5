//! The span of one request, by OpenTelemetry's semantic conventions for HTTP
//! servers.
//!
//! Invariants: it ends once; one that is dropped before its end was cancelled.
//! Each text in it is bounded: paths and names come from callers.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, StatusCode};
use opentelemetry::trace::{Span as _, SpanId, Status};
use opentelemetry::{KeyValue, StringValue};
use opentelemetry_sdk::trace::Span;

use super::parent::{self, TRACEPARENT, TRACESTATE};
use crate::Clock;

/// In bytes. What is longer is cut.
const MAX_TEXT: usize = 1_024;

/// What is known of a request when it begins.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// As in the request line.
    pub method: &'a Method,
    /// Without the query, which may hold secrets.
    pub path: &'a str,
    /// The port that was called.
    pub port: u16,
    /// Where the connection comes from.
    pub from: IpAddr,
    /// Who calls.
    pub client: &'a str,
    /// Who is called.
    pub server: &'a str,
}

impl Asked<'_> {
    /// Methods of RFC 9110 and RFC 5789; a caller may think up others, and a
    /// span's name is one of few.
    fn known_method(&self) -> Option<&'static str> {
        const KNOWN: [&str; 9] = [
            "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
        ];
        KNOWN.into_iter().find(|known| *known == self.method.as_str())
    }

    pub(super) fn name(&self) -> &'static str {
        self.known_method().unwrap_or("HTTP")
    }

    pub(super) fn attributes(&self) -> impl IntoIterator<Item = KeyValue> + use<> {
        let original = match self.known_method() {
            Some(_) => None,
            None => Some(text("http.request.method_original", self.method.as_str())),
        };
        [
            KeyValue::new("http.request.method", self.known_method().unwrap_or("_OTHER")),
            text("url.path", self.path),
            KeyValue::new("url.scheme", "http"),
            KeyValue::new("server.port", i64::from(self.port)),
            KeyValue::new("network.peer.address", self.from.to_string()),
            text("watchword.client.id", self.client),
            text("watchword.server.id", self.server),
        ]
        .into_iter()
        .chain(original)
    }
}

/// The span of one request: ended by [`RequestSpan::end`], or cancelled by
/// being dropped.
#[must_use = "dropped, it ends as cancelled"]
pub struct RequestSpan(State);

enum State {
    Off(Option<TraceId>),
    NotRecorded {
        trace_id: TraceId,
        span_id: SpanId,
        joined: bool,
    },
    /// Boxed, since it is large and mostly not there.
    Recording(Box<Recording>),
}

struct Recording {
    span: Span,
    joined: bool,
    clock: Arc<dyn Clock>,
    ended: bool,
}

/// A trace's number, shown as 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceId(opentelemetry::trace::TraceId);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl RequestSpan {
    pub(super) fn off(trace_id: Option<opentelemetry::trace::TraceId>) -> Self {
        Self(State::Off(trace_id.map(TraceId)))
    }

    pub(super) fn not_recorded(trace_id: opentelemetry::trace::TraceId, span_id: SpanId, joined: bool) -> Self {
        Self(State::NotRecorded {
            trace_id: TraceId(trace_id),
            span_id,
            joined,
        })
    }

    pub(super) fn recording(span: Span, joined: bool, clock: Arc<dyn Clock>) -> Self {
        Self(State::Recording(Box::new(Recording {
            span,
            joined,
            clock,
            ended: false,
        })))
    }

    /// The trace that the request belongs to, for the access log: ours, or the
    /// caller's where we make none.
    pub fn trace_id(&self) -> Option<TraceId> {
        match &self.0 {
            State::Off(trace_id) => *trace_id,
            State::NotRecorded { trace_id, .. } => Some(*trace_id),
            State::Recording(recording) => Some(TraceId(recording.span.span_context().trace_id())),
        }
    }

    /// The header `traceparent` for the next hop, with this span as its
    /// parent; nothing where the caller's headers pass unchanged.
    /// [`RequestSpan::pass_on`] sets it, and is what a proxy wants.
    pub fn traceparent(&self) -> Option<HeaderValue> {
        let text = match &self.0 {
            State::Off(_) => return None,
            State::NotRecorded { trace_id, span_id, .. } => parent::write(trace_id.0, *span_id, false),
            State::Recording(recording) => {
                let context = recording.span.span_context();
                parent::write(context.trace_id(), context.span_id(), context.is_sampled())
            }
        };
        HeaderValue::from_bytes(&text).ok()
    }

    /// Makes the headers of the request those for the next hop: `traceparent`
    /// names this span, and a `tracestate` stays only with the trace that it
    /// belongs to. Where tracing is off, nothing changes.
    pub fn pass_on(&self, headers: &mut HeaderMap) {
        let Some(traceparent) = self.traceparent() else {
            return;
        };
        headers.insert(TRACEPARENT, traceparent);
        if !self.joined() {
            headers.remove(TRACESTATE);
        }
    }

    /// What was decided about the request, and by which policy and rule.
    pub fn judged(&mut self, decision: &'static str, policy: Option<&str>, rule: Option<&str>) {
        if let State::Recording(recording) = &mut self.0 {
            let names = [("watchword.policy", policy), ("watchword.rule", rule)];
            let named = names.into_iter().filter_map(|(key, name)| Some(text(key, name?)));
            recording.span.set_attributes(named);
            recording
                .span
                .set_attribute(KeyValue::new("watchword.decision", decision));
        }
    }

    /// It was answered.
    pub fn end(mut self, status: StatusCode) {
        if let State::Recording(recording) = &mut self.0 {
            let code = i64::from(status.as_u16());
            recording
                .span
                .set_attribute(KeyValue::new("http.response.status_code", code));
            if status.is_server_error() {
                recording.fail(status.as_str().to_owned().into(), "");
            }
            recording.end();
        }
    }

    fn joined(&self) -> bool {
        match &self.0 {
            State::Off(_) => true,
            State::NotRecorded { joined, .. } => *joined,
            State::Recording(recording) => recording.joined,
        }
    }
}

impl Recording {
    fn fail(&mut self, kind: StringValue, says: &'static str) {
        self.span.set_attribute(KeyValue::new("error.type", kind));
        self.span.set_status(Status::error(says));
    }

    fn end(&mut self) {
        self.ended = true;
        self.span.end_with_timestamp(self.clock.now());
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if !self.ended {
            self.fail("cancelled".into(), "the request ended before it was answered");
            self.end();
        }
    }
}

/// An attribute of a text that is bounded.
fn text(key: &'static str, value: &str) -> KeyValue {
    let end = value.floor_char_boundary(MAX_TEXT);
    KeyValue::new(key, value[..end].to_owned())
}
