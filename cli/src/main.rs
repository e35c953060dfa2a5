//! `watchword`: the mesh's command for people.
//!
//! Invariants: nothing starts a thread before the launcher had its turn (user
//! namespaces are refused to processes with threads), so each command that
//! needs a runtime builds its own; errors go to standard error, results to
//! standard output.

mod admin_client;
mod bench;
mod bundle;
mod cert;
mod completions;
mod curve;
mod demo;
mod doctor;
mod examples;
mod exec;
mod find_mesh;
mod launcher;
mod machine;
mod mesh_folder;
mod own_mesh;
mod policy;
mod record;
mod say;
mod sidecar_client;
mod status;
mod time_left;
mod token;
mod up;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use clap_complete::Shell;

use crate::find_mesh::Selector;
use crate::launcher::Internal;

/// A service mesh that gives every connection an identity
#[derive(Debug, Parser)]
#[command(name = "watchword", version, after_help = examples::WATCHWORD)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show a whole mesh at work, with proof for each claim
    #[command(after_help = examples::DEMO)]
    Demo(demo::Arguments),
    /// Look at what this machine has and lacks, with the commands that mend it; exit status 1 when a mesh can't start
    #[command(after_help = examples::DOCTOR)]
    Doctor(doctor::Flags),
    /// Run a mesh file on this machine, in the foreground
    #[command(after_help = examples::UP)]
    Up {
        /// The mesh file
        file: PathBuf,
        /// End with the process that started this one
        #[arg(long, hide = true)]
        tied: bool,
    },
    /// Run a command inside a service's network, as that service
    #[command(after_help = examples::EXEC)]
    Exec {
        #[command(flatten)]
        selector: Selector,
        /// The service, or one of its replicas: `orders-2`
        service: String,
        /// The command, after `--`
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Show services, identities, tunnels, the last denial, and certificates that are not renewed
    #[command(after_help = examples::STATUS)]
    Status(status::Flags),
    /// Work with the trust bundle
    #[command(subcommand)]
    Bundle(bundle::Command),
    /// Look at certificates
    #[command(subcommand)]
    Cert(cert::Command),
    /// Work with policy files
    #[command(subcommand)]
    Policy(policy::Command),
    /// Work with join tokens
    #[command(subcommand)]
    Token(Token),
    /// Measure the mTLS hop of this machine against plain TCP, in less than half a minute
    #[command(after_help = examples::BENCH)]
    Bench(bench::Flags),
    /// The ends of the load of `bench`
    #[command(subcommand, hide = true)]
    BenchEnd(bench::End),
    /// Print what a shell needs to complete this command
    #[command(after_help = examples::COMPLETIONS)]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Programs of the demo's mesh
    #[command(subcommand, hide = true)]
    DemoPart(demo::Part),
    /// Steps of other commands
    #[command(subcommand, hide = true)]
    Internal(Internal),
}

#[derive(Debug, Subcommand)]
enum Token {
    /// Print a one-time join token, valid for ten minutes
    #[command(after_help = examples::TOKEN_CREATE)]
    Create {
        #[command(flatten)]
        selector: Selector,
        /// The SPIFFE ID that its bearer may ask for
        #[arg(long, value_name = "ID")]
        id: spiffe::SpiffeId,
    },
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Demo(arguments) => block_on_code(demo::run(&arguments)),
        Command::DemoPart(part) => demo::run_part(part),
        Command::Doctor(flags) => block_on_code(async { doctor::run(&flags).await }),
        Command::Up { file, tied } => up::run(&file, tied),
        Command::Exec {
            selector,
            service,
            command,
        } => report(exec::run(&selector, &service, command)),
        Command::Status(flags) => block_on(async { status::run(&flags).await }),
        Command::Bundle(command) => report(bundle::run(command).map(|()| ExitCode::SUCCESS)),
        Command::Cert(command) => block_on(cert::run(command)),
        Command::Policy(command) => policy::run(command),
        Command::Token(Token::Create { selector, id }) => block_on(token::create(&selector, &id)),
        Command::Bench(flags) => block_on(async { bench::run(&flags).await }),
        Command::BenchEnd(end) => block_on(bench::run_end(end)),
        Command::Completions { shell } => report(completions::run(shell).map(|()| ExitCode::SUCCESS)),
        Command::Internal(command) => launcher::run(&command, up::supervise::supervise),
    }
}

fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    block_on_code(async { work.await.map(|()| ExitCode::SUCCESS) })
}

fn block_on_code(work: impl Future<Output = anyhow::Result<ExitCode>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(work));
    report(result)
}

fn report(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        say::error(format!("{error:#}"));
        ExitCode::FAILURE
    })
}
