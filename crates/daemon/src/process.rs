//! What a process asks of the kernel for itself, once, at its start; and how
//! near it is to a limit.

use std::os::fd::RawFd;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Keys in memory stay out of core dumps and away from debuggers of the same
/// user, and the limit of open files is raised as far as it goes: each
/// connection takes two. Neither is worth not starting.
pub fn prepare_process() {
    let results = [
        setrlimit(Resource::RLIMIT_CORE, 0, 0),
        nix::sys::prctl::set_dumpable(false),
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most)),
    ];
    for error in results.into_iter().filter_map(Result::err) {
        tracing::warn!(%error, "a limit of this process can't be set");
    }
}

/// Descriptors that connections from outside must leave to us: for dialling on,
/// for new certificates, for probes.
const KEPT: u64 = 256;
/// Of a low limit half: each accepted connection takes another one to go on.
const KEPT_SHARE: u64 = 2;

/// Whether few descriptors are left, judged by the number of a new one: the
/// kernel gives the lowest that is free.
pub fn is_near_descriptor_limit(newest: RawFd) -> bool {
    let Ok((limit, _)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return false;
    };
    let kept = KEPT.min(limit / KEPT_SHARE);
    u64::try_from(newest).is_ok_and(|number| number >= limit - kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_part_of_all_descriptors_is_near_the_limit() {
        let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or_default();
        let last = |left: u64| RawFd::try_from(limit - left).unwrap_or(RawFd::MAX);
        assert!(!is_near_descriptor_limit(3));
        assert!(is_near_descriptor_limit(last(1)));
        assert!(!is_near_descriptor_limit(last(1 + KEPT.min(limit / KEPT_SHARE))));
    }
}
