//! How old snapshots are: while the control plane's stream stands, what it sent
//! last is what it has now; once the stream has ended, nobody knows.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// Since when each kind has not been confirmed; nothing while it is.
type Since = BTreeMap<&'static str, Option<SystemTime>>;

/// Clones share one state.
#[derive(Clone, Debug, Default)]
pub(crate) struct Freshness(Arc<Mutex<Since>>);

impl Freshness {
    /// The stream brought the newest of this kind.
    pub(crate) fn confirmed(&self, kind: &'static str) {
        self.lock().insert(kind, None);
    }

    /// The stream has ended.
    pub(crate) fn lost(&self, now: SystemTime) {
        for since in self.lock().values_mut() {
            since.get_or_insert(now);
        }
    }

    /// For how long each kind may be out of date.
    pub(crate) fn ages(&self, now: SystemTime) -> Vec<(&'static str, Duration)> {
        let age = |since: SystemTime| now.duration_since(since).unwrap_or_default();
        let all = self.lock();
        all.iter()
            .map(|(kind, since)| (*kind, since.map_or(Duration::ZERO, age)))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Since> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_ages_from_the_end_of_the_stream_to_the_next_one_of_its_kind() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let ages = |freshness: &Freshness, seconds| {
            let ages = freshness.ages(at(seconds)).into_iter();
            ages.map(|(kind, age)| (kind, age.as_secs())).collect::<Vec<_>>()
        };
        let freshness = Freshness::default();
        freshness.lost(at(1));
        assert_eq!(ages(&freshness, 5), []);
        freshness.confirmed("bundle");
        freshness.confirmed("policies");
        assert_eq!(ages(&freshness, 100), [("bundle", 0), ("policies", 0)]);
        freshness.lost(at(100));
        // A try that brought nothing changes nothing.
        freshness.lost(at(110));
        assert_eq!(ages(&freshness, 130), [("bundle", 30), ("policies", 30)]);
        freshness.confirmed("policies");
        assert_eq!(ages(&freshness, 131), [("bundle", 31), ("policies", 0)]);
        // A clock that was set back.
        assert_eq!(ages(&freshness, 50), [("bundle", 0), ("policies", 0)]);
    }
}
