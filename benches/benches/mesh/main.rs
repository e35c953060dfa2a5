//! What connections cost two real sidecars: handshakes, rotations, memory.
//!
//! Starts meshes by `watchword up`, and itself again inside of them as the
//! programs that call each other. A table for people goes to standard error,
//! a line of JSON per number to standard output. Counts that are promised are
//! gates: the exit status is 1 when one is missed.
//!
//! Invariant: times are CPU time, as the kernel counts it for the sidecars'
//! threads, and never decide anything.

mod bed;
mod handshakes;
mod load;
mod memory;
mod rotation;

use std::process::ExitCode;

use anyhow::Result;

use watchword_benches::report::Report;

/// How much is done.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    /// Short connections in a row.
    pub(crate) short: usize,
    /// Tunnels that are open during a rotation.
    pub(crate) tunnels: usize,
    /// Lifetime of certificates, in seconds; they are replaced at about half of it.
    pub(crate) lifetime: u64,
    /// Rotations of each sidecar that are looked at.
    pub(crate) rotations: usize,
    /// Connections that are open and idle.
    pub(crate) idle: usize,
    /// Whether unused tunnels are waited for until they are closed.
    pub(crate) waits_for_the_end: bool,
}

/// As the README says.
const FULL: Size = Size {
    short: 10_000,
    tunnels: 1_000,
    lifetime: 24,
    rotations: 3,
    idle: 10_000,
    waits_for_the_end: true,
};
/// As a test, to see that all of it works: still so many short connections
/// that the 32 dials at once that a pool may begin with are no failure.
const SMALL: Size = Size {
    short: 4_000,
    tunnels: 50,
    lifetime: 16,
    rotations: 1,
    idle: 200,
    waits_for_the_end: false,
};

const PARTS: [&str; 3] = ["handshakes", "rotation", "memory"];

fn main() -> Result<ExitCode> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == load::COMMAND) {
        return load::run(words.get(1..).unwrap_or_default()).map(|()| ExitCode::SUCCESS);
    }
    // Cargo says --bench; without it this is a test.
    let is_benchmark = words.iter().any(|word| word == "--bench");
    let filters: Vec<_> = words.iter().filter(|word| !word.starts_with('-')).collect();
    let is_wanted = |part: &str| filters.is_empty() || filters.iter().any(|filter| part.contains(filter.as_str()));
    let mut report = Report::default();
    let size = if is_benchmark { FULL } else { SMALL };
    if PARTS.into_iter().any(is_wanted) {
        watchword_benches::raise_limits();
    }
    for part in PARTS.into_iter().filter(|part| is_wanted(part)) {
        match part {
            "handshakes" => handshakes::measure(size, &mut report)?,
            "rotation" => rotation::measure(size, &mut report)?,
            _ => memory::measure(size, &mut report)?,
        }
    }
    report.show()?;
    Ok(ExitCode::from(u8::from(report.has_failed())))
}
