//! Methods of HTTP.

use std::fmt;
use std::str::FromStr;

use crate::header_names::is_token;

/// The longest method in bytes.
const MAX_BYTES: usize = 64;

/// <https://www.iana.org/assignments/http-methods>, without CONNECT and PRI.
const REGISTERED: &[&str] = &[
    "ACL",
    "BASELINE-CONTROL",
    "BIND",
    "CHECKIN",
    "CHECKOUT",
    "COPY",
    "DELETE",
    "GET",
    "HEAD",
    "LABEL",
    "LINK",
    "LOCK",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MKREDIRECTREF",
    "MKWORKSPACE",
    "MOVE",
    "OPTIONS",
    "ORDERPATCH",
    "PATCH",
    "POST",
    "PROPFIND",
    "PROPPATCH",
    "PUT",
    "QUERY",
    "REBIND",
    "REPORT",
    "SEARCH",
    "TRACE",
    "UNBIND",
    "UNCHECKOUT",
    "UNLINK",
    "UNLOCK",
    "UPDATE",
    "UPDATEREDIRECTREF",
    "VERSION-CONTROL",
];

/// A method that a request may have: a token without lower-case letters, and
/// not CONNECT.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Method(String);

/// Why a text is not a [`Method`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MethodError {
    /// Methods are case-sensitive.
    #[error("methods are case-sensitive, so this can never match: write {0}")]
    LowerCase(String),
    /// It asks for a tunnel.
    #[error("CONNECT is never passed on, so this can never match: leave it out")]
    Connect,
    /// There is no such thing as all methods but by leaving them out.
    #[error("`*` is not a method: leave `methods` out to mean all")]
    Wildcard,
    /// It is not a token (RFC 9110, section 5.6.2), or too long.
    #[error("expected a method such as GET: 1 to {MAX_BYTES} letters, digits or any of !#$%&'*+-.^_`|~")]
    Token,
}

impl Method {
    /// As it stands in a request.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the IANA registry knows it.
    #[must_use]
    pub fn is_registered(&self) -> bool {
        REGISTERED.contains(&self.as_str())
    }
}

impl FromStr for Method {
    type Err = MethodError;

    fn from_str(text: &str) -> Result<Self, MethodError> {
        if text == "*" {
            return Err(MethodError::Wildcard);
        }
        if !is_token(text.as_bytes()) || text.len() > MAX_BYTES {
            return Err(MethodError::Token);
        }
        let upper = text.to_ascii_uppercase();
        if upper == "CONNECT" {
            return Err(MethodError::Connect);
        }
        if upper != text {
            return Err(MethodError::LowerCase(upper));
        }
        Ok(Self(upper))
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
