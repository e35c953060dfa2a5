//! Warm tunnels of one worker, by whom they lead to.
//!
//! Invariants: a tunnel that stays idle is watched, so that it is gone soon after
//! the server left or when nobody uses it; whoever waits gets the first tunnel that
//! comes, one that is given back or one that is made, so that as many dials
//! are under way as callers wait; dials and idle tunnels are bounded per key.
//! Must not know: what a key is, why a tunnel does not fit, TLS.

mod idle;

use std::collections::BTreeMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::{HashMap, HashMapExt as _, HashSet, HashSetExt as _};
use tokio::sync::{Notify, Semaphore, oneshot};
use watchword_proto::tunnel::Reason;

use self::idle::{Idle, keep};
use crate::client::ClientTunnel;
use crate::edge::Transport;

/// New tunnels to one key that are made at once.
const MAX_DIALS: usize = 32;
/// Idle tunnels to one key; what comes beyond is closed.
const MAX_IDLE: usize = 1024;

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
    fresh: HashSet<K>,
    /// Where tunnels are idle that nobody watches.
    unwatched: HashSet<K>,
    has_keeper: bool,
}

/// What leads to one key.
struct Place<T: Transport, F, E> {
    /// The last one was used last; those that are not settled come behind all others.
    idle: Vec<Idle<T, F>>,
    /// Callers in the order in which they came.
    waiting: BTreeMap<u64, Waiting<T, F, E>>,
    next_number: u64,
    dials: Arc<Semaphore>,
}

/// A caller who waits.
type Waiting<T, F, E> = oneshot::Sender<Result<Pooled<T, F>, E>>;

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
        place.idle.push(Idle::new(number, pooled.tunnel, pooled.facts));
        if places.fresh.insert(key.clone()) {
            self.inner.news.notify_one();
        }
        if !places.has_keeper {
            places.has_keeper = true;
            tokio::spawn(keep(Arc::downgrade(&self.inner), Arc::clone(&self.inner.news)));
        }
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
                fresh: HashSet::new(),
                unwatched: HashSet::new(),
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
