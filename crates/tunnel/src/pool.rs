//! Warm tunnels of one worker, by whom they lead to.
//!
//! Invariants: a tunnel that stays idle is watched, so that it is gone soon after
//! the server left or when nobody uses it; whoever waits gets the first tunnel that
//! comes, one that is given back or one that is made, so that as many dials
//! are under way as callers wait; dials and idle tunnels are bounded per key.
//! Must not know: what a key is, why a tunnel does not fit, TLS.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::future::poll_fn;
use std::hash::Hash;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::task::{AbortHandle, yield_now};
use tokio::time::{Instant, sleep_until};
use watchword_proto::tunnel::Reason;

use crate::client::{ClientTunnel, IdleEnd};
use crate::edge::Transport;

/// New tunnels to one key that are made at once.
const MAX_DIALS: usize = 32;
/// Idle tunnels to one key; what comes beyond is closed.
const MAX_IDLE: usize = 1024;
/// For so long an idle tunnel is not watched: under load it is taken before, and
/// who takes it looks whether the server has left.
const UNWATCHED: Duration = Duration::from_millis(100);

/// A clean tunnel, with what its handshake showed.
#[derive(Debug)]
pub struct Pooled<T: Transport, F> {
    /// To carry a call.
    pub tunnel: ClientTunnel<T>,
    /// To judge whether it still fits.
    pub facts: F,
    /// It has waited in the pool: the server may have left it.
    pub is_warm: bool,
}

/// Tunnels by key: an endpoint, and who must answer there. Clones share one
/// state. It belongs to the runtime that drives its tunnels.
pub struct Pool<K, T: Transport, F, E> {
    inner: Arc<Inner<K, T, F, E>>,
}

struct Inner<K, T: Transport, F, E> {
    places: Mutex<Places<K, T, F, E>>,
    /// Wakes the keeper when a tunnel is given back, and when the pool is gone.
    news: Arc<Notify>,
}

struct Places<K, T: Transport, F, E> {
    by_key: HashMap<K, Place<T, F, E>>,
    /// Where tunnels were given back since the keeper looked.
    fresh: Vec<K>,
    /// Where tunnels are idle that nobody watches.
    unwatched: Vec<K>,
    has_keeper: bool,
}

/// What leads to one key.
struct Place<T: Transport, F, E> {
    /// The last one was used last; those that are not settled come behind all others.
    idle: Vec<Idle<T, F>>,
    /// It is among the fresh ones, and among the unwatched.
    is_fresh: bool,
    is_unwatched: bool,
    /// Callers in the order in which they came.
    waiting: BTreeMap<u64, Waiting<T, F, E>>,
    next_number: u64,
    dials: Arc<Semaphore>,
}

/// A caller who waits.
type Waiting<T, F, E> = oneshot::Sender<Result<Pooled<T, F>, E>>;

struct Idle<T: Transport, F> {
    number: u64,
    held: Held<T>,
    facts: F,
    /// What the last stream left to be said is sent.
    is_settled: bool,
    watcher: Option<AbortHandle>,
}

/// An idle tunnel, shared with the task that watches it; empty once taken.
type Held<T> = Arc<Mutex<Option<ClientTunnel<T>>>>;

