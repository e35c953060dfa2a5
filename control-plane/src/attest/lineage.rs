//! Lineages: which SVID may be replaced by which. A stolen key must not renew
//! itself for ever.
//!
//! Invariants:
//! - A lineage has at most one current and one pending SVID. The first use of
//!   the pending one makes it current, and retires the one before.
//! - Only the current one renews. While its successor is pending, it gets the
//!   same successor again, and only for the same key.
//! - What is issued to a workload that a lineage speaks for belongs to none: it
//!   renews nothing, and is forgotten when it has expired.
//! - The use of a retired serial means that two parties hold keys of one
//!   lineage. It is frozen: nothing is issued to it any more, by nobody.

use std::time::SystemTime;

use thiserror::Error;
use watchword_identity::{SpiffeId, Svid};

use crate::csr::KeyDigest;
use crate::store::{IssuedSvid, Lineage, LineageKey, State, unix_seconds};

/// More lineages than that are not kept at a time.
const MAX_LINEAGES: usize = 65_536;
/// Replaced and unexpired serials of one lineage: renewing at half-life makes
/// two, so many mean a caller in a hot loop.
const MAX_RETIRED: usize = 32;
/// Unexpired SVIDs of workloads that one lineage speaks for.
const MAX_WORKLOADS: usize = 1024;

/// Why a lineage does not go on. Closed: each has a label.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LineageError {
    /// Not issued here, or forgotten.
    #[error("the SVID with serial {0} is unknown here: attest again, with a new join token")]
    Unknown(String),
    /// It was replaced: somebody else has a newer one.
    #[error(
        "the SVID with serial {0} was replaced before: its lineage is frozen, since two parties hold its keys; find out who, then attest again with a new join token"
    )]
    Retired(String),
    /// Frozen by an earlier alarm.
    #[error("the lineage of the SVID with serial {0} is frozen: attest again, with a new join token")]
    Frozen(String),
    /// Its successor was issued to another key.
    #[error(
        "the successor of the SVID with serial {0} was issued to another key: ask again with that key; if it is not this workload's, the SVID was stolen"
    )]
    OtherKeyPending(String),
    /// The request has the key that it is to replace.
    #[error("the request has the same key as the SVID that it is to replace: make a fresh one")]
    SameKey,
    /// For another ID than the SVID's.
    #[error("the SVID is for {svid}, but the request is for {requested}")]
    OtherId {
        /// As the SVID says.
        svid: String,
        /// As the request says.
        requested: String,
    },
    /// Renewing in a hot loop.
    #[error("{MAX_RETIRED} unexpired SVIDs of this lineage were replaced already: renew less often")]
    TooOften,
    /// A call that its caller's renewal has overtaken.
    #[error("the SVID with serial {0} was replaced meanwhile: ask again with the newer one")]
    Replaced(String),
    /// Too many workloads, or one in a hot loop.
    #[error(
        "{MAX_WORKLOADS} unexpired SVIDs were issued to workloads behind this one already: wait until some have expired"
    )]
    TooManyWorkloads,
    /// There are too many lineages.
    #[error("there are {MAX_LINEAGES} lineages already: wait until some have expired")]
    TooMany,
}

impl LineageError {
    /// A label for logs and metrics: kebab-case, from a closed set.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Unknown(_) => "serial-unknown",
            Self::Retired(_) => "serial-retired",
            Self::Frozen(_) => "lineage-frozen",
            Self::OtherKeyPending(_) => "pending-for-other-key",
            Self::SameKey => "same-key",
            Self::OtherId { .. } => "svid-for-other-id",
            Self::TooOften => "renewed-too-often",
            Self::Replaced(_) => "serial-replaced",
            Self::TooManyWorkloads => "too-many-workloads",
            Self::TooMany => "too-many-lineages",
        }
    }

    /// Whether somebody may hold a stolen key.
    pub fn is_alarm(&self) -> bool {
        matches!(self, Self::Retired(_) | Self::OtherKeyPending(_))
    }
}

/// What a renewal entitles to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Renewal {
    /// A successor.
    Fresh,
    /// The successor whose answer was lost: the chain, DER in base64.
    Again(Vec<String>),
}

/// Begins a lineage with an SVID that is not in use yet.
///
/// # Errors
/// [`LineageError::TooMany`].
pub fn begin(state: &mut State, svid: &IssuedSvid, id: &SpiffeId, now: SystemTime) -> Result<LineageKey, LineageError> {
    if state.lineages.len() >= MAX_LINEAGES {
        state.sweep(now);
    }
    if state.lineages.len() >= MAX_LINEAGES {
        return Err(LineageError::TooMany);
    }
    let key = state.next_lineage;
    state.next_lineage += 1;
    let lineage = Lineage {
        id: id.to_string(),
        current: None,
        pending: Some(svid.clone()),
        retired: Default::default(),
        workloads: Default::default(),
        frozen: false,
    };
    state.lineages.insert(key, lineage);
    Ok(key)
}

/// An SVID is used, for whatever: a pending one becomes current.
///
/// # Errors
/// When it is no SVID of a lineage, or a retired one, which freezes it.
pub fn used(state: &mut State, svid: &Svid) -> Result<(), LineageError> {
    promoted(state, svid).map(|_| ())
}

