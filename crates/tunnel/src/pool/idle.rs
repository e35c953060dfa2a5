//! Tunnels that wait in a pool, and who sees to them.
//!
//! Invariant: what the last stream left to be said is sent after a turn of the
//! runtime; what stays idle is watched by a task of its own. Must not know: who
//! takes a tunnel, and why.

use std::future::poll_fn;
use std::hash::Hash;
use std::pin::pin;
use std::sync::{Arc, Mutex, Weak};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::{AbortHandle, yield_now};
use tokio::time::{Instant, sleep_until};
use watchword_proto::tunnel::Reason;

use super::{Inner, Pool, lock};
use crate::client::{ClientTunnel, IdleEnd};
use crate::edge::Transport;

/// For so long an idle tunnel is not watched: under load it is taken before, and
/// who takes it looks whether the server has left.
const UNWATCHED: Duration = Duration::from_millis(100);

pub(super) struct Idle<T: Transport, F> {
    pub(super) number: u64,
    held: Held<T>,
    pub(super) facts: F,
    /// What the last stream left to be said is sent.
    is_settled: bool,
    watcher: Option<AbortHandle>,
}

/// An idle tunnel, shared with the task that watches it; empty once taken.
type Held<T> = Arc<Mutex<Option<ClientTunnel<T>>>>;

impl<T: Transport, F> Idle<T, F> {
    pub(super) fn new(number: u64, tunnel: ClientTunnel<T>, facts: F) -> Self {
        Self {
            number,
            held: Arc::new(Mutex::new(Some(tunnel))),
            facts,
            is_settled: false,
            watcher: None,
        }
    }

    /// The tunnel, unless its watcher has it; nobody watches it any more.
    pub(super) fn take(&self) -> Option<ClientTunnel<T>> {
        if let Some(watcher) = &self.watcher {
            watcher.abort();
        }
        lock(&self.held).take()
    }
}

impl<K, T, F, E> Pool<K, T, F, E>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Transport + Send + 'static,
    F: Send + 'static,
    E: Send + 'static,
{
    /// What nobody has taken since it was given back sends what it owes. Whether
    /// there is something to be watched.
    fn settle(&self) -> bool {
        let mut places = lock(&self.inner.places);
        let mut fresh = std::mem::take(&mut places.fresh);
        for key in fresh.drain() {
            let Some(place) = places.by_key.get_mut(&key) else {
                continue;
            };
            for idle in place.idle.iter_mut().rev().take_while(|idle| !idle.is_settled) {
                idle.is_settled = true;
                let is_done = lock(&idle.held).as_mut().is_none_or(ClientTunnel::settle);
                if !is_done {
                    self.watch(&key, idle);
                }
            }
            if !place.idle.is_empty() {
                places.unwatched.insert(key);
            }
        }
        // For its memory.
        places.fresh = fresh;
        !places.unwatched.is_empty()
    }

    /// What is idle still is watched, each by a task of its own.
    fn watch_unwatched(&self) {
        let mut places = lock(&self.inner.places);
        for key in std::mem::take(&mut places.unwatched) {
            let Some(place) = places.by_key.get_mut(&key) else {
                continue;
            };
            for idle in place.idle.iter_mut().filter(|idle| idle.watcher.is_none()) {
                self.watch(&key, idle);
            }
        }
    }

    fn watch(&self, key: &K, idle: &mut Idle<T, F>) {
        let watch = watch(self.clone(), key.clone(), idle.number, Arc::clone(&idle.held));
        idle.watcher = Some(tokio::spawn(watch).abort_handle());
    }

    fn forget(&self, key: &K, number: u64) {
        let mut places = lock(&self.inner.places);
        if let Some(place) = places.by_key.get_mut(key) {
            place.idle.retain(|idle| idle.number != number);
        }
        places.tidy(key);
    }
}

/// Sees to tunnels that were given back and not taken, as long as there is a pool.
pub(super) async fn keep<K, T, F, E>(inner: Weak<Inner<K, T, F, E>>, news: Arc<Notify>)
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Transport + Send + 'static,
    F: Send + 'static,
    E: Send + 'static,
{
    let pool = || inner.upgrade().map(|inner| Pool { inner });
    let mut look = pin!(sleep_until(Instant::now()));
    let mut is_to_look = false;
    loop {
        tokio::select! {
            () = news.notified() => {
                // The FIN of the last stream goes with the OPEN of one that follows at once.
                yield_now().await;
                let Some(pool) = pool() else { return };
                if pool.settle() && !is_to_look {
                    is_to_look = true;
                    look.as_mut().reset(Instant::now() + UNWATCHED);
                }
            }
            () = look.as_mut(), if is_to_look => {
                let Some(pool) = pool() else { return };
                pool.watch_unwatched();
                is_to_look = false;
            }
        }
    }
}

/// Watches an idle tunnel until it is taken or of no use any more.
async fn watch<K, T, F, E>(pool: Pool<K, T, F, E>, key: K, number: u64, held: Held<T>)
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Transport + Send + 'static,
    F: Send + 'static,
    E: Send + 'static,
{
    let end = poll_fn(|cx| match lock(&held).as_mut() {
        Some(tunnel) => tunnel.poll_watch(cx).map(Some),
        None => Poll::Ready(None),
    })
    .await;
    let tunnel = lock(&held).take();
    pool.forget(&key, number);
    if let (Some(tunnel), Some(Ok(IdleEnd::Unused))) = (tunnel, end) {
        tunnel.close(Reason::Idle).await;
    }
}
