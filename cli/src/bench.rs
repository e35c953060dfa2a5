//! `watchword bench`: the mTLS hop of this machine against plain TCP.
//!
//! A small mesh of its own, by `up`, has two pairs of a client and a server: one
//! behind sidecars, and one of foreign peers, which nothing captures, on the
//! same switch. Rounds of both alternate, so that a machine that gets slower
//! gets slower for both.
//!
//! Invariant: nothing of it is left when it ends.

mod load;
mod mesh;
mod report;

use std::time::Duration;

use clap::Args;

pub(crate) use load::{End, run_end};

use self::load::{Kind, Numbers};
use self::mesh::{BenchMesh, Loader};
use self::report::Collected;
use crate::say;
use crate::status::Format;

/// Rounds, and how long each of the four loads takes in one of them: with the
/// start of the mesh this stays below half a minute.
const ROUNDS: u32 = 3;
const EACH: Duration = Duration::from_millis(700);

#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Measures and prints.
pub(crate) async fn run(flags: &Flags) -> anyhow::Result<()> {
    say::plain("starting a mesh of two pairs");
    let mut mesh = BenchMesh::start().await?;
    let loader = mesh.loader();
    let measured = tokio::select! {
        measured = measure(&loader) => measured,
        error = mesh.ended() => Err(error),
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    let stopped = mesh.stop().await;
    let (plain, hop) = measured?;
    stopped?;
    match flags.output {
        Format::Json => say::out(report::json(&plain, &hop)?)?,
        Format::Table => say::out(report::table(&plain, &hop))?,
    }
    Ok(())
}

async fn measure(mesh: &Loader) -> anyhow::Result<(Collected, Collected)> {
    let (mut plain, mut hop) = (Collected::default(), Collected::default());
    // The first tunnel is made, and code is read from disk, before it counts.
    for pair in mesh::PAIRS {
        mesh.load(pair, Kind::Calls { connections: 1 }, EACH / 4).await?;
    }
    for round in 1..=ROUNDS {
        say::plain(format!("round {round} of {ROUNDS}"));
        for kind in Kind::ALL {
            for (pair, collected) in mesh::PAIRS.into_iter().zip([&mut plain, &mut hop]) {
                let numbers: Numbers = mesh.load(pair, kind, EACH).await?;
                collected.add(kind, &numbers);
            }
        }
    }
    Ok((plain, hop))
}
