//! Conditions on headers of a request.
//!
//! Invariant: whatever is inside a [`HeaderMatch`] can reach a policy: headers
//! that are removed, replaced or not passed on before are refused here.

use std::fmt;
use std::str::FromStr;

use http::HeaderName;

use crate::header_names::{HOP_BY_HOP, is_of_sidecar, is_read_as, is_token};

/// The longest name, and the longest value, in bytes.
const MAX_NAME: usize = 256;
const MAX_VALUE: usize = 4096;

/// A condition on one header.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HeaderMatch {
    name: HeaderName,
    condition: HeaderCondition,
}

/// What must hold of a header. A header may come in several lines: an allow
/// rule needs the condition of a value to hold for all of them, a deny rule
/// for any.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HeaderCondition {
    /// The value is this.
    Exact(HeaderText),
    /// The value begins with this, which is not empty.
    Prefix(HeaderText),
    /// It is there, or it is not.
    Present(bool),
}

/// What can stand in the value of a header: no control characters, and no
/// space at the start.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HeaderText(String);

/// Why a [`HeaderMatch`] can't be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The name is not a token.
    #[error("expected the name of a header: 1 to {MAX_NAME} letters, digits or any of !#$%&'*+-.^_`|~")]
    Name,
    /// `:path` and so on.
    #[error("pseudo-headers are no headers: use `methods`, `paths` and `hosts`")]
    Pseudo,
    /// The host has a key of its own.
    #[error("`{0}` can't be matched as a header: use `hosts`")]
    Host(String),
    /// It concerns one hop only.
    #[error("`{0}` concerns one hop of a connection and is removed before policies are asked: leave it out")]
    HopByHop(String),
    /// It says how the body is sent.
    #[error("`{0}` says how a body is sent, not what is asked for: leave it out")]
    Framing(String),
    /// The sidecar writes it.
    #[error("`{0}` is written by the sidecar, never taken from a caller: use `from` to say who calls")]
    OfSidecar(String),
    /// Control characters, or too long.
    #[error("the value of a header has at most {MAX_VALUE} bytes, and no control characters")]
    Value,
    /// Spaces around it.
    #[error("the value of a header has no spaces around it, so this can never match: write \"{0}\"")]
    Spaces(String),
    /// A prefix of nothing.
    #[error("every value begins with nothing: write {{present: true}}")]
    EmptyPrefix,
}

impl HeaderMatch {
    /// A condition on the header `name`, which may be in any case.
    ///
    /// # Errors
    /// [`HeaderError`] where it could never match, or could not be relied on.
    pub fn new(name: &str, condition: HeaderCondition) -> Result<Self, HeaderError> {
        let name = header_name(name)?;
        if let HeaderCondition::Exact(value) = &condition {
            let trimmed = value.0.trim_end_matches(' ');
            if trimmed != value.0 {
                return Err(HeaderError::Spaces(trimmed.to_owned()));
            }
        }
        if matches!(&condition, HeaderCondition::Prefix(value) if value.0.is_empty()) {
            return Err(HeaderError::EmptyPrefix);
        }
        Ok(Self { name, condition })
    }

    /// The header.
    #[must_use]
    pub fn name(&self) -> &HeaderName {
        &self.name
    }

    /// What must hold of it.
    #[must_use]
    pub fn condition(&self) -> &HeaderCondition {
        &self.condition
    }

    /// Whether this holds wherever `other` does: for an allow rule `other`,
    /// which needs it of every line, and a deny rule that has this.
    #[must_use]
    pub(crate) fn follows_from(&self, other: &Self) -> bool {
        use HeaderCondition::{Exact, Prefix, Present};
        let condition = match (&other.condition, &self.condition) {
            (Exact(value), Exact(own)) => value == own,
            (Exact(value) | Prefix(value), Prefix(own)) => value.0.starts_with(&own.0),
            (Exact(_) | Prefix(_), Present(own)) => *own,
            (Present(value), Present(own)) => value == own,
            (Prefix(_), Exact(_)) | (Present(_), Exact(_) | Prefix(_)) => false,
        };
        condition && self.name == other.name
    }
}

impl HeaderText {
    /// As it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HeaderText {
    type Err = HeaderError;

    fn from_str(text: &str) -> Result<Self, HeaderError> {
        if text.len() > MAX_VALUE || text.chars().any(char::is_control) {
            return Err(HeaderError::Value);
        }
        // A prefix may well end in a space: `Bearer `.
        let trimmed = text.trim_start_matches(' ');
        if trimmed != text {
            return Err(HeaderError::Spaces(trimmed.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for HeaderText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn header_name(text: &str) -> Result<HeaderName, HeaderError> {
    if text.starts_with(':') {
        return Err(HeaderError::Pseudo);
    }
    if text.len() > MAX_NAME || !is_token(text.as_bytes()) {
        return Err(HeaderError::Name);
    }
    let name = HeaderName::from_bytes(text.as_bytes()).map_err(|_| HeaderError::Name)?;
    // Some apps read `_` as `-`, so such a spelling is treated like the other.
    let is = |other: &&str| is_read_as(name.as_str().as_bytes(), other);
    if is(&"host") {
        Err(HeaderError::Host(text.to_owned()))
    } else if HOP_BY_HOP.iter().any(is) || is(&"te") || is(&"trailer") {
        Err(HeaderError::HopByHop(text.to_owned()))
    } else if is(&"content-length") {
        Err(HeaderError::Framing(text.to_owned()))
    } else if is_of_sidecar(name.as_str().as_bytes()) {
        Err(HeaderError::OfSidecar(text.to_owned()))
    } else {
        Ok(name)
    }
}
