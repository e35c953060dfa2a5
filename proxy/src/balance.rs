//! Which endpoint of several a call goes to: of two that chance picks, the one
//! with fewer open streams; those that failed lately only after all others.
//!
//! Must not know: how an endpoint is reached.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use foldhash::HashMap;

use crate::directory::Endpoint;

/// An endpoint that failed is avoided for this long, and twice as long after
/// each further failure.
const AVOID: Duration = Duration::from_secs(1);
/// Never longer than this: nobody tells us that it is well again.
const AVOID_AT_MOST: Duration = Duration::from_secs(60);

/// What one worker knows of the endpoints that it calls.
#[derive(Debug, Default)]
pub(crate) struct Loads {
    by_address: Mutex<HashMap<SocketAddr, Load>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Load {
    open: usize,
    failures: u32,
    avoid_until: Option<Instant>,
}

/// A stream that counts as open until it is dropped.
#[derive(Debug)]
pub(crate) struct OpenStream {
    loads: Arc<Loads>,
    address: SocketAddr,
    pub(crate) began: Instant,
    /// No other was open there then.
    pub(crate) is_alone: bool,
    /// The endpoint could not be reached before.
    is_trial: bool,
}

impl Loads {
    pub(crate) fn open(self: &Arc<Self>, address: SocketAddr, now: Instant) -> OpenStream {
        let mut loads = lock(&self.by_address);
        let load = loads.entry(address).or_default();
        load.open += 1;
        OpenStream {
            loads: Arc::clone(self),
            address,
            began: now,
            is_alone: load.open == 1,
            is_trial: load.failures > 0,
        }
    }

    /// Nobody could be reached there.
    pub(crate) fn failed(&self, address: SocketAddr, now: Instant) {
        let mut loads = lock(&self.by_address);
        let load = loads.entry(address).or_default();
        let doubled = AVOID.saturating_mul(1 << load.failures.min(10));
        load.failures += 1;
        load.avoid_until = Some(now + doubled.min(AVOID_AT_MOST));
    }

    /// The endpoint was reached by it.
    pub(crate) fn succeeded(&self, stream: &OpenStream) {
        if !stream.is_trial {
            return;
        }
        if let Some(load) = lock(&self.by_address).get_mut(&stream.address) {
            load.failures = 0;
            load.avoid_until = None;
        }
    }

    /// Forgets endpoints that `is_known` no longer holds for.
    pub(crate) fn forget(&self, is_known: impl Fn(SocketAddr) -> bool) {
        lock(&self.by_address).retain(|address, load| load.open > 0 || is_known(*address));
    }

    /// Smaller is better.
    fn rank(&self, address: SocketAddr, now: Instant) -> (bool, usize) {
        let load = lock(&self.by_address).get(&address).copied().unwrap_or_default();
        (load.avoid_until.is_some_and(|until| now < until), load.open)
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let mut loads = lock(&self.loads.by_address);
        if let Some(load) = loads.get_mut(&self.address) {
            load.open = load.open.saturating_sub(1);
            if load.open == 0 && load.failures == 0 {
                loads.remove(&self.address);
            }
        }
    }
}

/// The endpoints of one call, each handed out once.
#[derive(Debug)]
pub(crate) struct Choice {
    endpoints: Arc<[Endpoint]>,
    dialled: SocketAddr,
    tried: Vec<usize>,
}

impl Choice {
    /// `endpoints` serve `dialled`; those of its family come first.
    pub(crate) fn new(endpoints: Arc<[Endpoint]>, dialled: SocketAddr) -> Self {
        Self {
            endpoints,
            dialled,
            tried: Vec::new(),
        }
    }

    /// The next to be tried: those of the dialled family before the others.
    pub(crate) fn next(&mut self, loads: &Loads, now: Instant) -> Option<Endpoint> {
        let index = if self.tried.is_empty() {
            self.first(loads, now)
        } else {
            self.further(loads, now)
        }?;
        self.tried.push(index);
        self.endpoints.get(index).cloned()
    }

    /// The usual case takes the same time for two endpoints and for thousands.
    fn first(&self, loads: &Loads, now: Instant) -> Option<usize> {
        let family = self
            .endpoints
            .partition_point(|endpoint| endpoint.address.is_ipv4() == self.dialled.is_ipv4());
        let count = if family == 0 { self.endpoints.len() } else { family };
        let index = pick(count, |index| self.rank(index, loads, now))?;
        // When both failed lately, there may be a third.
        if self.rank(index, loads, now).0 {
            return self.further(loads, now);
        }
        Some(index)
    }

    fn further(&self, loads: &Loads, now: Instant) -> Option<usize> {
        let (mut best, mut best_class) = (Vec::new(), None);
        for index in (0..self.endpoints.len()).filter(|index| !self.tried.contains(index)) {
            let is_other_family = self
                .endpoints
                .get(index)
                .is_none_or(|endpoint| endpoint.address.is_ipv4() != self.dialled.is_ipv4());
            let class = Some((is_other_family, self.rank(index, loads, now).0));
            if best_class.is_none() || class < best_class {
                (best, best_class) = (Vec::new(), class);
            }
            if class == best_class {
                best.push(index);
            }
        }
        let at = |position: usize| best.get(position).copied().unwrap_or_default();
        pick(best.len(), |position| self.rank(at(position), loads, now)).map(at)
    }

