//! How many files and sockets a process may have open: each connection through
//! a sidecar takes two.

use nix::sys::resource::{Resource, getrlimit};

use super::{Finding, State};

const ENOUGH: u64 = 4096;

/// The daemons raise the limit themselves, as far as it goes.
pub(super) fn limit() -> Finding {
    const CHECK: &str = "open files";
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((_, most)) => judge(most),
        Err(error) => Finding::bad(
            CHECK,
            State::Unknown,
            format!("the limit is not told: {error}"),
            "`ulimit -Hn`",
        ),
    }
}

fn judge(most: u64) -> Finding {
    const CHECK: &str = "open files";
    if most >= ENOUGH {
        return Finding::good(CHECK, format!("{most} in each process at most"));
    }
    Finding::bad(
        CHECK,
        State::Warning,
        format!(
            "each process may open {most} files at most, so a sidecar has room for about {} connections",
            most / 2
        ),
        "as root `ulimit -Hn 65536` before the start, or `nofile` in /etc/security/limits.conf",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_low_limit_is_a_warning() {
        assert_eq!(judge(1_048_576).state, State::Good);
        let low = judge(1024);
        assert_eq!(low.state, State::Warning);
        assert!(low.to_string().contains("about 512 connections"), "{low}");
    }
}
