//! What a hop costs with both proxies: Watchword's sidecars against pairs of
//! Envoy, HAProxy and nginx with mutual TLS, and against a floor without TLS,
//! in one run.
//!
//! Contenders take turns, in rounds. With `--gate` the exit status is 1 when
//! a gate is missed; `--rounds N` says how many, `--cores` how the programs
//! share the cores, `--only` which parts. With `--flames` it measures nothing,
//! and draws where the CPU time goes.
//!
//! Invariants: what decides is CPU time, as the kernel counts it for the
//! proxies' threads; who makes and answers the load does not count. All that
//! was started ends with us, on errors and signals too.

mod asked;
mod certificates;
mod contenders;
mod flames;
mod gates;
mod hold;
mod least;
mod load;
mod machine;
mod memory;
mod mesh;
mod network;
mod pairs;
mod plot;
mod results;
mod rounds;
mod scale;
mod server;
mod table;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

use asked::{Asked, Part};
use results::Results;

fn main() -> Result<ExitCode> {
    let words: Vec<_> = std::env::args().skip(1).collect();
    // What this binary is, started once more by the benchmark.
    let role = match words.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        Some((hold::COMMAND, rest)) => Some(hold::run(rest)),
        Some((least::COMMAND, rest)) => Some(least::run(rest)),
        _ => None,
    };
    if let Some(ran) = role {
        return ran.map(|()| ExitCode::SUCCESS);
    }
    let asked = Asked::read(words.into_iter())?;
    if !asked.is_wanted {
        return Ok(ExitCode::SUCCESS);
    }
    // The proxies hold two connections for each of the load's.
    watchword_benches::raise_limits();
    machine::check_priority()?;
    notice_signals()?;
    if asked.flames {
        flames::draw(&asked)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut results = Results::new(asked.cores)?;
    rounds::measure(&asked, &mut results)?;
    if asked.wants(Part::Memory) {
        results.memory = memory::measure(&asked)?;
    }
    if asked.wants(Part::Scale) {
        results.scale = scale::measure(&asked)?;
    }
    let verdicts = gates::judge(&results);
    table::show(&results, &verdicts)?;
    results.write(&verdicts)?;
    let is_kept = verdicts.iter().all(|verdict| verdict.is_kept || verdict.is_aim);
    Ok(ExitCode::from(u8::from(asked.gate && !is_kept)))
}

/// Set once we are asked to end.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// An error once we are asked to end.
fn go_on() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}

/// The programs that we started have to end before us. Nothing is blocked for
/// it, since they would inherit that.
fn notice_signals() -> Result<()> {
    let runtime = Builder::new_current_thread().enable_io().build()?;
    let entered = runtime.enter();
    let mut streams = [
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
        signal(SignalKind::hangup())?,
    ];
    drop(entered);
    std::thread::spawn(move || {
        let [interrupt, terminate, hangup] = &mut streams;
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
        });
        INTERRUPTED.store(true, Ordering::Relaxed);
    });
    Ok(())
}
