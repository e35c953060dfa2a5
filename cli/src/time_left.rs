//! Times as people tell them. Pure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// From `now` to `not_after`, in Unix seconds; negative when it is over.
pub(crate) fn seconds_left(not_after: i64, now: SystemTime) -> i64 {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    not_after.saturating_sub(i64::try_from(now).unwrap_or(i64::MAX))
}

/// `3d 2h`, `1h 5m`, `12m 3s`, `4s`, `expired 4s ago`.
pub(crate) fn duration(seconds: i64) -> String {
    if seconds < 0 {
        return format!("expired {} ago", duration(seconds.saturating_neg()));
    }
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds}s"),
        (0, 0, minutes, seconds) => format!("{minutes}m {seconds}s"),
        (0, hours, minutes, _) => format!("{hours}h {minutes}m"),
        (days, hours, ..) => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_told_as_people_tell_it() {
        let all = [267_000, 3_900, 723, 4, 0, -4].map(duration);
        assert_eq!(all, ["3d 2h", "1h 5m", "12m 3s", "4s", "0s", "expired 4s ago"]);
        let now = UNIX_EPOCH + Duration::from_secs(100);
        assert_eq!((seconds_left(160, now), seconds_left(90, now)), (60, -10));
    }
}
