//! Answers that the sidecar itself gives: a denial, a request that is refused,
//! an app that can't be reached.
//!
//! Invariants: a gRPC caller gets a status of gRPC, everybody else one of HTTP;
//! both learn the rule from `watchword-denied`, another trust domain only the
//! reason.

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderValue, Response, StatusCode};

use super::body::Answer;
use super::fault::Fault;
use super::headers::DENIED;
use crate::refusal::{Refusal, Why};

/// gRPC status codes (grpc/grpc, doc/statuscodes.md).
const PERMISSION_DENIED: HeaderValue = HeaderValue::from_static("7");
const UNAVAILABLE: HeaderValue = HeaderValue::from_static("14");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// To a call that policies deny.
pub(crate) fn denied(refusal: &Refusal, same_domain: bool, grpc: bool) -> Response<Answer> {
    let (policy, rule) = refusal.named_to(same_domain);
    let named = format!("{}/{}", policy.unwrap_or("-"), rule.unwrap_or(refusal.reason));
    let sentence = match (policy, rule) {
        (Some(policy), Some(rule)) => format!("denied by policy \"{policy}\", rule \"{rule}\""),
        (Some(policy), None) => format!("denied: no rule of policy \"{policy}\" or another one allows it"),
        (None, _) if refusal.why == Why::NoPolicy => "denied: no policy names this service (no-policy)".to_owned(),
        (None, _) => format!("denied: {}", refusal.reason),
    };
    let mut answer = if grpc {
        of_grpc(PERMISSION_DENIED, &sentence)
    } else {
        of_http(StatusCode::FORBIDDEN, &sentence)
    };
    mark(&mut answer, &named);
    answer
}

/// To a request that is none, or can't be judged. The connection ends, where
/// it can't be told where the next request begins.
pub(crate) fn refused(fault: Fault) -> Response<Answer> {
    let mut answer = of_http(fault.status(), &format!("refused: {}", fault.sentence()));
    mark(&mut answer, &format!("-/{}", fault.label()));
    answer
        .headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("close"));
    answer
}

/// To a call that the app did not take, or broke off before it answered.
pub(crate) fn no_app(status: StatusCode, sentence: &str, grpc: bool) -> Response<Answer> {
    if grpc {
        of_grpc(UNAVAILABLE, sentence)
    } else {
        of_http(status, sentence)
    }
}

fn of_http(status: StatusCode, sentence: &str) -> Response<Answer> {
    let body = Bytes::from(format!("{sentence}\n"));
    let mut answer = Response::new(Answer::full(body));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    answer
}

/// Headers alone, which are trailers at once (gRPC over HTTP/2,
/// "Trailers-Only").
fn of_grpc(status: HeaderValue, sentence: &str) -> Response<Answer> {
    let mut answer = Response::new(Answer::empty());
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(GRPC_STATUS, status);
    if let Ok(message) = HeaderValue::try_from(percent_encoded(sentence)) {
        headers.insert(GRPC_MESSAGE, message);
    }
    answer
}

/// Names of policies have no control characters, so this holds them all.
fn mark(answer: &mut Response<Answer>, named: &str) {
    if let Ok(named) = HeaderValue::from_bytes(named.as_bytes()) {
        answer.headers_mut().insert(DENIED, named);
    }
}

/// As gRPC wants its messages: visible ASCII but for `%` (gRPC over HTTP/2,
/// "Percent-Encoded").
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if (b' '..=b'~').contains(&byte) && byte != b'%' {
            encoded.push(byte.into());
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(policy: Option<&str>, rule: Option<&str>) -> Refusal {
        Refusal {
            policy: policy.map(Into::into),
            rule: rule.map(Into::into),
            ..Refusal::of(crate::refusal::Why::NoAllowRule)
        }
    }

    fn header(answer: &Response<Answer>, name: &str) -> String {
        let value = answer
            .headers()
            .get(name)
            .map(HeaderValue::as_bytes)
            .unwrap_or_default();
        String::from_utf8_lossy(value).into_owned()
    }

    #[test]
    fn a_denial_names_rule_or_reason_and_to_strangers_only_the_reason() {
        let table = [
            (Some("orders"), Some("not Zoë's"), true, "orders/not Zoë's"),
            (Some("orders"), None, true, "orders/no-allow-rule"),
            (None, None, true, "-/no-allow-rule"),
            (Some("orders"), Some("not the lab"), false, "-/no-allow-rule"),
        ];
        for (policy, rule, same_domain, expected) in table {
            for grpc in [false, true] {
                let answer = denied(&refusal(policy, rule), same_domain, grpc);
                assert_eq!(header(&answer, "watchword-denied"), expected);
                let status = if grpc { 200 } else { 403 };
                assert_eq!(answer.status(), status);
                assert_eq!(header(&answer, "grpc-status"), if grpc { "7" } else { "" });
            }
        }
        let answer = denied(&refusal(Some("orders"), Some("not Zoë's")), true, true);
        let message = "denied by policy \"orders\", rule \"not Zo%C3%AB's\"";
        assert_eq!(header(&answer, "grpc-message"), message);
    }
}
