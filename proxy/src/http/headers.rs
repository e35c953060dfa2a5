//! Headers that end at this hop, and those that only a sidecar may set.
//!
//! Invariant: pure.

use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue};

use watchword_policy::header_names::{self, HOP_BY_HOP, is_of_sidecar};

use super::fault::Fault;

/// Who calls, in Envoy's form.
pub(crate) const CLIENT_CERT: HeaderName = HeaderName::from_static(header_names::CLIENT_CERT);
/// Which rule refused a request.
pub(crate) const DENIED: HeaderName = HeaderName::from_static(header_names::DENIED);

/// Whether a header is the sidecar's to set.
pub(crate) fn is_ours(name: &HeaderName) -> bool {
    is_of_sidecar(name.as_str().as_bytes())
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    HOP_BY_HOP.contains(&name.as_str())
}

/// Removes what only a sidecar may say.
pub(crate) fn remove_ours(headers: &mut HeaderMap) {
    remove_those(headers, is_ours);
}

fn remove_those(headers: &mut HeaderMap, which: impl Fn(&HeaderName) -> bool) {
    let unwanted: Vec<HeaderName> = headers.keys().filter(|name| which(name)).cloned().collect();
    for name in unwanted {
        headers.remove(name);
    }
}

/// Removes what concerns one hop only. An upgrade that is allowed is kept with
/// its `Connection: upgrade`.
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) -> Result<(), Fault> {
    // Most requests have none of it.
    if !headers.keys().any(|name| is_hop_by_hop(name) || name == header::TE) {
        return Ok(());
    }
    let upgrade = upgrade_of(headers);
    for name in named_by_connection(headers) {
        if name == header::HOST || name == header::CONTENT_LENGTH {
            return Err(Fault::Connection);
        }
        if name != header::TE && name != header::TRAILER {
            headers.remove(name);
        }
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
    let takes_trailers = listed(headers, &header::TE).any(|token| token.eq_ignore_ascii_case("trailers"));
    headers.remove(header::TE);
    if takes_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if let Some(protocol) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol);
    }
    Ok(())
}

/// Trailers carry no headers that decide, and none of ours.
pub(crate) fn clean_trailers(trailers: &mut HeaderMap) {
    let forbidden = |name: &HeaderName| {
        is_ours(name)
            || is_hop_by_hop(name)
            || [
                header::HOST,
                header::CONTENT_LENGTH,
                header::TE,
                header::TRAILER,
                header::AUTHORIZATION,
                header::COOKIE,
                header::CONTENT_TYPE,
                header::CONTENT_ENCODING,
            ]
            .contains(name)
    };
    remove_those(trailers, forbidden);
}

/// The protocol that the caller wants to go on with. Not HTTP/2: requests on it
/// would pass unseen.
fn upgrade_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let wanted = listed(headers, &header::CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"));
    let mut protocols = headers.get_all(header::UPGRADE).iter();
    let (protocol, another) = (protocols.next()?, protocols.next());
    let is_http = |token: &str| {
        let token = token.trim().to_ascii_lowercase();
        token.starts_with("h2") || token.starts_with("http") || token.starts_with("tls")
    };
    let text = protocol.to_str().ok()?;
    (wanted && another.is_none() && !text.split(',').any(is_http)).then(|| protocol.clone())
}

fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    listed(headers, &header::CONNECTION)
        .filter(|token| !token.eq_ignore_ascii_case("close"))
        .filter_map(|token| HeaderName::try_from(token).ok())
        .collect()
}

/// The items of a header that is a list, over all its lines.
fn listed<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    let lines = headers.get_all(name).into_iter();
    lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}
