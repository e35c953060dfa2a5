//! Spans that wait to be sent.
//!
//! Invariants: putting one in never waits, and wakes the sender twice for a
//! whole batch, not once for each; what does not fit is dropped and counted.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use opentelemetry::metrics::Counter;
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use tokio::sync::Notify;
use tokio::time::sleep;

/// With texts as long as they may be (request.rs) this is some 15 MiB;
/// ordinary spans take a twentieth of that.
const MAX_WAITING: usize = 2_048;
/// Sent at once. Collectors take messages of 4 MiB.
pub(super) const BATCH: usize = 512;
/// For a batch to fill.
const LINGER: Duration = Duration::from_secs(1);

/// Spans that wait to be sent.
pub(super) struct Queue {
    waiting: Mutex<VecDeque<SpanData>>,
    /// A first span came, or a batch is full.
    changed: Notify,
    dropped: Counter<u64>,
}

impl Queue {
    pub(super) fn new(dropped: Counter<u64>) -> Self {
        Self {
            waiting: Mutex::default(),
            changed: Notify::new(),
            dropped,
        }
    }

    pub(super) fn put(&self, span: SpanData) {
        let mut waiting = self.lock();
        if waiting.len() >= MAX_WAITING {
            drop(waiting);
            return self.dropped.add(1, &[KeyValue::new("reason", "queue-full")]);
        }
        waiting.push_back(span);
        let length = waiting.len();
        drop(waiting);
        if length == 1 || length == BATCH {
            self.changed.notify_one();
        }
    }

    /// At most a batch, perhaps nothing; the oldest first.
    pub(super) fn take(&self) -> Vec<SpanData> {
        let mut waiting = self.lock();
        let count = waiting.len().min(BATCH);
        waiting.drain(..count).collect()
    }

    /// Waits for a batch: a full one, or a second after its first span.
    pub(super) async fn ready(&self) {
        while self.lock().is_empty() {
            self.changed.notified().await;
        }
        let full = async {
            while self.lock().len() < BATCH {
                self.changed.notified().await;
            }
        };
        tokio::select! {
            () = full => {}
            () = sleep(LINGER) => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<SpanData>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts each span that ends into the queue.
pub(super) struct Processor(pub(super) Arc<Queue>);

impl std::fmt::Debug for Processor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Processor")
    }
}

impl SpanProcessor for Processor {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        self.0.put(span);
    }

    /// What would block: `Traces::flush` is the way.
    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}
