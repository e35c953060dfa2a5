//! The state as data. What may happen to tokens and lineages stands in
//! `crate::attest`; this is their shape, and what time takes away.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::tracked::TrackedMap;
use super::unix_seconds;
use crate::csr::KeyDigest;

/// A used-up or late token is remembered so long, in seconds: its bearer is
/// told why it is refused.
const REMEMBER_TOKENS: u64 = 24 * 3600;

/// Everything that is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// Grows at each start.
    pub epoch: u64,
    /// By the hash of the token's secret, lower-case hexadecimal.
    pub tokens: TrackedMap<Arc<str>, Token>,
    /// By number.
    pub lineages: TrackedMap<LineageKey, Lineage>,
    /// The number that the next lineage gets.
    pub next_lineage: LineageKey,
    /// Epoch and next lineage when it was settled.
    settled: (u64, LineageKey),
}

/// What makes one state of another: keys with their new values, or without
/// one when they are gone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// The new epoch.
    pub epoch: u64,
    /// The number that the next lineage gets.
    pub next_lineage: LineageKey,
    /// Tokens.
    pub tokens: Vec<(Arc<str>, Option<Token>)>,
    /// Lineages.
    pub lineages: Vec<(LineageKey, Option<Lineage>)>,
}

/// Names a lineage.
pub type LineageKey = u64;

/// A join token. Times are Unix seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Token {
    /// The SPIFFE ID that its bearer may ask for.
    pub id: String,
    /// Not taken afterwards.
    pub expires_at: u64,
    /// Who used it.
    pub used: Option<TokenUse>,
}

/// The first use of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TokenUse {
    /// It is bound to this key.
    pub key: KeyDigest,
    /// What came of it; nothing while the certificate is not signed.
    pub lineage: Option<LineageKey>,
}

/// One workload's chain of SVIDs, from one attestation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Lineage {
    /// The SPIFFE ID of all of them.
    pub id: String,
    /// The one that was used last; nothing before the first use.
    pub current: Option<IssuedSvid>,
    /// Issued, and not seen in use yet.
    pub pending: Option<IssuedSvid>,
    /// Serials that were replaced, with the Unix second that they end at.
    pub retired: BTreeMap<String, u64>,
    /// Serials of what was issued to workloads that it speaks for, with the
    /// Unix second that they end at.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub workloads: BTreeMap<String, u64>,
    /// An old serial was used: nothing more is issued.
    pub frozen: bool,
}

/// An SVID that was issued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct IssuedSvid {
    /// Lower-case hexadecimal.
    pub serial: String,
    /// Unix seconds.
    pub not_after: u64,
    /// Its key.
    pub key: KeyDigest,
    /// The chain, each certificate DER in base64, while it may be asked for
    /// again; empty afterwards.
    pub chain: Vec<String>,
}

impl State {
    /// As it was kept.
    pub fn kept(
        epoch: u64,
        next_lineage: LineageKey,
        tokens: TrackedMap<Arc<str>, Token>,
        lineages: TrackedMap<LineageKey, Lineage>,
    ) -> Self {
        Self {
            epoch,
            tokens,
            lineages,
            next_lineage,
            settled: (epoch, next_lineage),
        }
    }

    /// What was changed since it was settled; nothing when nothing was.
    pub fn changes(&self) -> Option<Changes> {
        let changes = Changes {
            epoch: self.epoch,
            next_lineage: self.next_lineage,
            tokens: self
                .tokens
                .changes()
                .map(|(key, token)| (Arc::clone(key), token.cloned()))
                .collect(),
            lineages: self
                .lineages
                .changes()
                .map(|(key, lineage)| (*key, lineage.cloned()))
                .collect(),
        };
        let is_changed = (self.epoch, self.next_lineage) != self.settled
            || !changes.tokens.is_empty()
            || !changes.lineages.is_empty();
        is_changed.then_some(changes)
    }

    /// From here on changes count.
    pub fn settle(&mut self) {
        self.tokens.settle();
        self.lineages.settle();
        self.settled = (self.epoch, self.next_lineage);
    }

    /// Takes back what was changed since it was settled.
    pub fn undo(&mut self) {
        self.tokens.undo();
        self.lineages.undo();
        (self.epoch, self.next_lineage) = self.settled;
    }

    /// Forgets what time has made meaningless.
    pub fn sweep(&mut self, now: SystemTime) {
        let now = unix_seconds(now);
        self.tokens
            .remove_if(|token| now > token.expires_at.saturating_add(REMEMBER_TOKENS));
        let has_late = |lineage: &Lineage| {
            let ends = lineage.retired.values().chain(lineage.workloads.values());
            ends.into_iter().any(|not_after| now > *not_after)
        };
        let late: Vec<LineageKey> = self
            .lineages
            .iter()
            .filter(|(_, lineage)| has_late(lineage))
            .map(|(key, _)| *key)
            .collect();
        for key in late {
            if let Some(lineage) = self.lineages.get_mut(&key) {
                lineage.retired.retain(|_, not_after| now <= *not_after);
                lineage.workloads.retain(|_, not_after| now <= *not_after);
            }
        }
        self.lineages.remove_if(|lineage| lineage.is_over(now));
    }

    /// The lineage that a serial belongs to, whatever its place in it.
    pub fn lineage_of(&mut self, serial: &str) -> Option<(LineageKey, &mut Lineage)> {
        let (key, _) = self.lineages.iter().find(|(_, lineage)| lineage.knows(serial))?;
        let key = *key;
        Some((key, self.lineages.get_mut(&key)?))
    }
}

impl Lineage {
    /// The newest end of what was issued, Unix seconds.
    pub fn not_after(&self) -> u64 {
        self.current
            .iter()
            .chain(&self.pending)
            .map(|svid| svid.not_after)
            .max()
            .unwrap_or(0)
    }

    fn is_over(&self, now: u64) -> bool {
        self.not_after() < now && self.retired.is_empty() && self.workloads.is_empty()
    }

    fn knows(&self, serial: &str) -> bool {
        self.current
            .iter()
            .chain(&self.pending)
            .any(|svid| svid.serial == serial)
            || self.retired.contains_key(serial)
    }
}
