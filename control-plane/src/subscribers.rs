//! Who is connected, for `watchword status`, and how many of them have not
//! acknowledged a bundle that somebody waits for.
//!
//! Invariants: an entry lives as long as its guard. How many lack the bundle
//! is counted as they answer, come and go, never by asking all of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::metrics::ControlMetrics;
use crate::snapshots::Kind;
use crate::subscription::Progress;

/// More streams than that are not served at a time.
const MAX_SUBSCRIBERS: usize = 16_384;

/// One connected proxy.
#[derive(Debug, Clone)]
pub struct Subscriber {
    /// Its SPIFFE ID.
    pub id: String,
    /// As it calls its own process.
    pub instance: String,
    /// What it was told.
    pub progress: [(Kind, Progress); 3],
}

impl Subscriber {
    fn lacks(&self, version: u64) -> bool {
        let mut bundles = self.progress.iter().filter(|(kind, _)| *kind == Kind::Bundle);
        bundles.any(|(_, progress)| progress.acknowledged < version)
    }
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    /// The version of the bundle that is waited for.
    wanted: u64,
    entries: BTreeMap<u64, Subscriber>,
}

/// All of them. Clones share one table.
#[derive(Debug, Clone)]
pub struct Subscribers {
    table: Arc<Mutex<Table>>,
    /// How many have not acknowledged what is wanted. Written under the table's
    /// lock; who waits is woken only when it becomes zero.
    lacking: Arc<watch::Sender<usize>>,
    metrics: ControlMetrics,
}

impl Subscribers {
    /// None yet.
    pub fn new(metrics: ControlMetrics) -> Self {
        Self {
            table: Arc::default(),
            lacking: Arc::new(watch::Sender::new(0)),
            metrics,
        }
    }

    /// Adds one; nothing when there are too many.
    pub fn enter(&self, subscriber: Subscriber) -> Option<SubscriberGuard> {
        let mut table = self.lock();
        if table.entries.len() >= MAX_SUBSCRIBERS {
            return None;
        }
        let key = table.next;
        table.next += 1;
        if subscriber.lacks(table.wanted) {
            self.count(1);
        }
        table.entries.insert(key, subscriber);
        self.metrics.subscribers_changed(1);
        Some(SubscriberGuard {
            key,
            subscribers: self.clone(),
        })
    }

    /// All of them, by arrival.
    pub fn list(&self) -> Vec<Subscriber> {
        self.lock().entries.values().cloned().collect()
    }

    /// From now on [`Subscribers::all_know`] waits for this version of the bundle.
    pub fn want_bundle(&self, version: u64) {
        let mut table = self.lock();
        table.wanted = version;
        let lacking = table.entries.values().filter(|entry| entry.lacks(version)).count();
        self.lacking.send_replace(lacking);
    }

    /// How many have not acknowledged it, nor a newer one.
    pub fn lacking(&self) -> usize {
        *self.lacking.borrow()
    }

    /// Waits until all who are connected have acknowledged it, or a newer one.
    pub async fn all_know(&self) {
        // The sender lives as long as we do.
        let _ = self.lacking.subscribe().wait_for(|lacking| *lacking == 0).await;
    }

    fn count(&self, change: isize) {
        self.lacking.send_if_modified(|lacking| {
            *lacking = lacking.saturating_add_signed(change);
            *lacking == 0
        });
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps an entry in the table.
#[derive(Debug)]
pub struct SubscriberGuard {
    key: u64,
    subscribers: Subscribers,
}

impl SubscriberGuard {
    /// Notes how far it has come.
    pub fn note(&self, progress: [(Kind, Progress); 3]) {
        let mut table = self.subscribers.lock();
        let wanted = table.wanted;
        let Some(entry) = table.entries.get_mut(&self.key) else {
            return;
        };
        let lacked = entry.lacks(wanted);
        entry.progress = progress;
        // What was acknowledged never goes back.
        if lacked && !entry.lacks(wanted) {
            self.subscribers.count(-1);
        }
    }
}

impl Drop for SubscriberGuard {
    fn drop(&mut self) {
        let mut table = self.subscribers.lock();
        if table
            .entries
            .remove(&self.key)
            .is_some_and(|gone| gone.lacks(table.wanted))
        {
            self.subscribers.count(-1);
        }
        drop(table);
        self.subscribers.metrics.subscribers_changed(-1);
    }
}

#[cfg(test)]
pub(crate) mod tests;
