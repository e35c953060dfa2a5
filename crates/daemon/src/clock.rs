//! The one clock. Wall time, read again at each turn: a machine that slept
//! past a deadline must notice when it wakes.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// Between two looks at the wall clock while waiting for a moment: monotonic
/// timers stop while a machine is suspended, and know nothing of clock steps.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Tells the wall time.
pub trait Clock: Debug + Send + Sync {
    /// The wall time.
    fn now(&self) -> SystemTime;
}

/// The machine's clock.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// A clock that stands until it is told otherwise, for tests.
#[derive(Debug)]
pub struct ManualClock(Mutex<SystemTime>);

impl ManualClock {
    /// Stands at `now`.
    pub fn new(now: SystemTime) -> Self {
        Self(Mutex::new(now))
    }

    /// Moves on.
    pub fn advance(&self, by: Duration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) += by;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> SystemTime {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for a moment of wall time; at once when it has passed.
pub async fn sleep_until(clock: &Arc<dyn Clock>, moment: SystemTime) {
    while let Ok(left) = moment.duration_since(clock.now()) {
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(LOOK_AGAIN)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_machine_that_slept_past_the_moment_notices_within_a_second() {
        let manual = Arc::new(ManualClock::new(UNIX_EPOCH));
        let clock: Arc<dyn Clock> = manual.clone();
        let began = tokio::time::Instant::now();
        let waiter = sleep_until(&clock, UNIX_EPOCH + Duration::from_secs(3600));
        let jump = async {
            tokio::time::sleep(Duration::from_millis(2500)).await;
            manual.advance(Duration::from_secs(7200));
        };
        tokio::join!(waiter, jump);
        assert!(began.elapsed() <= Duration::from_millis(3500));
    }
}
