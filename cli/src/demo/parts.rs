//! The programs of the demo's mesh, built into this binary: they are run inside
//! of replicas, and know nothing of certificates.
//!
//! Invariants: each waits with a deadline; each ends when its standard input
//! does, or after one answer; what it found out is one line of JSON.

pub(crate) mod ask;
pub(crate) mod hold;
pub(crate) mod listen_in;
pub(crate) mod load;
mod shop;

use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use serde::Serialize;
use tokio::sync::oneshot;

use crate::say;

/// What one call may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the shop speaks HTTP/1.1.
pub(crate) const HTTP_PORT: u16 = 8080;
/// Where it speaks gRPC.
pub(crate) const GRPC_PORT: u16 = 9090;
/// Where it sends back what it gets.
pub(crate) const TCP_PORT: u16 = 7070;

/// The hidden subcommands that the demo's mesh runs.
#[derive(Debug, Subcommand)]
pub(crate) enum Part {
    /// Serves HTTP, gRPC and an echo, for ever.
    Shop {
        /// What it calls itself.
        name: String,
    },
    /// Makes one call.
    Ask(ask::Arguments),
    /// Makes calls until standard input ends.
    Load {
        /// What to get, again and again.
        url: http::Uri,
    },
    /// Keeps one connection busy until standard input ends.
    Hold {
        /// HOST:PORT of an echo.
        target: String,
    },
    /// Counts markers in what passes by, until standard input ends.
    ListenIn {
        /// What to look for.
        markers: Vec<String>,
    },
}

/// Runs one of them.
pub(crate) fn run(part: Part) -> ExitCode {
    match part {
        Part::Shop { name } => crate::block_on(shop::serve(name)),
        Part::Ask(arguments) => crate::block_on(async { print(&ask::ask(&arguments).await) }),
        Part::Load { url } => crate::block_on(async { print(&load::run(&url).await) }),
        Part::Hold { target } => crate::block_on(async { print(&hold::run(&target).await) }),
        Part::ListenIn { markers } => crate::report(listen_in::run(&markers).map(|()| ExitCode::SUCCESS)),
    }
}

fn print(found: &impl Serialize) -> anyhow::Result<()> {
    Ok(say::out(serde_json::to_string(found)?)?)
}

/// Waits until nobody holds the other end of standard input any more.
async fn input_ended() {
    let (tell, ended) = oneshot::channel();
    // A thread, since the runtime would wait for a read of its own.
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        let _ = tell.send(());
    });
    let _ = ended.await;
}
