//! The tunnels that others hold to this workload: how many each identity has,
//! and from where somebody has proved one.
//!
//! Invariant: a tunnel is counted from its handshake until its record is
//! dropped. Shared by all workers. Must not know: handshakes, sockets.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use watchword_identity::SpiffeId;

/// Tunnels that one SPIFFE ID may hold.
const MAX_PER_ID: usize = 16_384;

/// Clones share one state.
#[derive(Clone, Default)]
pub(crate) struct LiveTunnels {
    inner: Arc<Mutex<Counts>>,
    /// The last one has ended.
    ended: Arc<Notify>,
}

#[derive(Default)]
struct Counts {
    sources: HashMap<IpAddr, usize>,
    ids: HashMap<SpiffeId, usize>,
}

/// The record of a tunnel. Dropped, the tunnel is over.
pub(crate) struct LiveTunnel {
    source: IpAddr,
    id: SpiffeId,
    tunnels: LiveTunnels,
}

impl LiveTunnels {
    /// Whether a tunnel comes from there.
    pub(crate) fn reach_from(&self, source: IpAddr) -> bool {
        self.lock().sources.contains_key(&source)
    }

    /// Records a tunnel; nothing when its ID has as many as it may.
    pub(crate) fn begin(&self, source: IpAddr, id: &SpiffeId) -> Option<LiveTunnel> {
        let mut counts = self.lock();
        let of_id = counts.ids.entry(id.clone()).or_default();
        if *of_id >= MAX_PER_ID {
            return None;
        }
        *of_id += 1;
        *counts.sources.entry(source).or_default() += 1;
        Some(LiveTunnel {
            source,
            id: id.clone(),
            tunnels: self.clone(),
        })
    }

    /// Waits until there is none.
    pub(crate) async fn all_ended(&self) {
        loop {
            let ended = self.ended.notified();
            if self.lock().ids.is_empty() {
                return;
            }
            ended.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LiveTunnel {
    fn drop(&mut self) {
        let mut counts = self.tunnels.lock();
        take_one(&mut counts.sources, &self.source);
        take_one(&mut counts.ids, &self.id);
        if counts.ids.is_empty() {
            self.tunnels.ended.notify_waiters();
        }
    }
}

/// What nobody holds is forgotten: the network chooses the keys.
pub(crate) fn take_one<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn id(text: &str) -> SpiffeId {
        SpiffeId::new(text).unwrap()
    }

    #[test]
    fn a_source_is_known_while_one_of_its_tunnels_lives_and_then_forgotten() {
        let (tunnels, source) = (LiveTunnels::default(), [10, 0, 0, 1].into());
        let web = id("spiffe://example.org/web");
        assert!(!tunnels.reach_from(source));
        let (first, second) = (tunnels.begin(source, &web), tunnels.begin(source, &web));
        drop(first);
        assert!(tunnels.reach_from(source));
        drop(second);
        assert!(!tunnels.reach_from(source));
        let counts = tunnels.lock();
        assert!(counts.sources.is_empty() && counts.ids.is_empty());
    }

    #[test]
    fn an_id_holds_so_many_tunnels_and_others_are_not_in_its_way() {
        let (tunnels, source) = (LiveTunnels::default(), [10, 0, 0, 1].into());
        let web = id("spiffe://example.org/web");
        let mut live: Vec<_> = (0..MAX_PER_ID).map(|_| tunnels.begin(source, &web).unwrap()).collect();
        assert!(tunnels.begin(source, &web).is_none());
        assert!(tunnels.begin(source, &id("spiffe://example.org/lab")).is_some());
        live.pop();
        assert!(tunnels.begin(source, &web).is_some());
    }
}
