//! How many connections those who have proved nothing may hold.
//!
//! Invariant: one is counted until its place is dropped. Shared by all workers.
//! Must not know: sockets, policies.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::live_tunnels::take_one;

/// Connections of all of them.
const MAX: usize = 16_384;
/// Connections of one address.
const MAX_OF_ONE_SOURCE: usize = MAX / 4;

/// Clones share one state.
#[derive(Clone, Default)]
pub(crate) struct PlaintextRoom {
    inner: Arc<Mutex<Counts>>,
}

#[derive(Default)]
struct Counts {
    sources: HashMap<IpAddr, usize>,
    sum: usize,
}

/// A connection's place. Dropped, the connection is over.
pub(crate) struct Place {
    source: IpAddr,
    room: PlaintextRoom,
}

impl PlaintextRoom {
    /// Takes a place; nothing when there is none.
    pub(crate) fn enter(&self, source: IpAddr) -> Option<Place> {
        let mut counts = self.lock();
        let of_source = counts.sources.get(&source).copied().unwrap_or_default();
        if counts.sum >= MAX || of_source >= MAX_OF_ONE_SOURCE {
            return None;
        }
        counts.sum += 1;
        counts.sources.insert(source, of_source + 1);
        Some(Place {
            source,
            room: self.clone(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.room.lock();
        counts.sum -= 1;
        take_one(&mut counts.sources, &self.source);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_leaves_room_for_others_and_all_together_are_bounded() {
        let room = PlaintextRoom::default();
        let source = |last: u8| IpAddr::from([10, 0, 0, last]);
        let mut places: Vec<_> = std::iter::from_fn(|| room.enter(source(1))).collect();
        assert_eq!(places.len(), MAX_OF_ONE_SOURCE);
        for other in 2..=5 {
            places.extend(std::iter::from_fn(|| room.enter(source(other))));
        }
        assert_eq!(places.len(), MAX);
        places.truncate(1);
        assert!(room.enter(source(1)).is_some() && room.enter(source(6)).is_some());
        drop(places);
        let counts = room.lock();
        assert!(counts.sources.is_empty() && counts.sum == 0);
    }
}
