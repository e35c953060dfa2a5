//! How an endpoint is reached: the first few tunnels have connections of their
//! own, which costs least for a single flow; further ones are lanes of
//! connections that they share, so that what many apps say at once goes in one
//! packet (docs/decisions/0024).
//!
//! Invariant: a lane is opened only where the handshake of its connection would
//! be made the same way now.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use watchword_tunnel::{ClientTunnel, Pooled, Trunk};

use crate::ended::Ended;
use crate::tunnel_io::TunnelIo;
use crate::tunnels::{Standing, Taken};

/// Tunnels to one endpoint that have connections of their own.
const OWN: usize = 8;

/// Who knew no lanes is asked again after so long: it may be another version.
const NO_LANES: Duration = Duration::from_secs(60);

/// By endpoint. Clones share one state.
pub(crate) struct Reaches<K>(Arc<Mutex<HashMap<K, Arc<Reach>>>>);

/// One endpoint.
#[derive(Default)]
pub(crate) struct Reach {
    /// Held by each tunnel on a connection of its own.
    own: Arc<()>,
    trunks: Mutex<Trunks>,
    /// Whoever dials for a trunk: there is one at a time.
    pub(crate) turn: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Trunks {
    known: Vec<(Trunk, Standing)>,
    /// The last dial for one that failed.
    failed: Option<(Instant, Ended)>,
    /// When the other side was last seen to know no lanes.
    without: Option<Instant>,
}

impl<K: Clone + Eq + Hash> Reaches<K> {
    pub(crate) fn to(&self, key: &K) -> Arc<Reach> {
        let mut reaches = lock(&self.0);
        if let Some(reach) = reaches.get(key) {
            return Arc::clone(reach);
        }
        Arc::clone(reaches.entry(key.clone()).or_default())
    }

    /// Forgets who is not listed any more.
    pub(crate) fn forget(&self, is_listed: impl Fn(&K) -> bool) {
        lock(&self.0).retain(|key, _| is_listed(key));
    }
}

impl Reach {
    /// Leave for a connection of its own, where there are few, or no lanes.
    pub(crate) fn own(&self) -> Option<Arc<()>> {
        // One is held here.
        let are_few = Arc::strong_count(&self.own) <= OWN;
        (are_few || self.knows_no_lanes()).then(|| self.one_more())
    }

    /// The same, however many there are.
    pub(crate) fn one_more(&self) -> Arc<()> {
        Arc::clone(&self.own)
    }

    /// A lane of a connection that fits.
    pub(crate) fn lane(&self, fits: impl Fn(&Standing) -> bool) -> Option<Taken> {
        let mut trunks = lock(&self.trunks);
        trunks
            .known
            .retain(|(trunk, standing)| !trunk.is_over() && fits(standing));
        trunks.known.iter().find_map(|(trunk, standing)| {
            let (lane, heard) = trunk.open()?;
            Some(Pooled {
                tunnel: ClientTunnel::on_lane(TunnelIo::Lane(lane), heard),
                facts: *standing,
                is_warm: true,
            })
        })
    }

    pub(crate) fn add(&self, trunk: Trunk, standing: Standing) {
        lock(&self.trunks).known.push((trunk, standing));
    }

    /// No lane is opened on those that there are. Tunnels on them go on.
    pub(crate) fn give_up_trunks(&self) {
        lock(&self.trunks).known.clear();
    }

    pub(crate) fn note_failure(&self, ended: &Ended) {
        lock(&self.trunks).failed = Some((Instant::now(), ended.clone()));
    }

    /// How a dial for a trunk ended that was not over when one began to wait.
    pub(crate) fn failure_since(&self, began: Instant) -> Option<Ended> {
        let trunks = lock(&self.trunks);
        let (at, ended) = trunks.failed.as_ref()?;
        (*at >= began).then(|| ended.clone())
    }

    pub(crate) fn note_no_lanes(&self) {
        lock(&self.trunks).without = Some(Instant::now());
    }

    fn knows_no_lanes(&self) -> bool {
        let without = lock(&self.trunks).without;
        without.is_some_and(|seen| seen.elapsed() < NO_LANES)
    }
}

impl<K> Default for Reaches<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K> Clone for Reaches<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
