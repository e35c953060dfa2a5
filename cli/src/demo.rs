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
mod vault;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use self::folder::Folder;
pub(crate) use self::parts::{Part, run as run_part};
use self::report::Report;
use self::vault::Vault;

/// How the demo is shown.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Print one JSON document at the end
    #[arg(long)]
    json: bool,
    /// Keep the demo's files here, and take those that are here already
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Let a real Vault sign, started for the demo: its program, or else VAULT_BIN, or the PATH's `vault`
    #[arg(long, value_name = "PROGRAM", num_args = 0..=1, require_equals = true)]
    vault: Option<Option<PathBuf>>,
}

/// Exit status 0 when everything was as promised, 1 when something was not.
pub(crate) async fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut report = Report::new(arguments.json);
    let mut folder = Folder::prepare(arguments.folder.as_deref())?;
    let program = arguments
        .vault
        .as_ref()
        .map(|given| vault::find(given.as_deref()))
        .transpose()?;
    let work = async {
        let vault = match program {
            Some(program) => Some(start_vault(program, &mut folder, &report).await?),
            None => None,
        };
        tour::run(&folder, vault.as_ref(), &mut report).await
    };
    let ended = tokio::select! {
        ended = Box::pin(work) => ended,
        _ = terminate.recv() => anyhow::bail!("the demo was asked to end; its mesh ends, too"),
        _ = interrupt.recv() => anyhow::bail!("the demo was interrupted; its mesh ends, too"),
    };
    let ok = report.finish()?;
    ended?;
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn start_vault(program: PathBuf, folder: &mut Folder, report: &Report) -> anyhow::Result<Vault> {
    report.progress(&format!(
        "{} server -dev, with a root and an intermediate",
        program.display()
    ));
    let vault = Vault::start(program, folder.trust_domain()).await?;
    folder.let_sign(&vault.authority())?;
    Ok(vault)
}
