//! What is wrong with a request that is refused without asking policies.
//!
//! Closed: each has a label, a status and a sentence.

use http::StatusCode;
use watchword_policy::header_names;
use watchword_policy::path::PathError;

/// The header by which the strict reader tells the service, through the HTTP
/// library, that the bytes at this place are no request. A request that brings
/// it along is refused.
pub(crate) const MARK: &str = header_names::REFUSED;

/// Why a request is refused as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    BareLf,
    BareCr,
    ObsFold,
    RequestLine,
    Version,
    HeaderName,
    HeaderValue,
    ContentLength,
    TransferEncoding,
    BothLengths,
    Chunk,
    Trailer,
    HeadTooLarge,
    SlowHead,
    ReservedHeader,
    Host,
    Connection,
    Connect,
    Target,
    Path(PathError),
}

impl Fault {
    /// All that the strict reader finds.
    const OF_BYTES: [Self; 15] = [
        Self::BareLf,
        Self::BareCr,
        Self::ObsFold,
        Self::RequestLine,
        Self::Version,
        Self::HeaderName,
        Self::HeaderValue,
        Self::ContentLength,
        Self::TransferEncoding,
        Self::BothLengths,
        Self::Chunk,
        Self::Trailer,
        Self::HeadTooLarge,
        Self::SlowHead,
        Self::ReservedHeader,
    ];

    /// From the value of [`MARK`].
    pub(crate) fn from_mark(label: &[u8]) -> Option<Self> {
        Self::OF_BYTES
            .into_iter()
            .find(|fault| fault.label().as_bytes() == label)
    }

    /// In logs, metrics and what the caller is told.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::BareLf => "bare-lf",
            Self::BareCr => "bare-cr",
            Self::ObsFold => "obs-fold",
            Self::RequestLine => "request-line",
            Self::Version => "http-version",
            Self::HeaderName => "header-name",
            Self::HeaderValue => "header-value",
            Self::ContentLength => "content-length",
            Self::TransferEncoding => "transfer-encoding",
            Self::BothLengths => "two-lengths",
            Self::Chunk => "chunk",
            Self::Trailer => "trailer",
            Self::HeadTooLarge => "head-too-large",
            Self::SlowHead => "slow-head",
            Self::ReservedHeader => "reserved-header",
            Self::Host => "host",
            Self::Connection => "connection-header",
            Self::Connect => "connect",
            Self::Target => "request-target",
            Self::Path(error) => error.label(),
        }
    }

    /// RFC 9110 section 15.5; 431 is RFC 6585's.
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::SlowHead => StatusCode::REQUEST_TIMEOUT,
            Self::Connect => StatusCode::METHOD_NOT_ALLOWED,
            Self::Path(PathError::TooLong) => StatusCode::URI_TOO_LONG,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// For people.
    pub(crate) fn sentence(self) -> String {
        let fixed = match self {
            Self::BareLf => "a line ends with LF alone, not with CRLF",
            Self::BareCr => "a CR stands without LF behind it",
            Self::ObsFold => "a header line goes on in the next one",
            Self::RequestLine => "the first line is not METHOD TARGET HTTP/1.1",
            Self::Version => "only HTTP/1.0, HTTP/1.1 and HTTP/2 are spoken here",
            Self::HeaderName => "a header's name has a character that it may not have",
            Self::HeaderValue => "a header's value has a control character",
            Self::ContentLength => "Content-Length is not one number",
            Self::TransferEncoding => "Transfer-Encoding is not `chunked` alone, or not of HTTP/1.1",
            Self::BothLengths => "both Content-Length and Transfer-Encoding are given",
            Self::Chunk => "a chunk of the body is malformed",
            Self::Trailer => "a trailer is malformed, or may not be one",
            Self::HeadTooLarge => "the head is too large",
            Self::SlowHead => "the head took too long to come",
            Self::ReservedHeader => "a header is reserved for the sidecar",
            Self::Host => "exactly one Host is needed, the same as in the target",
            Self::Connection => "`Connection` names a header that is not for one hop only",
            Self::Connect => "CONNECT and tunnels are not served",
            Self::Target => "the target is neither a path, nor an absolute http URI, nor `*` of OPTIONS",
            Self::Path(error) => return format!("the path can't be normalised: {error}"),
        };
        fixed.to_owned()
    }
}
