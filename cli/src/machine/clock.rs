//! The machine's clock: certificates live for an hour, so a wrong one refuses
//! good ones. A machine alone can't know its skew; it can know that its clock
//! is impossible, and whether something keeps it right.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use tokio::process::Command;
use watchword_daemon::{Clock as _, SystemClock};

use super::{Finding, State};

const CHECK: &str = "clock";
const SET: &str = "`sudo timedatectl set-ntp true`, or set it by `sudo date -s`";
const PATIENCE: Duration = Duration::from_secs(2);
/// systemd-timesyncd makes it when it has set the clock.
const SYNCHRONISED: &str = "/run/systemd/timesync/synchronized";

/// It can't be before this program was built.
pub(super) fn plausible() -> Finding {
    let own = std::env::current_exe().and_then(std::fs::metadata);
    let made = own.and_then(|found| found.modified()).ok();
    judge(SystemClock.now(), made)
}

fn judge(now: SystemTime, made: Option<SystemTime>) -> Finding {
    match made.and_then(|made| made.duration_since(now).ok()) {
        // A file from another machine may be a little ahead.
        Some(ahead) if ahead > Duration::from_secs(60) => Finding::bad(
            CHECK,
            State::Warning,
            format!(
                "it says a time {} s before `watchword` was put here, so it is wrong",
                ahead.as_secs()
            ),
            SET,
        ),
        _ => Finding::good(CHECK, "not before `watchword` was put here"),
    }
}

/// Whether something says that it keeps the clock right.
pub(crate) async fn kept() -> Finding {
    const CHECK: &str = "clock kept";
    if Path::new(SYNCHRONISED).exists() {
        return Finding::good(CHECK, "systemd-timesyncd has set it");
    }
    let asked = Command::new("timedatectl")
        .args(["show", "--property=NTPSynchronized", "--value"])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(output)) if output.stdout.starts_with(b"yes") => {
            Finding::good(CHECK, "it is synchronised, by NTP or PTP")
        }
        Ok(Ok(output)) if output.stdout.starts_with(b"no") => Finding::bad(
            CHECK,
            State::Warning,
            "it is not synchronised; a mesh of this machine alone does not mind, Vault and other machines do",
            "`sudo timedatectl set-ntp true`, or install chrony",
        ),
        _ => Finding::bad(
            CHECK,
            State::Unknown,
            "nothing here tells whether it is synchronised",
            "with Vault, `watchword doctor --mesh-file FILE` compares it with Vault's",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_before_the_program_is_wrong() {
        let made = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let at = |seconds| judge(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds), Some(made)).state;
        assert_eq!(
            [at(1_000_001), at(999_990), at(0)],
            [State::Good, State::Good, State::Warning]
        );
        assert_eq!(judge(made, None).state, State::Good);
    }
}
