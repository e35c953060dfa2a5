//! What policies are asked about of a request, kept for as long as it lives:
//! they may change meanwhile.
//!
//! Invariant: as it was judged, so it was sent.

use http::header;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Uri};

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) method: Method,
    pub(crate) host: Option<HeaderValue>,
    /// As it is sent on: its path is in its normal form.
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
}

impl Facts {
    pub(crate) fn as_request(&self) -> watchword_policy::Request<'_> {
        watchword_policy::Request {
            method: self.method.as_str(),
            path: self.path(),
            host: self.host.as_ref().and_then(|host| host.to_str().ok()),
            headers: &self.headers,
        }
    }

    /// Without the query.
    pub(crate) fn path(&self) -> &str {
        self.uri.path()
    }

    /// The same request as was judged, without a body.
    pub(crate) fn restore(&self, parts: &mut Parts) {
        parts.method = self.method.clone();
        parts.headers = self.headers.clone();
        parts.uri = self.uri.clone();
    }

    /// Whether the caller expects an answer in gRPC's form.
    pub(crate) fn is_grpc(&self) -> bool {
        is_grpc(&self.headers)
    }
}

/// Whether these are the headers of a gRPC call.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let rest = kind.and_then(|kind| kind.strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_is_told_by_its_content_type() {
        let table = [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;x=y", true),
            ("application/grpc-web", false),
            ("application/grpcish", false),
            ("text/plain", false),
        ];
        for (kind, expected) in table {
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(kind))]);
            assert_eq!(is_grpc(&headers), expected, "{kind}");
        }
    }
}
