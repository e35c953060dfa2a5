//! A counter for what every connection counts. An instrument of OpenTelemetry
//! sorts and hashes its labels each time, which costs more than the rest of a
//! record; here they are made when somebody reads the metrics.

use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::HashMap;
use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;

/// As many as OpenTelemetry keeps of one instrument; what has no room among them
/// is counted without its labels, as there ("Metrics SDK", cardinality limits).
const MAX_SERIES: usize = 1999;
const NO_ROOM: &str = "otel.metric.overflow";

/// What tells one count from another.
pub(crate) trait Labels: Eq + Hash + Send + 'static {
    fn labels(&self) -> Vec<KeyValue>;
}

/// Counts by their labels.
pub(crate) struct Tally<L>(Mutex<Counts<L>>);

struct Counts<L> {
    by_labels: HashMap<L, u64>,
    no_room: u64,
}

impl<L: Labels> Tally<L> {
    /// One that is shown as an instrument of that name.
    pub(crate) fn shown(meter: &Meter, name: &'static str, says: &'static str) -> Arc<Self> {
        let counts = Counts {
            by_labels: HashMap::default(),
            no_room: 0,
        };
        let tally = Arc::new(Self(Mutex::new(counts)));
        let shown = Arc::clone(&tally);
        meter
            .u64_observable_counter(name)
            .with_description(says)
            .with_callback(move |counter| {
                for (count, labels) in shown.read() {
                    counter.observe(count, &labels);
                }
            })
            .build();
        tally
    }

    /// Counts one more. Labels that were not seen before become those that
    /// `settle` makes of them.
    pub(crate) fn count(&self, labels: L, settle: impl FnOnce(L) -> L) {
        let mut counts = self.lock();
        if let Some(count) = counts.by_labels.get_mut(&labels) {
            *count += 1;
            return;
        }
        let labels = settle(labels);
        if counts.by_labels.len() < MAX_SERIES || counts.by_labels.contains_key(&labels) {
            *counts.by_labels.entry(labels).or_default() += 1;
        } else {
            counts.no_room += 1;
        }
    }

    fn read(&self) -> Vec<(u64, Vec<KeyValue>)> {
        let counts = self.lock();
        let kept = counts.by_labels.iter().map(|(labels, count)| (*count, labels.labels()));
        let no_room = (counts.no_room > 0).then(|| (counts.no_room, vec![KeyValue::new(NO_ROOM, true)]));
        kept.chain(no_room).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Counts<L>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::metrics::MeterProvider as _;

    use super::*;

    impl Labels for usize {
        fn labels(&self) -> Vec<KeyValue> {
            vec![KeyValue::new("number", i64::try_from(*self).unwrap_or(-1))]
        }
    }

    fn tally() -> Arc<Tally<usize>> {
        let nobody_reads = opentelemetry::metrics::noop::NoopMeterProvider::new();
        Tally::shown(&nobody_reads.meter("test"), "watchword_test", "A test.")
    }

    #[test]
    fn each_set_of_labels_has_its_count_and_new_ones_are_settled_first() {
        let tally = tally();
        for number in [3, 3, 70, 80, 3] {
            tally.count(number, |new| new.min(50));
        }
        let mut read = tally.read();
        read.sort_by_key(|(count, _)| *count);
        assert_eq!(read, [(2, 50.labels()), (3, 3.labels())]);
    }

    #[test]
    fn what_has_no_room_is_counted_without_its_labels() {
        let tally = tally();
        for number in 0..MAX_SERIES + 2 {
            tally.count(number, |new| new);
            tally.count(0, |new| new);
        }
        let read = tally.read();
        assert_eq!(read.len(), MAX_SERIES + 1);
        assert!(read.contains(&(2, vec![KeyValue::new(NO_ROOM, true)])));
        assert!(read.contains(&(MAX_SERIES as u64 + 3, 0.labels())));
    }
}
