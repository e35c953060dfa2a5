//! What a request costs both proxies of a hop: Watchword's sidecars against a
//! pair of Envoys that say the same with their RBAC, in one run.
//!
//! Contenders take turns, in rounds. With `--gate` the exit status is 1 when
//! Watchword's share of the best Envoy's CPU is above its limit; `--rounds N`
//! says how many, `--cores` how the programs share the cores.
//!
//! Invariants: what decides is CPU time, as the kernel counts it for the
//! proxies' threads; who makes and answers the load does not count. All that
//! was started ends with us, on errors and signals too.

mod certificates;
mod contenders;
mod load;
mod mesh;
mod network;
mod pair;
mod results;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail, ensure};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

use contenders::{Bed, CONTENDERS};
use load::Load;
use network::Cores;
use results::{Results, Run};

/// How much is done.
#[derive(Clone, Copy)]
struct Size {
    rounds: usize,
    loads: [Load; 2],
}

/// As the README says.
const FULL: Size = Size {
    rounds: 5,
    loads: [
        Load {
            connections: 1,
            requests: 10_000,
        },
        Load {
            connections: 64,
            requests: 30_000,
        },
    ],
};
/// As a test, to see that all of it works.
const SMALL: Size = Size {
    rounds: 1,
    loads: [
        Load {
            connections: 1,
            requests: 200,
        },
        Load {
            connections: 64,
            requests: 1_280,
        },
    ],
};

fn main() -> Result<ExitCode> {
    let asked = Asked::read(std::env::args().skip(1))?;
    if !asked.is_wanted {
        return Ok(ExitCode::SUCCESS);
    }
    // The proxies hold two connections for each of the load's.
    watchword_benches::raise_limits();
    let interrupted = notice_signals()?;
    let results = measure(&asked, interrupted)?;
    results.show()?;
    let is_kept = results.write()?;
    Ok(ExitCode::from(u8::from(asked.gate && !is_kept)))
}

/// The command line.
struct Asked {
    size: Size,
    cores: Cores,
    gate: bool,
    /// A name that filters benchmarks may leave this one out.
    is_wanted: bool,
}

impl Asked {
    fn read(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let (mut size, mut cores, mut gate, mut filters) = (SMALL, Cores::One, false, Vec::new());
        let mut rounds = None;
        while let Some(word) = words.next() {
            match word.as_str() {
                // Cargo says this; without it this is a test.
                "--bench" => size = FULL,
                "--gate" => gate = true,
                "--rounds" => {
                    let number = words.next().and_then(|number| number.parse().ok());
                    rounds = number.filter(|rounds| (1..=100).contains(rounds));
                    ensure!(rounds.is_some(), "--rounds takes 1 to 100");
                }
                "--cores" => {
                    let name = words.next().unwrap_or_default();
                    cores = Cores::from_name(&name).context("--cores takes one, apart or free")?;
                }
                flag if flag.starts_with('-') => {}
                _ => filters.push(word),
            }
        }
        size.rounds = rounds.unwrap_or(size.rounds);
        let is_wanted = filters.is_empty() || filters.iter().any(|filter| "hop".contains(filter.as_str()));
        Ok(Self {
            size,
            cores,
            gate,
            is_wanted,
        })
    }
}

fn measure(asked: &Asked, interrupted: &AtomicBool) -> Result<Results> {
    let bed = Bed::start(asked.cores)?;
    bed.check()?;
    let mut results = Results::new(asked.cores);
    for round in 0..asked.size.rounds {
        for load in asked.size.loads {
            for turn in 0..CONTENDERS.len() {
                if interrupted.load(Ordering::Relaxed) {
                    bail!("interrupted");
                }
                // Nobody is always the first.
                let contender = CONTENDERS[(round + turn) % CONTENDERS.len()];
                // What is kept between connections is there before.
                let warm_up = Load {
                    requests: load.requests / 10,
                    ..load
                };
                bed.load(contender, warm_up)?;
                let before = bed.cpu(contender)?;
                let seen = bed.load(contender, load)?;
                let after = bed.cpu(contender)?;
                results.add(Run {
                    contender,
                    round,
                    load,
                    cpu: [0, 1].map(|side| (after[side] - before[side]) * 1e6 / load.requests as f64),
                    seen,
                });
            }
        }
    }
    bed.check()?;
    Ok(results)
}

/// Set once we are asked to end: the programs that we started have to end
/// before us. Nothing is blocked for it, since they would inherit that.
fn notice_signals() -> Result<&'static AtomicBool> {
    static INTERRUPTED: AtomicBool = AtomicBool::new(false);
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
    Ok(&INTERRUPTED)
}
