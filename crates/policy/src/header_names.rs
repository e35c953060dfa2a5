//! Names of headers that no caller decides by: what ends at a hop, and what
//! only a sidecar says. The proxy removes them, and no rule may ask for them.
//!
//! Invariant: both go by the lists that stand here, so that they agree.

/// Who calls, in Envoy's form.
pub const CLIENT_CERT: &str = "x-forwarded-client-cert";
/// Which rule refused a request.
pub const DENIED: &str = "watchword-denied";
/// What is wrong with a request; between parts of a sidecar only.
pub const REFUSED: &str = "watchword-refused";

/// What is about one hop (RFC 9110, section 7.6.1), and what older clients
/// send. `Trailer`, and `TE: trailers`, concern one hop too, but are passed on,
/// since trailers are.
pub const HOP_BY_HOP: [&str; 6] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "http2-settings",
    "transfer-encoding",
    "upgrade",
];

/// Whether only a sidecar may set this header.
#[must_use]
pub fn is_of_sidecar(name: &[u8]) -> bool {
    [CLIENT_CERT, DENIED, REFUSED]
        .iter()
        .any(|other| is_read_as(name, other))
}

/// Whether an app may take `name`, in any case, for `other`, which is in lower
/// case: some read `_` as `-`.
#[must_use]
pub fn is_read_as(name: &[u8], other: &str) -> bool {
    let folded = |byte: &u8| if *byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    name.len() == other.len() && name.iter().map(folded).eq(other.bytes())
}

/// Whether it is a token (RFC 9110, section 5.6.2), as methods and names of
/// headers are.
#[must_use]
pub fn is_token(text: &[u8]) -> bool {
    let good = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !text.is_empty() && text.iter().all(good)
}