impl<K, T, F, E> Pool<K, T, F, E>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Transport + Send + 'static,
    F: Send + 'static,
    E: Send + 'static,
{
    /// The idle tunnel that was used last and fits; those that do not fit are
    /// closed on the way.
    pub fn take(&self, key: &K, fits: impl Fn(&F) -> bool) -> Option<Pooled<T, F>> {
        let mut places = lock(&self.inner.places);
        let place = places.by_key.get_mut(key)?;
        loop {
            let idle = place.idle.pop()?;
            let Some(tunnel) = idle.take() else {
                continue;
            };
            if fits(&idle.facts) {
                return Some(Pooled {
                    tunnel,
                    facts: idle.facts,
                    is_warm: true,
                });
            }
            close(tunnel, Reason::Rotated);
        }
    }

    /// The first tunnel that is given back, or that is made for whoever waits.
    /// `dial` makes one, once there is a slot for it; it goes on if it was not
    /// needed after all, and its tunnel is kept.
    ///
    /// # Errors
    /// That of a dial.
    pub async fn wait_or_dial<D>(&self, key: &K, dial: D) -> Result<Pooled<T, F>, E>
    where
        D: Future<Output = Result<(ClientTunnel<T>, F), E>> + Send + 'static,
    {
        let (number, mut given, dials) = self.queue(key);
        tokio::select! {
            biased;
            Ok(given) = &mut given => return given,
            Ok(slot) = dials.acquire_owned() => {
                let (pool, key) = (self.clone(), key.clone());
                tokio::spawn(async move {
                    let made = dial.await;
                    drop(slot);
                    pool.hand_over(&key, number, made);
                });
            }
        }
        match given.await {
            Ok(given) => given,
            // Nobody drops a sender that is still waited for.
            Err(_) => std::future::pending().await,
        }
    }

    /// Gives a clean tunnel that still fits back, to whoever waits longest, or
    /// to be idle.
    pub fn put(&self, key: &K, tunnel: ClientTunnel<T>, facts: F) {
        self.give(
            key,
            Pooled {
                tunnel,
                facts,
                is_warm: true,
            },
        );
    }

    /// Closes the idle tunnels that have a reason for it.
    pub fn retire(&self, reason: impl Fn(&K, &F) -> Option<Reason>) {
        let mut places = lock(&self.inner.places);
        for (key, place) in &mut places.by_key {
            place.idle.retain(|idle| {
                let Some(reason) = reason(key, &idle.facts) else {
                    return true;
                };
                if let Some(tunnel) = idle.take() {
                    close(tunnel, reason);
                }
                false
            });
        }
        places.by_key.retain(|_, place| place.is_used());
    }

    /// How many tunnels are idle.
    #[must_use]
    pub fn idle(&self) -> usize {
        lock(&self.inner.places)
            .by_key
            .values()
            .map(|place| place.idle.len())
            .sum()
    }

    /// A caller's number, what it waits for, and the slots for dials.
    #[allow(clippy::type_complexity, reason = "taken apart at once")]
    fn queue(&self, key: &K) -> (u64, oneshot::Receiver<Result<Pooled<T, F>, E>>, Arc<Semaphore>) {
        let (sender, given) = oneshot::channel();
        let mut places = lock(&self.inner.places);
        let place = places.at(key);
        let number = place.number();
        place.waiting.insert(number, sender);
        (number, given, Arc::clone(&place.dials))
    }

    /// What a dial made goes to whoever waits longest. So does its failure,
    /// when the caller that it was for was served by another's dial: otherwise
    /// one caller would wait for a dial that nobody makes.
    fn hand_over(&self, key: &K, number: u64, made: Result<(ClientTunnel<T>, F), E>) {
        match made {
            Ok((tunnel, facts)) => self.give(
                key,
                Pooled {
                    tunnel,
                    facts,
                    is_warm: false,
                },
            ),
            Err(error) => {
                let mut places = lock(&self.inner.places);
                let Some(place) = places.by_key.get_mut(key) else {
                    return;
                };
                match place.waiting.remove(&number) {
                    Some(own) => drop(own.send(Err(error))),
                    None => drop(place.tell(Err(error))),
                }
                places.tidy(key);
            }
        }
    }

    fn give(&self, key: &K, pooled: Pooled<T, F>) {
        let mut places = lock(&self.inner.places);
        let place = places.at(key);
        let Some(Ok(pooled)) = place.tell(Ok(pooled)) else {
            return;
        };
        if place.idle.len() >= MAX_IDLE {
            return close(pooled.tunnel, Reason::Limit);
        }
        let number = place.number();
        place.idle.push(Idle {
            number,
            held: Arc::new(Mutex::new(Some(pooled.tunnel))),
            facts: pooled.facts,
            is_settled: false,
            watcher: None,
        });
        if place.is_fresh {
            return;
        }
        place.is_fresh = true;
        places.fresh.push(key.clone());
        self.inner.news.notify_one();
        if !places.has_keeper {
            places.has_keeper = true;
            tokio::spawn(keep(Arc::downgrade(&self.inner), Arc::clone(&self.inner.news)));
        }
    }

    /// What nobody has taken since it was given back sends what it owes. Whether
    /// there is something to be watched.
    fn settle(&self) -> bool {
        let mut places = lock(&self.inner.places);
        for key in std::mem::take(&mut places.fresh) {
            let Some(place) = places.by_key.get_mut(&key) else {
                continue;
            };
            place.is_fresh = false;
            for idle in place.idle.iter_mut().rev().take_while(|idle| !idle.is_settled) {
                idle.is_settled = true;
                let is_done = lock(&idle.held).as_mut().is_none_or(ClientTunnel::settle);
                if !is_done {
                    self.watch(&key, idle);
                }
            }
            if !place.is_unwatched && !place.idle.is_empty() {
                place.is_unwatched = true;
                places.unwatched.push(key);
            }
        }
        !places.unwatched.is_empty()
    }

    /// What is idle still is watched, each by a task of its own.
    fn watch_unwatched(&self) {
        let mut places = lock(&self.inner.places);
        for key in std::mem::take(&mut places.unwatched) {
            let Some(place) = places.by_key.get_mut(&key) else {
                continue;
            };
            place.is_unwatched = false;
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
async fn keep<K, T, F, E>(inner: Weak<Inner<K, T, F, E>>, news: Arc<Notify>)
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

impl<T: Transport, F> Idle<T, F> {
    /// The tunnel, unless its watcher has it; nobody watches it any more.
    fn take(&self) -> Option<ClientTunnel<T>> {
        if let Some(watcher) = &self.watcher {
            watcher.abort();
        }
        lock(&self.held).take()
    }
}

impl<T: Transport, F, E> Place<T, F, E> {
    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// Tells whoever waits longest, of those who still do. Gives back what
    /// nobody waits for.
    fn tell(&mut self, mut outcome: Result<Pooled<T, F>, E>) -> Option<Result<Pooled<T, F>, E>> {
        while let Some((_, waiting)) = self.waiting.pop_first() {
            outcome = waiting.send(outcome).err()?;
        }
        Some(outcome)
    }

    fn is_used(&self) -> bool {
        !self.idle.is_empty() || !self.waiting.is_empty() || self.dials.available_permits() < MAX_DIALS
    }
}

impl<K: Clone + Eq + Hash, T: Transport, F, E> Places<K, T, F, E> {
    fn at(&mut self, key: &K) -> &mut Place<T, F, E> {
        self.by_key.entry(key.clone()).or_default()
    }

    /// A key that leads nowhere any more holds no memory.
    fn tidy(&mut self, key: &K) {
        if self.by_key.get(key).is_some_and(|place| !place.is_used()) {
            self.by_key.remove(key);
        }
    }
}

impl<T: Transport, F, E> Default for Place<T, F, E> {
    fn default() -> Self {
        Self {
            idle: Vec::new(),
            is_fresh: false,
            is_unwatched: false,
            waiting: BTreeMap::new(),
            next_number: 0,
            dials: Arc::new(Semaphore::new(MAX_DIALS)),
        }
    }
}

impl<K, T: Transport, F, E> Default for Pool<K, T, F, E> {
    fn default() -> Self {
        let inner = Inner {
            places: Mutex::new(Places {
                by_key: HashMap::new(),
                fresh: Vec::new(),
                unwatched: Vec::new(),
                has_keeper: false,
            }),
            news: Arc::default(),
        };
        Self { inner: Arc::new(inner) }
    }
}

impl<K, T: Transport, F, E> Clone for Pool<K, T, F, E> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<K, T: Transport, F, E> Drop for Inner<K, T, F, E> {
    fn drop(&mut self) {
        self.news.notify_one();
    }
}

impl<K, T: Transport, F, E> fmt::Debug for Pool<K, T, F, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

/// Says goodbye without letting the caller wait.
fn close<T: Transport + Send + 'static>(tunnel: ClientTunnel<T>, reason: Reason) {
    tokio::spawn(tunnel.close(reason));
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
