//! How an endpoint is reached: who calls it alone, or where much is carried, has
//! a connection of its own, which costs least for a single flow. Others have
//! lanes of connections that they share, so that what many apps say at once
//! goes in one packet (docs/decisions/0024, 0025).
//!
//! Invariant: a lane is opened only where the handshake of its connection would
//! be made the same way now.

use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use foldhash::HashMap;
use watchword_tunnel::{ClientTunnel, Pooled, Trunk};

use crate::ended::Ended;
use crate::tunnel_io::{Own, TunnelIo};
use crate::tunnels::{Standing, Taken};

/// Tunnels to one endpoint that have connections of their own.
const OWN: usize = 8;

/// A flow carries so many bytes at least, and so many per second: what is
/// slower costs little, wherever it is carried.
const FLOW: u64 = 1024 * 1024;
const FLOW_PER_SECOND: f64 = 10.0 * 1024.0 * 1024.0;

/// Where a flow has ended, others are expected for so long.
const FLOWS: Duration = Duration::from_secs(10);

/// Where calls were under way at once, they are expected to be for so long.
const CROWD: Duration = Duration::from_millis(20);

/// Who knew no lanes is asked again after so long: it may be another version.
const NO_LANES: Duration = Duration::from_secs(60);

/// By endpoint. Clones share one state.
pub(crate) struct Reaches<K>(Arc<Mutex<HashMap<K, Arc<Reach>>>>);

/// One endpoint.
#[derive(Default)]
pub(crate) struct Reach {
    /// Held by each tunnel on a connection of its own.
    own: Arc<()>,
    seen: Mutex<Seen>,
    trunks: Mutex<Trunks>,
    /// Whoever dials for a trunk: there is one at a time.
    pub(crate) turn: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Trunks {
    known: Vec<(Trunk<Own>, Standing)>,
    /// The last dial for one that failed.
    failed: Option<(Instant, Ended)>,
}

/// When something was last found.
#[derive(Default)]
struct Seen {
    /// A call began while another was under way.
    crowd: Option<Instant>,
    /// A flow ended.
    flow: Option<Instant>,
    /// The other side knew no lanes.
    no_lanes: Option<Instant>,
}

/// Whether a stream that has ended was a flow; bytes are those of both ways.
pub(crate) fn is_flow(bytes: u64, lasted: Duration) -> bool {
    bytes >= FLOW && bytes as f64 >= lasted.as_secs_f64() * FLOW_PER_SECOND
}

impl Seen {
    /// Whether a call has a connection of its own.
    fn prefers_own(&mut self, is_alone: bool, now: Instant) -> bool {
        if !is_alone {
            self.crowd = Some(now);
        }
        let is_recent = |seen: Option<Instant>, within| seen.is_some_and(|seen| now.duration_since(seen) < within);
        !is_recent(self.crowd, CROWD) || is_recent(self.flow, FLOWS) || self.knows_no_lanes(now)
    }

    fn knows_no_lanes(&self, now: Instant) -> bool {
        self.no_lanes.is_some_and(|seen| now.duration_since(seen) < NO_LANES)
    }
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
    /// Whether a call that begins has a connection of its own. `is_alone`: no
    /// other is under way.
    pub(crate) fn prefers_own(&self, is_alone: bool, now: Instant) -> bool {
        lock(&self.seen).prefers_own(is_alone, now)
    }

    /// Leave to make one where there are few, or no lanes.
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

    pub(crate) fn add(&self, trunk: Trunk<Own>, standing: Standing) {
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

    /// A flow has ended.
    pub(crate) fn note_flow(&self) {
        lock(&self.seen).flow = Some(Instant::now());
    }

    pub(crate) fn note_no_lanes(&self) {
        lock(&self.seen).no_lanes = Some(Instant::now());
    }

    pub(crate) fn knows_no_lanes(&self) -> bool {
        lock(&self.seen).knows_no_lanes(Instant::now())
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

#[cfg(test)]
mod tests {
    use super::*;

    const ALONE: bool = true;
    const IN_COMPANY: bool = false;

    #[test]
    fn who_calls_alone_has_a_connection_of_its_own_and_shares_one_right_after_a_crowd() {
        let start = Instant::now();
        let mut seen = Seen::default();
        let calls = [
            (0, ALONE, true),
            (1, ALONE, true),
            (2, IN_COMPANY, false),
            (3, ALONE, false),
            (21, ALONE, false),
            (22, ALONE, true),
            (23, IN_COMPANY, false),
            (40, IN_COMPANY, false),
            (59, ALONE, false),
            (60, ALONE, true),
        ];
        for (at, is_alone, expected) in calls {
            let now = start + Duration::from_millis(at);
            assert_eq!(seen.prefers_own(is_alone, now), expected, "at {at} ms");
        }
    }

    #[test]
    fn where_flows_are_or_no_lanes_everybody_has_a_connection_of_its_own_for_a_while() {
        let start = Instant::now();
        let flow = Seen {
            flow: Some(start),
            ..Seen::default()
        };
        let no_lanes = Seen {
            no_lanes: Some(start),
            ..Seen::default()
        };
        for (mut seen, seconds) in [(flow, 10), (no_lanes, 60)] {
            for (at, expected) in [(0, true), (seconds - 1, true), (seconds, false)] {
                let now = start + Duration::from_secs(at);
                assert_eq!(seen.prefers_own(IN_COMPANY, now), expected, "after {at} s");
            }
        }
    }

    #[test]
    fn many_bytes_in_a_short_time_are_a_flow() {
        let cases = [
            (1 << 20, 0, true),
            ((1 << 20) - 1, 0, false),
            (1 << 20, 100, true),
            // So much may be the questions of a day.
            (1 << 20, 101, false),
            (1 << 30, 102_400, true),
            (1 << 30, 102_401, false),
        ];
        for (bytes, milliseconds, expected) in cases {
            let lasted = Duration::from_millis(milliseconds);
            assert_eq!(is_flow(bytes, lasted), expected, "{bytes} bytes in {lasted:?}");
        }
    }
}
