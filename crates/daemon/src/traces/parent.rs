//! What a caller says of its trace: the headers `traceparent` and `tracestate`
//! (W3C Trace Context, level 1). Pure.
//!
//! Invariant: what is not exactly as the standard has it counts as not there.

use std::str::FromStr as _;

use http::{HeaderMap, HeaderName};
use opentelemetry::trace::{SpanId, TraceId, TraceState};

pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(super) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// Of `traceparent` in version 00; later versions may be longer.
const LENGTH: usize = 55;
/// What the standard asks to be carried at least; more stays out of our spans.
const MAX_STATE: usize = 512;
const SAMPLED: u8 = 1;

/// The caller's span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parent {
    pub(super) trace_id: TraceId,
    pub(super) span_id: SpanId,
    pub(super) sampled: bool,
}

/// The caller's span, if it names one.
pub(super) fn read(headers: &HeaderMap) -> Option<Parent> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let value = values.next()?;
    // Two contradict each other.
    values.next().is_none().then(|| parse(value.as_bytes()))?
}

/// The caller's `tracestate`, for our span. The next hop gets the header itself.
pub(super) fn state(headers: &HeaderMap) -> TraceState {
    let mut text = String::new();
    for value in headers.get_all(TRACESTATE) {
        let Ok(value) = value.to_str() else {
            return TraceState::NONE;
        };
        if text.len() + value.len() >= MAX_STATE {
            return TraceState::NONE;
        }
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(value);
    }
    TraceState::from_str(&text).unwrap_or_default()
}

/// `00-TRACE-SPAN-FLAGS`, as the next hop gets it.
pub(super) fn write(trace_id: TraceId, span_id: SpanId, sampled: bool) -> [u8; LENGTH] {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    put_hex(&mut text[3..35], &trace_id.to_bytes());
    put_hex(&mut text[36..52], &span_id.to_bytes());
    put_hex(&mut text[53..55], &[u8::from(sampled)]);
    text
}

fn put_hex(text: &mut [u8], bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 0x0f)];
    }
}

fn parse(text: &[u8]) -> Option<Parent> {
    let (known, later) = text.split_first_chunk::<LENGTH>()?;
    let [version] = hex(&known[0..2])?;
    let end_is_right = match version {
        0 => later.is_empty(),
        0xff => false,
        _ => later.first().is_none_or(|&byte| byte == b'-'),
    };
    let dashes_are_right = [2, 35, 52].iter().all(|&at| known[at] == b'-');
    if !end_is_right || !dashes_are_right {
        return None;
    }
    let trace_id = TraceId::from_bytes(hex(&known[3..35])?);
    let span_id = SpanId::from_bytes(hex(&known[36..52])?);
    let [flags] = hex(&known[53..55])?;
    let named = trace_id != TraceId::INVALID && span_id != SpanId::INVALID;
    named.then_some(Parent {
        trace_id,
        span_id,
        sampled: flags & SAMPLED != 0,
    })
}

/// Lower case alone.
fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

fn digit(text: u8) -> Option<u8> {
    match text {
        b'0'..=b'9' => Some(text - b'0'),
        b'a'..=b'f' => Some(text - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::collection::vec;
    use proptest::prelude::{any, proptest};

    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    #[test]
    fn only_what_the_standard_has_is_a_parent() {
        let table = [
            (format!("00-{TRACE}-{SPAN}-00"), Some(false)),
            (format!("00-{TRACE}-{SPAN}-01"), Some(true)),
            (format!("00-{TRACE}-{SPAN}-ff"), Some(true)),
            (format!("00-{TRACE}-{SPAN}-02"), Some(false)),
            (format!("01-{TRACE}-{SPAN}-01"), Some(true)),
            (format!("cc-{TRACE}-{SPAN}-01-what-the-future-brings"), Some(true)),
            (format!("cc-{TRACE}-{SPAN}-01."), None),
            (format!("ff-{TRACE}-{SPAN}-01"), None),
            (format!("00-{TRACE}-{SPAN}-01-"), None),
            (format!("00-{TRACE}-{SPAN}-0"), None),
            (format!("00-{TRACE}-{SPAN}-+1"), None),
            (format!("+0-{TRACE}-{SPAN}-01"), None),
            (format!("00-{}-{SPAN}-01", TRACE.to_uppercase()), None),
            (format!("00-{}-{SPAN}-01", "0".repeat(32)), None),
            (format!("00-{TRACE}-{}-01", "0".repeat(16)), None),
            (format!("00_{TRACE}-{SPAN}-01"), None),
            (format!("00-{TRACE}-{SPAN}.01"), None),
            (String::new(), None),
        ];
        for (text, expected) in table {
            let parent = parse(text.as_bytes());
            assert_eq!(parent.map(|parent| parent.sampled), expected, "{text}");
            if let Some(parent) = parent {
                assert_eq!(parent.trace_id.to_string(), TRACE);
                assert_eq!(parent.span_id.to_string(), SPAN);
            }
        }
    }

    #[test]
    fn two_parents_are_none() {
        let value = HeaderValue::from_str(&format!("00-{TRACE}-{SPAN}-01")).unwrap();
        let mut headers = HeaderMap::new();
        headers.append(TRACEPARENT, value.clone());
        assert!(read(&headers).is_some());
        headers.append(TRACEPARENT, value);
        assert_eq!(read(&headers), None);
    }

    #[test]
    fn a_state_that_is_long_or_wrong_stays_out_of_spans() {
        let state_of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(TRACESTATE, HeaderValue::from_str(value).unwrap());
            }
            state(&headers).header()
        };
        assert_eq!(state_of(&["a=1,b=2", "c=3"]), "a=1,b=2,c=3");
        assert_eq!(state_of(&["a"]), "");
        assert_eq!(state_of(&[&format!("a={}", "x".repeat(600))]), "");
        assert_eq!(state_of(&[]), "");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(trace in 1u128.., span in 1u64.., sampled in any::<bool>()) {
            let parent = Parent { trace_id: TraceId::from(trace), span_id: SpanId::from(span), sampled };
            assert_eq!(parse(&write(parent.trace_id, parent.span_id, sampled)), Some(parent));
        }

        #[test]
        fn any_bytes_can_be_read(text in vec(any::<u8>(), 0..120)) {
            let _ = parse(&text);
        }

        #[test]
        fn one_wrong_byte_never_panics(at in 0usize..55, byte in any::<u8>()) {
            let mut text = write(TraceId::from(1), SpanId::from(1), true);
            text[at] = byte;
            let _ = parse(&text);
        }
    }
}
