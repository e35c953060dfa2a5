//! Requests that get no secret, and how that is said.

use thiserror::Error;
use tonic::Status;
use watchword_proto::sds::SECRET_TYPE;

use super::names::known;
use crate::workloads::Material;

/// Names on one stream.
pub(super) const MAX_NAMES: usize = 64;
/// Of a name, in bytes: the longest SPIFFE ID.
pub(super) const MAX_NAME: usize = 2048;
/// Names in an error.
const SHOWN_NAMES: usize = 8;

/// A request that can't be served.
#[derive(Debug, Error)]
pub(super) enum Wrong {
    #[error("{0} is no type of this service: only {expected} is", expected = SECRET_TYPE)]
    Type(String),
    #[error("{0} names on one stream: {MAX_NAMES} at most")]
    TooManyNames(usize),
    #[error("a name has {0} bytes: {MAX_NAME} at most")]
    LongName(usize),
}

/// None of the names is known.
#[derive(Debug, Error)]
#[error("no secret is named {missing}; known here: {known}")]
pub(super) struct Missing {
    missing: String,
    known: String,
}

impl Missing {
    pub(super) fn new(missing: Vec<String>, material: &Material) -> Self {
        Self {
            missing: list(&missing),
            known: list(&known(material)),
        }
    }
}

fn list(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(SHOWN_NAMES).map(|name| format!("{name:?}")).collect();
    shown.join(", ")
}

/// A client need not say the type: there is one alone.
pub(super) fn check_type(type_url: &str) -> Result<(), Wrong> {
    match type_url {
        "" | SECRET_TYPE => Ok(()),
        other => Err(Wrong::Type(other.to_owned())),
    }
}

pub(super) fn check_names(names: impl IntoIterator<Item: AsRef<str>>) -> Result<(), Wrong> {
    let mut count = 0;
    for name in names {
        count += 1;
        let length = name.as_ref().len();
        if length > MAX_NAME {
            return Err(Wrong::LongName(length));
        }
    }
    if count > MAX_NAMES {
        return Err(Wrong::TooManyNames(count));
    }
    Ok(())
}

/// Why a request has no answer.
#[derive(Debug, Error)]
pub(super) enum Refusal {
    #[error(transparent)]
    Wrong(#[from] Wrong),
    #[error(transparent)]
    Missing(#[from] Missing),
}

impl From<Wrong> for Status {
    fn from(wrong: Wrong) -> Self {
        Self::invalid_argument(wrong.to_string())
    }
}

impl From<Missing> for Status {
    fn from(missing: Missing) -> Self {
        Self::not_found(missing.to_string())
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Wrong(wrong) => wrong.into(),
            Refusal::Missing(missing) => missing.into(),
        }
    }
}
