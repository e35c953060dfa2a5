//! `watchword demo`: a whole mesh with built-in programs, and a tour of what it
//! promises, with proof for each claim.
//!
//! Invariants: the mesh is one of `watchword up`, with nothing left out; each
//! step looks from where it can be seen (the program, the wire, the sidecar),
//! and fails when it sees something else.

mod folder;
mod mesh;
mod parts;
mod report;
mod tour;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use self::folder::Folder;
pub(crate) use self::parts::{Part, run as run_part};
use self::report::Report;

/// How the demo is shown.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Print one JSON document at the end
    #[arg(long)]
    json: bool,
    /// Keep the demo's files here, and take those that are here already
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
}

/// Exit status 0 when everything was as promised, 1 when something was not.
pub(crate) async fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut report = Report::new(arguments.json);
    let folder = Folder::prepare(arguments.folder.as_deref())?;
    let ended = tokio::select! {
        ended = Box::pin(tour::run(&folder, &mut report)) => ended,
        _ = terminate.recv() => anyhow::bail!("the demo was asked to end; its mesh ends, too"),
        _ = interrupt.recv() => anyhow::bail!("the demo was interrupted; its mesh ends, too"),
    };
    let ok = report.finish()?;
    ended?;
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