/// An SVID asks for a successor with another key.
///
/// # Errors
/// See [`LineageError`]. A retired serial freezes the lineage, and so does a
/// second key while a successor is pending.
pub fn renew(state: &mut State, svid: &Svid, key: &KeyDigest) -> Result<Renewal, LineageError> {
    let serial = svid.serial();
    let lineage = promoted(state, svid)?;
    if lineage.frozen {
        return Err(LineageError::Frozen(serial.to_owned()));
    }
    if lineage.current.as_ref().is_some_and(|current| current.key == *key) {
        return Err(LineageError::SameKey);
    }
    match &lineage.pending {
        Some(pending) if pending.key == *key => Ok(Renewal::Again(pending.chain.clone())),
        // Two holders of one serial: a thief may have renewed first, and would
        // go on for ever once the honest serial has expired. Our own proxies
        // ask again with the same key until they have an answer.
        Some(_) => {
            lineage.frozen = true;
            Err(LineageError::OtherKeyPending(serial.to_owned()))
        }
        None if lineage.retired.len() >= MAX_RETIRED => Err(LineageError::TooOften),
        None => Ok(Renewal::Fresh),
    }
}

/// Notes the successor that was issued to `svid`'s lineage. When another
/// answer to the same request came first, that one counts, and is returned.
///
/// # Errors
/// As [`renew`]: the lineage may have changed while the authority signed.
pub fn succeed(state: &mut State, svid: &Svid, successor: &IssuedSvid) -> Result<Vec<String>, LineageError> {
    match renew(state, svid, &successor.key)? {
        Renewal::Again(chain) => Ok(chain),
        Renewal::Fresh => {
            if let Some((_, lineage)) = state.lineage_of(svid.serial()) {
                lineage.pending = Some(successor.clone());
            }
            Ok(successor.chain.clone())
        }
    }
}

/// An SVID asks for one for a workload. A retired one gets none, but raises no
/// alarm as in [`renew`]: a call for a workload may cross its caller's renewal.
///
/// # Errors
/// See [`LineageError`].
pub fn speak_for_workload(state: &mut State, svid: &Svid, now: SystemTime) -> Result<(), LineageError> {
    speaking(state, svid, now).map(|_| ())
}

/// Notes what was issued to the workload.
///
/// # Errors
/// As [`speak_for_workload`]: the lineage may have changed while the authority
/// signed.
pub fn spoke_for_workload(
    state: &mut State,
    svid: &Svid,
    issued: (&str, SystemTime),
    now: SystemTime,
) -> Result<(), LineageError> {
    let (serial, not_after) = issued;
    let lineage = speaking(state, svid, now)?;
    lineage.workloads.insert(serial.to_owned(), unix_seconds(not_after));
    Ok(())
}

fn speaking<'a>(state: &'a mut State, svid: &Svid, now: SystemTime) -> Result<&'a mut Lineage, LineageError> {
    let serial = || svid.serial().to_owned();
    let lineage = find(state, svid)?;
    if lineage.retired.contains_key(svid.serial()) {
        // Where nothing is issued to the newer one either, to ask again is no use.
        return Err(match lineage.frozen {
            true => LineageError::Frozen(serial()),
            false => LineageError::Replaced(serial()),
        });
    }
    promote(lineage, svid);
    if lineage.frozen {
        return Err(LineageError::Frozen(serial()));
    }
    if lineage.workloads.len() >= MAX_WORKLOADS {
        let now = unix_seconds(now);
        lineage.workloads.retain(|_, not_after| now <= *not_after);
    }
    if lineage.workloads.len() >= MAX_WORKLOADS {
        return Err(LineageError::TooManyWorkloads);
    }
    Ok(lineage)
}

/// The SVID's lineage, whose current one it becomes. A retired one freezes it.
fn promoted<'a>(state: &'a mut State, svid: &Svid) -> Result<&'a mut Lineage, LineageError> {
    let lineage = find(state, svid)?;
    if lineage.retired.contains_key(svid.serial()) {
        lineage.frozen = true;
        return Err(LineageError::Retired(svid.serial().to_owned()));
    }
    promote(lineage, svid);
    Ok(lineage)
}

fn find<'a>(state: &'a mut State, svid: &Svid) -> Result<&'a mut Lineage, LineageError> {
    let id = svid.id().to_string();
    let found = state.lineage_of(svid.serial()).map(|(_, lineage)| lineage);
    found
        // A serial of ours with another ID can only be another issuer's.
        .filter(|lineage| lineage.id == id)
        .ok_or_else(|| LineageError::Unknown(svid.serial().to_owned()))
}

/// A pending SVID becomes the current one.
fn promote(lineage: &mut Lineage, svid: &Svid) {
    let is_it = |pending: &mut IssuedSvid| pending.serial == svid.serial();
    let Some(mut pending) = lineage.pending.take_if(is_it) else {
        return;
    };
    pending.chain.clear();
    if let Some(old) = lineage.current.replace(pending) {
        lineage.retired.insert(old.serial, old.not_after);
    }
}

/// As an SVID is kept.
pub fn issued(svid: &Svid, key: KeyDigest) -> IssuedSvid {
    IssuedSvid {
        serial: svid.serial().to_owned(),
        not_after: unix_seconds(svid.not_after()),
        key,
        chain: super::encode_chain(svid.chain()),
    }
}

#[cfg(test)]
#[path = "lineage_tests.rs"]
mod tests;
