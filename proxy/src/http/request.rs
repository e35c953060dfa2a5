//! A request as it came, made into the one that is judged and then sent on:
//! one host, a normalised path, no header of the hop before or of a liar.
//!
//! Invariants: pure; what is judged is what is sent. What can't be brought to
//! one meaning is a [`Fault`].

use std::borrow::Cow;

use http::header;
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Method, Uri, Version};
use watchword_policy::path::normalise;

use super::fault::Fault;
use super::headers::{remove_hop_by_hop, remove_ours};
use crate::facts::Facts;

/// Cleans `parts` in place, so that they can be sent on, and says what is to be
/// judged.
pub(crate) fn clean(parts: &mut Parts) -> Result<Facts, Fault> {
    if parts.method == Method::CONNECT {
        return Err(Fault::Connect);
    }
    let (host, authority) = one_host(parts)?;
    let target = target(parts)?;
    remove_hop_by_hop(&mut parts.headers)?;
    remove_ours(&mut parts.headers);
    if parts.version == Version::HTTP_2 {
        // It stands in the target.
        parts.headers.remove(header::HOST);
    }
    parts.uri = uri(parts.version, target, authority)?;
    Ok(Facts {
        method: parts.method.clone(),
        host,
        uri: parts.uri.clone(),
        headers: parts.headers.clone(),
    })
}

/// The one host that the request is for (RFC 9112 section 3.2, RFC 9113
/// section 8.3.1). Two that differ are two meanings.
fn one_host(parts: &mut Parts) -> Result<(Option<HeaderValue>, Option<Authority>), Fault> {
    let mut given = parts.headers.get_all(header::HOST).iter();
    let (first, second) = (given.next().cloned(), given.next());
    if second.is_some() {
        return Err(Fault::Host);
    }
    let from_header = match &first {
        Some(value) => Some(authority(value)?),
        None => None,
    };
    let from_target = parts.uri.authority().cloned();
    if from_target.as_ref().is_some_and(|found| found.as_str().contains('@')) {
        return Err(Fault::Host);
    }
    match (from_header, from_target) {
        (Some(header), Some(target)) if header != target => Err(Fault::Host),
        (None, None) if parts.version != Version::HTTP_10 => Err(Fault::Host),
        (None, Some(_)) if parts.version < Version::HTTP_2 => Err(Fault::Host),
        (None, Some(target)) => {
            let value = HeaderValue::from_str(target.as_str()).map_err(|_| Fault::Host)?;
            Ok((Some(value), Some(target)))
        }
        (header, _) => Ok((first, header)),
    }
}

fn authority(value: &HeaderValue) -> Result<Authority, Fault> {
    let authority = Authority::try_from(value.as_bytes()).map_err(|_| Fault::Host)?;
    let plain = !authority.as_str().contains('@') && !authority.host().is_empty();
    plain.then_some(authority).ok_or(Fault::Host)
}

/// Path, normalised, and query.
fn target(parts: &Parts) -> Result<PathAndQuery, Fault> {
    let scheme_fits = match parts.uri.scheme_str() {
        None | Some("http") => true,
        // Some gRPC clients say so over any connection.
        Some("https") => parts.version == Version::HTTP_2,
        Some(_) => false,
    };
    let given = parts
        .uri
        .path_and_query()
        .filter(|_| scheme_fits)
        .ok_or(Fault::Target)?;
    if given.path() == "*" {
        let is_options = parts.method == Method::OPTIONS && given.query().is_none();
        return is_options.then(|| given.clone()).ok_or(Fault::Target);
    }
    match (normalise(given.path()).map_err(Fault::Path)?, given.query()) {
        (Cow::Borrowed(_), _) => Ok(given.clone()),
        (Cow::Owned(path), None) => PathAndQuery::try_from(path).map_err(|_| Fault::Target),
        (Cow::Owned(path), Some(query)) => PathAndQuery::try_from(format!("{path}?{query}")).map_err(|_| Fault::Target),
    }
}

/// HTTP/1 gets the path alone, and the host by its header; HTTP/2 has it in the
/// target.
fn uri(version: Version, target: PathAndQuery, authority: Option<Authority>) -> Result<Uri, Fault> {
    let mut uri = http::uri::Parts::default();
    uri.path_and_query = Some(target);
    if version == Version::HTTP_2 {
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = Some(authority.ok_or(Fault::Host)?);
    }
    Uri::from_parts(uri).map_err(|_| Fault::Target)
}

#[cfg(test)]
mod tests;
