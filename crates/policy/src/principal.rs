//! Who calls, and whom a rule means.
//!
//! Invariant: nobody is `unauthenticated` by a SPIFFE ID, and no pattern of
//! SPIFFE IDs matches who has none.

use std::fmt;
use std::str::FromStr;

use spiffe::SpiffeId;

use crate::pattern::{IdPattern, PatternError, parse_workload_id};

/// As a caller without an identity stands in `from`, in logs and in metrics.
pub const UNAUTHENTICATED: &str = "unauthenticated";

/// Whether a mesh lets callers without an identity be judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Who proves no identity is refused.
    #[default]
    Strict,
    /// Rules for `unauthenticated` say what such callers may do.
    Permissive,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Strict, Self::Permissive];

    /// As it is written in files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Permissive => "permissive",
        }
    }
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Principal {
    /// It has proved this ID.
    Workload(SpiffeId),
    /// It has proved nothing: its bytes come in plaintext.
    Unauthenticated,
}

impl Principal {
    /// The ID that was proved.
    #[must_use]
    pub fn id(&self) -> Option<&SpiffeId> {
        match self {
            Self::Workload(id) => Some(id),
            Self::Unauthenticated => None,
        }
    }
}

impl FromStr for Principal {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if text == UNAUTHENTICATED {
            return Ok(Self::Unauthenticated);
        }
        parse_workload_id(text).map(Self::Workload)
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload(id) => id.fmt(f),
            Self::Unauthenticated => f.write_str(UNAUTHENTICATED),
        }
    }
}

/// Whom an item of `from` means.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Callers {
    /// Workloads that have proved such an ID.
    Workloads(IdPattern),
    /// Everybody who has proved none; nobody in strict mode.
    Unauthenticated,
}

impl FromStr for Callers {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if text == UNAUTHENTICATED {
            return Ok(Self::Unauthenticated);
        }
        text.parse().map(Self::Workloads)
    }
}

impl fmt::Display for Callers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workloads(pattern) => pattern.fmt(f),
            Self::Unauthenticated => f.write_str(UNAUTHENTICATED),
        }
    }
}
