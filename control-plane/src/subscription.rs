//! One subscriber's exchange of snapshots, as a state machine: what to send
//! next, and what an answer means.
//!
//! Invariants: pure. One update per kind is outstanding. Versions sent only
//! grow. What was refused is not sent again until there is something newer.

use thiserror::Error;
use watchword_identity::SpiffeId;
use watchword_proto::control::snapshot_update::Resource;
use watchword_proto::control::{Ack, Nack, SnapshotUpdate};

use crate::snapshots::{Kind, View};

/// The longest reason of a Nack that is kept, in bytes.
pub const MAX_REASON: usize = 4096;

/// An answer to nothing. It ends the stream.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("no update with the nonce {0:?} is waiting for an answer")]
pub struct UnknownNonce(String);

/// What became of one kind of snapshot, for people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// The newest version that was sent; 0 before the first.
    pub sent: u64,
    /// The newest version that was acknowledged; 0 before the first.
    pub acknowledged: u64,
    /// Of the last Nack, until the next Ack.
    pub rejected_because: String,
}

#[derive(Debug, Default)]
struct Channel {
    progress: Progress,
    /// The version that was looked at last, sent or not.
    seen: u64,
    waiting: Option<String>,
    last: Option<Resource>,
}

/// One stream's state.
#[derive(Debug)]
pub struct Subscription {
    subscriber: SpiffeId,
    epoch: u64,
    nonces: u64,
    channels: [Channel; 3],
}

impl Subscription {
    /// Nothing sent yet.
    pub fn new(subscriber: SpiffeId, epoch: u64) -> Self {
        Self {
            subscriber,
            epoch,
            nonces: 0,
            channels: Default::default(),
        }
    }

    /// What is to be sent now: at most one update per kind.
    pub fn updates(&mut self, view: &View) -> Vec<SnapshotUpdate> {
        Kind::ALL
            .into_iter()
            .filter_map(|kind| self.update(kind, view))
            .collect()
    }

    fn update(&mut self, kind: Kind, view: &View) -> Option<SnapshotUpdate> {
        let version = view.version(kind);
        let channel = &mut self.channels[kind as usize];
        if channel.waiting.is_some() || version <= channel.seen {
            return None;
        }
        channel.seen = version;
        let resource = view.resource(kind, &self.subscriber);
        // A policy of others has changed: nothing new for this one. What was
        // refused is worth another try in a newer version, though.
        if channel.last.as_ref() == Some(&resource) && channel.progress.rejected_because.is_empty() {
            return None;
        }
        self.nonces += 1;
        let nonce = self.nonces.to_string();
        channel.progress.sent = version;
        channel.waiting = Some(nonce.clone());
        channel.last = Some(resource.clone());
        Some(SnapshotUpdate {
            epoch: self.epoch,
            version,
            nonce,
            resource: Some(resource),
        })
    }

    /// The subscriber took an update.
    ///
    /// # Errors
    /// [`UnknownNonce`].
    pub fn acknowledge(&mut self, ack: &Ack) -> Result<Kind, UnknownNonce> {
        let kind = self.answered(&ack.nonce)?;
        let progress = &mut self.channels[kind as usize].progress;
        progress.acknowledged = progress.sent;
        progress.rejected_because.clear();
        Ok(kind)
    }

    /// The subscriber refused an update.
    ///
    /// # Errors
    /// [`UnknownNonce`].
    pub fn reject(&mut self, nack: Nack) -> Result<Kind, UnknownNonce> {
        let kind = self.answered(&nack.nonce)?;
        // It is shown on terminals.
        let mut reason = nack.reason.replace(char::is_control, " ");
        if reason.len() > MAX_REASON {
            reason.truncate(reason.floor_char_boundary(MAX_REASON));
        }
        if reason.is_empty() {
            reason.push_str("(no reason given)");
        }
        self.channels[kind as usize].progress.rejected_because = reason;
        Ok(kind)
    }

    /// For people.
    pub fn progress(&self) -> [(Kind, Progress); 3] {
        Kind::ALL.map(|kind| (kind, self.channels[kind as usize].progress.clone()))
    }

    fn answered(&mut self, nonce: &str) -> Result<Kind, UnknownNonce> {
        let waits = |kind: &Kind| self.channels[*kind as usize].waiting.as_deref() == Some(nonce);
        let Some(kind) = Kind::ALL.into_iter().find(waits) else {
            let shown = nonce.chars().take(64).collect();
            return Err(UnknownNonce(shown));
        };
        self.channels[kind as usize].waiting = None;
        Ok(kind)
    }
}

#[cfg(test)]
mod tests;
