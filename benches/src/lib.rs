//! Set-up that the micro-benchmarks share: certificates, policies, and tunnels
//! in memory.
//!
//! Invariants: everything is made at run time, in well under a second, so that
//! each benchmark also runs once as a test; no sockets, no files, no wall
//! clock. What fails here or in a measured routine panics: a time must not be
//! reported for work that was not done. Must not know: criterion's groups and
//! what is measured.
#![allow(clippy::expect_used, clippy::panic, reason = "a failed benchmark has to stop")]

pub mod mesh;
pub mod pipes;
pub mod rules;

use std::time::Duration;

use criterion::Criterion;
use tokio::runtime::{Builder, Runtime};

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
