//! Connections to the app that outlive the caller's connection for which they
//! were made, and wait for another one of the same caller.
//!
//! Invariants: one is used for one caller only, by identity and by address,
//! since the app sees the address, and may remember what it has seen; what
//! waits too long, or is one too many, is closed. One pool per worker: a
//! connection lives on the runtime that made it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::upload::Upload;

/// To the app, one request after the other.
pub(crate) type Http1 = hyper::client::conn::http1::SendRequest<Upload>;

/// Shorter than servers keep idle connections, as a rule.
const IDLE: Duration = Duration::from_secs(4);
/// That wait for one caller, and in all.
const MAX_PER_CALLER: usize = 64;
const MAX: usize = 1_024;

/// Clones share one state.
#[derive(Clone, Default)]
pub(crate) struct AppPool {
    inner: Arc<Mutex<Waiting>>,
}

#[derive(Default)]
struct Waiting {
    by_caller: HashMap<AppKey, Vec<(Http1, Instant)>>,
    count: usize,
    is_swept: bool,
}

/// For whom a connection is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct AppKey {
    /// The caller's SPIFFE ID.
    pub(crate) peer: Arc<str>,
    pub(crate) from: IpAddr,
    /// Where the app listens.
    pub(crate) dialled: SocketAddr,
}

impl AppPool {
    /// Whether one waits that is open as far as we know.
    pub(crate) fn has(&self, key: &AppKey) -> bool {
        let inner = self.lock();
        let waiting = inner.by_caller.get(key);
        waiting.is_some_and(|waiting| waiting.iter().any(|(sender, _)| !sender.is_closed()))
    }

    /// The one that waits for the shortest time.
    pub(super) fn take(&self, key: &AppKey) -> Option<Http1> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let waiting = inner.by_caller.get_mut(key)?;
        while let Some((sender, _)) = waiting.pop() {
            inner.count -= 1;
            if !sender.is_closed() {
                return Some(sender);
            }
        }
        None
    }

    /// Keeps a connection whose last request is over. To be called in a runtime.
    pub(super) fn put(&self, key: AppKey, sender: Http1) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        if inner.count >= MAX {
            return;
        }
        let waiting = inner.by_caller.entry(key).or_default();
        if waiting.len() >= MAX_PER_CALLER {
            return;
        }
        waiting.push((sender, Instant::now() + IDLE));
        inner.count += 1;
        if !std::mem::replace(&mut inner.is_swept, true) {
            tokio::spawn(self.clone().sweep());
        }
    }

    /// Closes what has waited too long, until nothing waits.
    async fn sweep(self) {
        while let Some(next) = self.close_idle(Instant::now()) {
            sleep_until(next).await;
        }
    }

    /// When the next one will have waited too long.
    fn close_idle(&self, now: Instant) -> Option<Instant> {
        let mut inner = self.lock();
        let mut count = 0;
        let mut next: Option<Instant> = None;
        inner.by_caller.retain(|_, waiting| {
            waiting.retain(|(sender, until)| *until > now && !sender.is_closed());
            count += waiting.len();
            let first = waiting.iter().map(|(_, until)| *until).min();
            next = next.into_iter().chain(first).min();
            !waiting.is_empty()
        });
        inner.count = count;
        inner.is_swept = next.is_some();
        next
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
