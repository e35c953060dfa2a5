//! Who is connected, for `watchword status`.
//!
//! Invariant: an entry lives as long as its guard.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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

#[derive(Debug, Default)]
struct Table {
    next: u64,
    entries: BTreeMap<u64, Subscriber>,
}

/// All of them. Clones share one table.
#[derive(Debug, Clone)]
pub struct Subscribers {
    table: Arc<Mutex<Table>>,
    metrics: ControlMetrics,
}

impl Subscribers {
    /// None yet.
    pub fn new(metrics: ControlMetrics) -> Self {
        Self {
            table: Arc::default(),
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
        if let Some(entry) = self.subscribers.lock().entries.get_mut(&self.key) {
            entry.progress = progress;
        }
    }
}

impl Drop for SubscriberGuard {
    fn drop(&mut self) {
        self.subscribers.lock().entries.remove(&self.key);
        self.subscribers.metrics.subscribers_changed(-1);
    }
}
