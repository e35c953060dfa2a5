//! `watchword-proxy`: the sidecar.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use watchword_proxy::carry;
use watchword_proxy::config::{Config, Interception, Scope};
use watchword_proxy::egress::gateway;
use watchword_proxy::intercept::{install, rules, way_back};
use watchword_proxy::run;

/// The sidecar of the Watchword service mesh.
#[derive(Parser)]
#[command(version, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the sidecar until SIGTERM.
    Run {
        /// The configuration; deploy/proxy.yaml is a full example.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Reads the configuration, says what is wrong with it, and does nothing else.
    Check {
        /// The configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Carries connections of a listening socket, which is standard input, to
    /// an address: a part of `watchword up`.
    #[command(hide = true)]
    Carry {
        /// Where to.
        #[arg(long, value_name = "IP:PORT")]
        to: SocketAddr,
    },
    /// Dials what is outside of the mesh for sidecars, on a listening Unix
    /// socket that is standard input: a part of `watchword up`.
    #[command(hide = true)]
    Gateway {
        /// What may be called.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// The redirect rules of this network namespace.
    Intercept {
        #[command(subcommand)]
        action: Action,
    },
}

#[derive(Subcommand)]
enum Action {
    /// Puts the rules in force, in one transaction, in place of older ones.
    Install(Rules),
    /// Removes the rules, whether they are there or not. Kernel settings stay.
    Remove,
    /// Prints the rules as `nft -f` takes them; what else is done stands there
    /// as comments.
    Print(Rules),
}

#[derive(clap::Args)]
struct Rules {
    /// The proxy's configuration: its `interception` section counts.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// On a plain host: capture all TCP but port 22.
    #[arg(long)]
    all: bool,
}

fn main() -> ExitCode {
    match act(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Standard error is where people and supervisors look.
fn say(text: &str) {
    let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("watchword-proxy: {text}\n"));
}

fn act(command: Command) -> Result<()> {
    match command {
        Command::Run { config } => {
            let config = Config::load(&config)?;
            watchword_daemon::init_tracing("info");
            run::run(config)
        }
        Command::Check { config } => Config::load(&config).map(|_| ()).map_err(Into::into),
        Command::Carry { to } => {
            watchword_daemon::init_tracing("info");
            carry::run(to)
        }
        Command::Gateway { config } => {
            watchword_daemon::init_tracing("info");
            gateway::run(&config)
        }
        Command::Intercept { action } => intercept(action),
    }
}

fn intercept(action: Action) -> Result<()> {
    match action {
        Action::Install(arguments) => {
            let interception = interception(&arguments)?;
            install::install(&rules::whole_namespace(&interception)).context("traffic is not intercepted anew")?;
            // The sidecar works without, and says at start what that means.
            if let Err(error) = way_back::install(interception.dial_from()) {
                say(&format!("the app's answers have no way back to the sidecar: {error}"));
            }
            Ok(())
        }
        Action::Remove => {
            install::remove()?;
            Ok(way_back::remove()?)
        }
        Action::Print(arguments) => {
            let interception = interception(&arguments)?;
            let script = install::print(&rules::whole_namespace(&interception))?;
            let text = format!("{}{script}", way_back::print(interception.dial_from()));
            std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes())?;
            Ok(())
        }
    }
}

fn interception(arguments: &Rules) -> Result<Interception> {
    let config = Config::load(&arguments.config)?;
    match (config.interception.scope, arguments.all) {
        (_, true) => Ok(without_ssh(config.interception)),
        (Some(Scope::Namespace), false) => Ok(config.interception),
        (None, false) => bail!(
            "capturing declared ports only is not supported by this version yet: use --all on a plain host \
             (all TCP but port 22), or `interception: {{scope: namespace}}` where the network namespace is the \
             workload's alone"
        ),
    }
}

/// A mistake must not lock out who could mend it.
fn without_ssh(mut interception: Interception) -> Interception {
    const SSH: u16 = 22;
    for ports in [
        &mut interception.exclude_inbound_ports,
        &mut interception.exclude_outbound_ports,
    ] {
        if !ports.contains(&SSH) {
            ports.push(SSH);
        }
    }
    interception
}