    fn rank(&self, index: usize, loads: &Loads, now: Instant) -> (bool, usize) {
        self.endpoints
            .get(index)
            .map_or((true, usize::MAX), |endpoint| loads.rank(endpoint.address, now))
    }
}

/// The power of two choices among `0..count`.
fn pick<R: Ord>(count: usize, rank: impl Fn(usize) -> R) -> Option<usize> {
    if count < 2 {
        return count.checked_sub(1);
    }
    let one = fastrand::usize(..count);
    let other = (one + fastrand::usize(1..count)) % count;
    Some(if rank(other) < rank(one) { other } else { one })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use proptest::prelude::*;
    use watchword_identity::SpiffeId;
    use watchword_proto::directory::{PeerKind, Protocol};

    use super::*;

    const DIALLED: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(240, 0, 0, 1)), 80);

    fn endpoints(ipv4: u8, ipv6: u8) -> Arc<[Endpoint]> {
        let ipv4 = (0..ipv4).map(|n| format!("10.0.0.{n}:80"));
        let ipv6 = (0..ipv6).map(|n| format!("[fd00::{n}]:80"));
        ipv4.chain(ipv6)
            .map(|address| Endpoint {
                address: address.parse().unwrap(),
                id: Arc::new(SpiffeId::new("spiffe://example.org/orders").unwrap()),
                id_text: "spiffe://example.org/orders".into(),
                service: "orders".into(),
                protocol: Protocol::Tcp,
                peer: PeerKind::Watchword,
            })
            .collect()
    }

    fn first(endpoints: &Arc<[Endpoint]>, loads: &Loads, now: Instant) -> SocketAddr {
        Choice::new(Arc::clone(endpoints), DIALLED)
            .next(loads, now)
            .unwrap()
            .address
    }

    #[test]
    fn the_one_of_two_with_fewer_open_streams_is_chosen() {
        let (endpoints, loads, now) = (endpoints(2, 0), Arc::new(Loads::default()), Instant::now());
        let stream = loads.open(endpoints[0].address, now);
        for _ in 0..50 {
            assert_eq!(first(&endpoints, &loads, now), endpoints[1].address);
        }
        drop(stream);
        let chosen: Vec<_> = (0..100).map(|_| first(&endpoints, &loads, now)).collect();
        assert!(endpoints.iter().all(|endpoint| chosen.contains(&endpoint.address)));
    }

    #[test]
    fn streams_spread_evenly_over_many_endpoints() {
        let (endpoints, loads, now) = (endpoints(20, 0), Arc::new(Loads::default()), Instant::now());
        let streams: Vec<_> = (0..2000)
            .map(|_| loads.open(first(&endpoints, &loads, now), now))
            .collect();
        for endpoint in endpoints.iter() {
            let (_, open) = loads.rank(endpoint.address, now);
            // One choice would leave some above 120.
            assert!((90..=110).contains(&open), "{open}");
        }
        drop(streams);
        assert!(lock(&loads.by_address).is_empty());
    }

    #[test]
    fn an_endpoint_that_failed_is_avoided_for_longer_each_time_until_it_is_well() {
        let (endpoints, loads, now) = (endpoints(2, 1), Arc::new(Loads::default()), Instant::now());
        let (bad, good) = (endpoints[0].address, endpoints[1].address);
        for failures in 0..9 {
            loads.failed(bad, now);
            let avoided = AVOID.saturating_mul(1 << failures).min(AVOID_AT_MOST);
            assert!(loads.rank(bad, now + avoided - Duration::from_millis(1)).0);
            assert!(!loads.rank(bad, now + avoided).0);
        }
        assert!((0..50).all(|_| first(&endpoints, &loads, now) == good));
        loads.succeeded(&loads.open(bad, now));
        assert!((0..100).any(|_| first(&endpoints, &loads, now) == bad));
    }

    proptest! {
        #[test]
        fn each_is_tried_once_those_of_the_dialled_family_and_those_that_are_well_first(
            (ipv4, ipv6) in (0..6_u8, 0..6_u8),
            failed in proptest::collection::vec(any::<bool>(), 12),
        ) {
            let (endpoints, loads, now) = (endpoints(ipv4, ipv6), Loads::default(), Instant::now());
            for (endpoint, _) in endpoints.iter().zip(&failed).filter(|(_, failed)| **failed) {
                loads.failed(endpoint.address, now);
            }
            let mut choice = Choice::new(Arc::clone(&endpoints), DIALLED);
            let order: Vec<_> = std::iter::from_fn(|| choice.next(&loads, now)).map(|endpoint| endpoint.address).collect();
            prop_assert_eq!(order.len(), endpoints.len());
            let classes: Vec<_> = order.iter().map(|address| (address.is_ipv6(), loads.rank(*address, now).0)).collect();
            prop_assert!(classes.is_sorted(), "{:?}", classes);
            prop_assert_eq!(order.iter().collect::<std::collections::HashSet<_>>().len(), endpoints.len());
        }
    }
}
