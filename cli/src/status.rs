//! `watchword status`: what a mesh's sidecars and control plane say of
//! themselves.
//!
//! Invariant: a part that does not answer is shown as such, and is no error.

mod text;

use std::ffi::OsStr;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use anyhow::bail;
use clap::{Args, ValueEnum};
use serde::Serialize;
use tokio::time::MissedTickBehavior;
use watchword_daemon::{Clock as _, SystemClock};
use watchword_proto::admin::StatusResponse;

use self::text::text;
use crate::admin_client::Admin;
use crate::find_mesh::{Found, Selector};
use crate::record::{Record, RunningReplica};
use crate::say;
use crate::sidecar_client::{self, Certificate, Connections, Denial};
use crate::time_left::seconds_left;

const BETWEEN_DRAWINGS: Duration = Duration::from_secs(1);
/// Control sequences of ECMA-48: old text is covered, not removed first, so that
/// nothing flickers.
const CLEAR: &str = "\x1b[H\x1b[2J";
const HOME: &str = "\x1b[H";
const REST_OF_LINE: &str = "\x1b[K";
const REST_OF_SCREEN: &str = "\x1b[J";

#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    selector: Selector,
    /// Draw it again each second, until ctrl-C
    #[arg(long, conflicts_with = "output")]
    watch: bool,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// How output is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
}

/// Everything that is printed.
#[derive(Debug, Serialize)]
struct Status {
    mesh: Option<String>,
    control_plane: ControlPlane,
    replicas: Vec<Replica>,
}

#[derive(Debug, Default, Serialize)]
struct ControlPlane {
    trust_domain: Option<String>,
    authority: Option<String>,
    epoch: Option<u64>,
    connected: Option<usize>,
    /// Of lineages from which nothing is issued any more.
    frozen: Vec<String>,
    /// What proxies refuse to take, with their reasons.
    rejected: Vec<String>,
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct Replica {
    service: String,
    replica: String,
    spiffe_id: String,
    generation: Option<u64>,
    serial: Option<String>,
    not_after: Option<u64>,
    seconds_left: Option<i64>,
    /// Why there is no newer certificate, while that was tried in vain.
    renewal_trouble: Option<String>,
    /// Made and accepted.
    tunnels: Option<u64>,
    connections: Option<u64>,
    last_denial: Option<Denial>,
    error: Option<String>,
}

/// Asks every part and prints what they say.
pub(crate) async fn run(flags: &Flags) -> anyhow::Result<()> {
    if flags.watch {
        return watch(&flags.selector).await;
    }
    let status = collect(&flags.selector.find()?).await;
    match flags.output {
        Format::Json => say::out(serde_json::to_string_pretty(&status)?)?,
        Format::Table => say::out(text(&status))?,
    }
    Ok(())
}

/// Draws it in the same place each second, until the mesh ends or ctrl-C.
async fn watch(selector: &Selector) -> anyhow::Result<()> {
    let otherwise = "ask now and then with `-o json` instead";
    if !std::io::stdout().is_terminal() {
        bail!("--watch draws on a terminal, and standard output is none: {otherwise}");
    }
    if !can_be_drawn_on(std::env::var_os("TERM").as_deref()) {
        bail!("--watch moves the cursor, which this terminal can't by what TERM says: set it, or {otherwise}");
    }
    let mut turns = tokio::time::interval(BETWEEN_DRAWINGS);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut start = CLEAR;
    loop {
        turns.tick().await;
        let status = collect(&selector.find()?).await;
        let lines: String = text(&status)
            .lines()
            .map(|line| format!("{line}{REST_OF_LINE}\n"))
            .collect();
        // Not by `say`, which takes away all control sequences where no colour is wanted.
        let mut screen = std::io::stdout().lock();
        writeln!(screen, "{start}{lines}{REST_OF_SCREEN}")?;
        screen.flush()?;
        start = HOME;
    }
}

fn can_be_drawn_on(term: Option<&OsStr>) -> bool {
    term.is_some_and(|term| !term.is_empty() && term != "dumb")
}

async fn collect(found: &Found) -> Status {
    let record = found.folder.as_deref().and_then(|folder| Record::load(folder).ok());
    let control_plane = match Admin::new(&found.admin).status().await {
        Ok(answer) => describe(answer),
        Err(error) => ControlPlane {
            error: Some(error.to_string()),
            ..ControlPlane::default()
        },
    };
    let (mut replicas, mut tasks) = (Vec::new(), Vec::new());
    for replica in record.iter().flat_map(|record| record.replicas.clone()) {
        tasks.push(tokio::spawn(ask(replica)));
    }
    for task in tasks {
        replicas.extend(task.await);
    }
    Status {
        mesh: record.map(|record| record.name),
        control_plane,
        replicas,
    }
}

async fn ask(running: RunningReplica) -> Replica {
    let socket = &running.admin_socket;
    let (certificate, connections, tunnels) = tokio::join!(
        sidecar_client::get::<Option<Certificate>>(socket, "/certs"),
        sidecar_client::get::<Connections>(socket, "/connections"),
        sidecar_client::metric(socket, "watchword_tunnels_active"),
    );
    let error = match (&certificate, &connections) {
        (Err(error), _) | (_, Err(error)) => Some(error.to_string()),
        (Ok(None), _) => Some("no certificate yet".to_owned()),
        _ => running.trouble,
    };
    let (certificate, connections) = (certificate.ok().flatten(), connections.ok());
    let not_after = certificate.as_ref().map(|certificate| certificate.not_after);
    Replica {
        service: running.replica.service,
        replica: running.replica.name,
        spiffe_id: running.replica.spiffe_id,
        generation: certificate.as_ref().map(|certificate| certificate.generation),
        serial: certificate.as_ref().map(|certificate| certificate.serial.clone()),
        renewal_trouble: certificate.and_then(|certificate| certificate.renewal_trouble),
        tunnels: tunnels.ok(),
        not_after,
        seconds_left: not_after.map(|end| seconds_left(i64::try_from(end).unwrap_or(i64::MAX), SystemClock.now())),
        connections: connections.as_ref().map(|connections| connections.active),
        last_denial: connections.and_then(|connections| connections.last_denial),
        error,
    }
}

fn describe(answer: StatusResponse) -> ControlPlane {
    let rejected = answer.subscribers.iter().flat_map(|subscriber| {
        let bad = subscriber
            .snapshots
            .iter()
            .filter(|snapshot| !snapshot.rejected_because.is_empty());
        bad.map(|snapshot| {
            format!(
                "{} refuses {}: {}",
                subscriber.spiffe_id, snapshot.kind, snapshot.rejected_because
            )
        })
    });
    ControlPlane {
        rejected: rejected.collect(),
        connected: Some(answer.subscribers.len()),
        frozen: answer
            .lineages
            .into_iter()
            .filter(|l| l.frozen)
            .map(|l| l.spiffe_id)
            .collect(),
        trust_domain: Some(answer.trust_domain),
        authority: Some(answer.authority),
        epoch: Some(answer.epoch),
        error: None,
    }
}
