//! `watchword-control-plane`: the operator's service.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use watchword_control_plane::{ControlPlane, LoadedMesh, MeshWatch, Process, RunError};
use watchword_daemon::{Metrics, Readiness, Shutdown, SystemClock, init_tracing};
use watchword_policy::Diagnostic;

/// A file has a mistake.
const EXIT_MISTAKE: u8 = 2;

/// Decides who is who, and tells proxies whom to trust and who may call.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves until it is told to stop.
    Run {
        #[command(flatten)]
        file: ConfigFile,
        /// Stop when standard input ends: with the process that started this one.
        #[arg(long, hide = true)]
        die_with_stdin: bool,
    },
    /// Says what is wrong with the file and its policies; starts nothing.
    Check {
        #[command(flatten)]
        file: ConfigFile,
    },
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// A mesh file in which services have endpoints.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let (file, die_with_stdin) = match &arguments.command {
        Command::Run { file, die_with_stdin } => (file, Some(*die_with_stdin)),
        Command::Check { file } => (file, None),
    };
    let (loaded, watch) = match MeshWatch::load(&file.config) {
        Ok(loaded) => loaded,
        Err(mistakes) => {
            say(&mistakes);
            return ExitCode::from(EXIT_MISTAKE);
        }
    };
    say(&loaded.policies.warnings);
    let Some(die_with_stdin) = die_with_stdin else {
        let (services, policies) = (loaded.mesh.services.len(), loaded.policies.policies.len());
        eprintln!(
            "{}: good; services: {services}, policies: {policies}",
            file.config.display()
        );
        return ExitCode::SUCCESS;
    };
    init_tracing("info");
    match run(loaded, watch, die_with_stdin) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "the control plane ends");
            ExitCode::FAILURE
        }
    }
}

fn say(diagnostics: &[Diagnostic]) {
    for diagnostic in diagnostics {
        eprintln!("{diagnostic}");
    }
}

fn run(loaded: LoadedMesh, watch: MeshWatch, die_with_stdin: bool) -> anyhow::Result<()> {
    watchword_daemon::prepare_process();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("can't start the runtime")?;
    runtime.block_on(async {
        let shutdown = Shutdown::on_signals().context("can't wait for signals")?;
        if die_with_stdin {
            stop_with_stdin(shutdown.clone())?;
        }
        let process = Process {
            clock: Arc::new(SystemClock),
            metrics: Metrics::new()?,
            readiness: Readiness::default(),
            shutdown,
        };
        for service in loaded.mesh.services.values().filter(|service| service.run.is_some()) {
            tracing::warn!(
                service = service.name,
                "`run` is for `watchword up`: the control plane starts no programs"
            );
        }
        let mut plane = match Box::pin(ControlPlane::start(&loaded, &process)).await {
            Ok(plane) => plane,
            Err(RunError::Stopped) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        plane.follow(watch, loaded.mesh);
        Ok(plane.run().await?)
    })
}

fn stop_with_stdin(shutdown: Shutdown) -> anyhow::Result<()> {
    // A thread of its own: reading standard input can't be cut.
    let wait = move || {
        // An error ends it as well as its end does.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        tracing::info!("standard input has ended");
        shutdown.request();
    };
    std::thread::Builder::new()
        .name("stdin".into())
        .spawn(wait)
        .context("can't watch standard input")?;
    Ok(())
}
