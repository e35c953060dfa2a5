//! What a process asks of the kernel for itself, once, at its start.

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
