//! Set-up that the benchmarks share: certificates, policies, and tunnels in
//! memory; for those that start processes, what the kernel says of them and
//! the report.
//!
//! Invariants: everything is made at run time, in well under a second, so that
//! each benchmark also runs once as a test; no sockets, no files, no wall
//! clock. What fails here or in a measured routine panics: a time must not be
//! reported for work that was not done. Must not know: criterion's groups and
//! what is measured.
#![allow(clippy::expect_used, clippy::panic, reason = "a failed benchmark has to stop")]

pub mod held;
pub mod kernel;
pub mod mesh;
pub mod pipes;
pub mod report;
pub mod rules;

use std::time::Duration;

use criterion::Criterion;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::runtime::{Builder, Runtime};

/// Descriptors that the largest measurement takes in one process, with room.
const DESCRIPTORS: u64 = 32_768;

/// The limit of open files, for us and all that we start: as far as it goes.
pub fn raise_limits() {
    let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return;
    };
    let enough = most.max(DESCRIPTORS);
    // The first is for root alone.
    if setrlimit(Resource::RLIMIT_NOFILE, enough, enough).is_err() {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}

/// Connections that a proxy has descriptors for: each takes two, and some are
/// kept for other things.
#[must_use]
pub fn most_connections() -> usize {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
    usize::try_from(limit.saturating_sub(600) / 2).unwrap_or(usize::MAX)
}

/// Lets time pass: what is measured is what is there afterwards.
#[allow(clippy::disallowed_methods, reason = "nothing is waited for but time")]
pub fn pass(time: Duration) {
    std::thread::sleep(time);
}

/// The middle one; none of none.
#[must_use]
pub fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// How long each benchmark is measured: short, so that all of them together
/// take about a minute. The command line can override it
/// (`--measurement-time`, `--sample-size`), and `--test` runs each once.
#[must_use]
pub fn criterion() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(30)
        .nresamples(10_000)
        .configure_from_args()
}

/// One single-threaded runtime, as each worker of the proxy has one: what is
/// measured on it is the CPU time of both ends together.
#[must_use]
pub fn runtime() -> Runtime {
    Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime without I/O needs nothing from the system")
}
