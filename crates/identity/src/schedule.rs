//! When to renew, and when to try again: arithmetic on times that are given.

use std::time::{Duration, SystemTime};

/// Never sooner than this after receipt, however short the lifetime.
const SOONEST: Duration = Duration::from_millis(500);
/// Never wait longer than this between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(150);
/// Never try again faster than this.
const SHORTEST_PAUSE: Duration = Duration::from_millis(250);

/// When to renew a certificate that was received at `received` and ends at
/// `not_after`: at 0.45 to 0.55 of the time between, by `draw` (0 to 1, drawn
/// once per certificate so that a fleet does not renew at one moment).
///
/// Counted from receipt, not from notBefore: authorities backdate that, Vault
/// by 30 s, and with a lifetime of seconds half of it would lie in the past.
pub fn renew_at(received: SystemTime, not_after: SystemTime, draw: f64) -> SystemTime {
    let lifetime = not_after.duration_since(received).unwrap_or_default();
    let share = 0.45 + 0.1 * draw.clamp(0.0, 1.0);
    received + lifetime.mul_f64(share).max(SOONEST)
}

/// How long to wait after the `failures`th failure in a row (the first is 1)
/// with `left` of the certificate's life: doubling from a second, at most 150 s
/// and an eighth of what is left, then jittered by `draw` (0 to 1) down to half
/// of that: after many failures, too, a fleet must not come back as one.
pub fn pause_after(failures: u32, left: Duration, draw: f64) -> Duration {
    let doubled = Duration::from_secs(1).saturating_mul(1 << failures.saturating_sub(1).min(10));
    // An expired certificate leaves nothing to take an eighth of.
    let longest = if left.is_zero() {
        LONGEST_PAUSE
    } else {
        LONGEST_PAUSE.min(left / 8)
    };
    let jittered = doubled.min(longest).mul_f64(0.5 + 0.5 * draw.clamp(0.0, 1.0));
    jittered.max(SHORTEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use proptest::prelude::*;

    use super::*;

    const RECEIVED: SystemTime = UNIX_EPOCH;

    #[test]
    fn an_hour_is_renewed_around_its_half() {
        let end = RECEIVED + Duration::from_secs(3600);
        assert_eq!(renew_at(RECEIVED, end, 0.0), RECEIVED + Duration::from_secs(1620));
        assert_eq!(renew_at(RECEIVED, end, 1.0), RECEIVED + Duration::from_secs(1980));
    }

    #[test]
    fn a_certificate_that_is_over_already_is_renewed_half_a_second_later() {
        let received = RECEIVED + Duration::from_secs(100);
        assert_eq!(renew_at(received, RECEIVED, 0.5), received + SOONEST);
    }

    #[test]
    fn pauses_double_until_an_eighth_of_what_is_left() {
        let hour = Duration::from_secs(3600);
        let pauses: Vec<u64> = (1..=10).map(|n| pause_after(n, hour, 1.0).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 150, 150]);
        assert_eq!(pause_after(9, Duration::from_secs(8), 1.0), Duration::from_secs(1));
        assert_eq!(pause_after(20, Duration::ZERO, 1.0), LONGEST_PAUSE);
    }

    /// Proxies that all failed at the same moments, `attempts` times, and when
    /// each tries next, counted in a hundred equal parts of the longest pause.
    fn crowd_of_the_busiest_part(attempts: u32, lifetime: Duration) -> usize {
        const PROXIES: usize = 10_000;
        let mut draws = fastrand::Rng::with_seed(7);
        let mut parts = [0; 100];
        for _ in 0..PROXIES {
            let pause = pause_after(attempts, lifetime, draws.f64());
            let share = pause.as_secs_f64() / LONGEST_PAUSE.min(lifetime / 8).as_secs_f64();
            parts[((share * 100.0) as usize).min(99)] += 1;
        }
        parts.into_iter().max().unwrap_or_default()
    }

    /// Otherwise an authority that comes back would be overrun at once.
    #[test]
    fn renewals_after_an_outage_are_spread() {
        for attempts in [8, 9, 20] {
            let most = crowd_of_the_busiest_part(attempts, Duration::from_secs(3600));
            assert!(most < 300, "{most} of 10,000 at once after {attempts} attempts");
        }
        // A short lifetime caps pauses, too.
        let most = crowd_of_the_busiest_part(20, Duration::from_secs(80));
        assert!(most < 300, "{most} of 10,000 at once");
    }

    proptest! {
        #[test]
        fn a_renewal_lies_within_the_lifetime_and_never_in_the_past(seconds in 2u64..100_000, draw in 0.0f64..1.0) {
            let end = RECEIVED + Duration::from_secs(seconds);
            let at = renew_at(RECEIVED, end, draw);
            prop_assert!(at >= RECEIVED + SOONEST && at < end);
        }

        #[test]
        fn a_pause_is_never_hot_and_never_long(failures in 0u32..u32::MAX, left in 0u64..100_000, draw in 0.0f64..1.0) {
            let pause = pause_after(failures, Duration::from_secs(left), draw);
            prop_assert!((SHORTEST_PAUSE..=LONGEST_PAUSE).contains(&pause));
        }
    }
}
