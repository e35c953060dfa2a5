//! Which SPIFFE IDs are meant: one, or all below a path.
//!
//! Invariant: whatever is inside an [`IdPattern`] is canonical as the SPIFFE
//! ID standard (sections 2.1 to 2.3) has it, so equality of texts is equality
//! of identities. It knows neither policies nor files.

use std::fmt;
use std::str::FromStr;

use spiffe::{SpiffeId, SpiffeIdError, TrustDomain};

/// The longest SPIFFE ID in bytes (SPIFFE ID standard, section 2.3).
const MAX_ID_BYTES: usize = 2048;

/// One SPIFFE ID, or all below a path. Parses from and displays as
/// `spiffe://td/path` or `spiffe://td/path/*`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IdPattern {
    /// Just this ID, which has a path.
    Exact(SpiffeId),
    /// Every ID below a path.
    Prefix(IdPrefix),
}

/// Every ID below a path: `spiffe://td/a/*` matches `spiffe://td/a/b` and
/// deeper, not `spiffe://td/a`; `spiffe://td/*` matches every ID of the trust
/// domain that has a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdPrefix {
    trust_domain: TrustDomain,
    /// Empty, or begins with a slash; never ends with one.
    path: String,
}

/// Why a text is not a SPIFFE ID or an [`IdPattern`].
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PatternError {
    /// The SPIFFE standard forbids it.
    #[error("expected spiffe://TRUST-DOMAIN/PATH: {0}")]
    Invalid(#[from] SpiffeIdError),
    /// There is another spelling of the same ID, and only that may be used.
    #[error("a SPIFFE ID is written in its canonical form: {canonical}")]
    NotCanonical {
        /// The ID as it is to be written.
        canonical: String,
    },
    /// It names a trust domain, which is not a workload.
    #[error("expected spiffe://TRUST-DOMAIN/PATH: the path is missing")]
    NoPath,
    /// `*` stands where it means nothing.
    #[error("`*` may only be the whole last segment of a path, as in spiffe://TRUST-DOMAIN/PATH/*")]
    Wildcard,
    /// It is longer than the standard allows.
    #[error("a SPIFFE ID has at most {MAX_ID_BYTES} bytes")]
    TooLong,
}

/// Parses the SPIFFE ID of a workload, strictly: canonical, and with a path.
///
/// # Errors
/// [`PatternError`], never [`PatternError::Wildcard`].
pub fn parse_workload_id(text: &str) -> Result<SpiffeId, PatternError> {
    let id = parse_canonical(text)?;
    if id.path().is_empty() {
        return Err(PatternError::NoPath);
    }
    Ok(id)
}

impl IdPattern {
    /// Whether `id` is one of those that are meant.
    #[must_use]
    pub fn matches(&self, id: &SpiffeId) -> bool {
        match self {
            Self::Exact(own) => own == id,
            Self::Prefix(prefix) => prefix.matches(id),
        }
    }

    /// Whether this matches all that `other` matches.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::Exact(id)) => self.matches(id),
            (Self::Exact(_), Self::Prefix(_)) => false,
            (Self::Prefix(own), Self::Prefix(other)) => own == other || own.is_above(&other.trust_domain, &other.path),
        }
    }

    /// The trust domain of all that it matches.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        match self {
            Self::Exact(id) => id.trust_domain(),
            Self::Prefix(prefix) => &prefix.trust_domain,
        }
    }

    /// Whether it matches every workload of its trust domain.
    #[must_use]
    pub fn is_whole_trust_domain(&self) -> bool {
        matches!(self, Self::Prefix(prefix) if prefix.path.is_empty())
    }
}

impl IdPrefix {
    /// The path without its `/*`: empty for a whole trust domain.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    fn matches(&self, id: &SpiffeId) -> bool {
        self.is_above(id.trust_domain(), id.path())
    }

    fn is_above(&self, trust_domain: &TrustDomain, path: &str) -> bool {
        let below = path.strip_prefix(self.path.as_str());
        *trust_domain == self.trust_domain && below.is_some_and(|below| below.starts_with('/'))
    }
}

impl FromStr for IdPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let Some(above) = text.strip_suffix("/*") else {
            if text.contains('*') {
                return Err(PatternError::Wildcard);
            }
            return parse_workload_id(text).map(Self::Exact);
        };
        // `spiffe://*` stands for no trust domain in particular.
        if above.contains('*') || above.ends_with(":/") {
            return Err(PatternError::Wildcard);
        }
        let id = parse_canonical(above)?;
        Ok(Self::Prefix(IdPrefix {
            trust_domain: id.trust_domain().clone(),
            path: id.path().to_owned(),
        }))
    }
}

impl fmt::Display for IdPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(id) => id.fmt(f),
            Self::Prefix(prefix) => {
                write!(f, "spiffe://{}{}/*", prefix.trust_domain, prefix.path)
            }
        }
    }
}

fn parse_canonical(text: &str) -> Result<SpiffeId, PatternError> {
    if text.len() > MAX_ID_BYTES {
        return Err(PatternError::TooLong);
    }
    let id = SpiffeId::new(text)?;
    let canonical = id.to_string();
    if canonical != text {
        return Err(PatternError::NotCanonical { canonical });
    }
    Ok(id)
}

#[cfg(test)]
mod tests;
