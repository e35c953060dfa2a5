//! `watchword status`: what a mesh's sidecars and control plane say of
//! themselves.
//!
//! Invariant: a part that does not answer is shown as such, and is no error.

use std::ffi::OsStr;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use anyhow::bail;
use clap::{Args, ValueEnum};
use comfy_table::{Table, presets};
use serde::Serialize;
use tokio::time::MissedTickBehavior;
use watchword_daemon::{Clock as _, SystemClock};
use watchword_proto::admin::StatusResponse;

use crate::admin_client::Admin;
use crate::find_mesh::{Found, Selector};
use crate::record::{Record, RunningReplica};
use crate::say;
use crate::sidecar_client::{self, Certificate, Connections, Denial};
use crate::time_left::{duration, seconds_left};

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

/// For people.
fn text(status: &Status) -> String {
    let mut lines = vec![headline(status)];
    let plane = &status.control_plane;
    lines.extend(
        plane
            .frozen
            .iter()
            .map(|id| format!("frozen, since an old certificate of it was used: {id}")),
    );
    lines.extend(plane.rejected.iter().cloned());
    if !status.replicas.is_empty() {
        lines.push(table(&status.replicas));
    }
    for replica in &status.replicas {
        if let Some(reason) = &replica.renewal_trouble {
            let left = replica.seconds_left.map_or_else(|| "-".to_owned(), duration);
            lines.push(format!(
                "{} gets no new certificate ({left} left): {reason}",
                replica.replica
            ));
        }
    }
    lines.join("\n")
}

fn headline(status: &Status) -> String {
    let plane = &status.control_plane;
    if let Some(error) = &plane.error {
        return error.clone();
    }
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let (domain, authority) = (text(&plane.trust_domain), text(&plane.authority));
    let mesh = status
        .mesh
        .as_ref()
        .map_or_else(String::new, |name| format!("mesh {name}, "));
    format!(
        "{mesh}trust domain {domain}, {authority} authority, epoch {}, {} sidecars connected",
        plane.epoch.unwrap_or_default(),
        plane.connected.unwrap_or_default()
    )
}

fn table(replicas: &[Replica]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "SERVICE",
        "REPLICA",
        "SPIFFE ID",
        "GENERATION",
        "TIME LEFT",
        "TUNNELS",
        "CONNECTIONS",
        "LAST DENIAL",
    ]);
    for replica in replicas {
        table.add_row(row(replica));
    }
    table.trim_fmt()
}

fn row(replica: &Replica) -> [String; 8] {
    let number = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    let last = match (&replica.error, &replica.last_denial) {
        (Some(error), _) => error.clone(),
        (None, Some(denial)) => sentence(denial),
        (None, None) => "-".to_owned(),
    };
    [
        replica.service.clone(),
        replica.replica.clone(),
        replica.spiffe_id.clone(),
        number(replica.generation),
        replica.seconds_left.map_or_else(|| "-".to_owned(), duration),
        number(replica.tunnels),
        number(replica.connections),
        last,
    ]
}

fn sentence(denial: &Denial) -> String {
    // Nobody is known where nobody was reached.
    let address = denial.address.map(|address| address.to_string());
    let peer = denial
        .peer
        .as_deref()
        .filter(|peer| !peer.is_empty())
        .or(address.as_deref());
    let peer = peer.unwrap_or("somebody unknown");
    let side = match denial.direction.as_str() {
        "outbound" => "to",
        _ => "from",
    };
    let named = |name: &'_ Option<String>| name.clone().filter(|name| !name.is_empty());
    let by = match (named(&denial.policy), named(&denial.rule)) {
        (Some(policy), Some(rule)) => format!(" by {policy}/{rule}"),
        (Some(policy), None) => format!(" by {policy}"),
        _ => String::new(),
    };
    let request = named(&denial.request).map_or_else(String::new, |request| format!(", {request}"));
    let audit = if denial.audit { "audit: " } else { "" };
    format!(
        "{audit}{side} {peer}, port {}{request}: {}{by}",
        denial.port, denial.reason
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]

    use super::*;

    fn replica() -> Replica {
        Replica {
            service: "orders".to_owned(),
            replica: "orders-1".to_owned(),
            spiffe_id: "spiffe://example.org/orders".to_owned(),
            generation: Some(3),
            serial: Some("0aff".to_owned()),
            not_after: Some(1_000),
            seconds_left: Some(723),
            renewal_trouble: None,
            tunnels: Some(2),
            connections: Some(5),
            last_denial: None,
            error: None,
        }
    }

    #[test]
    fn a_certificate_that_is_not_renewed_is_told_below_the_table() {
        let mut status = Status {
            mesh: Some("shop".to_owned()),
            control_plane: ControlPlane::default(),
            replicas: vec![replica()],
        };
        assert_eq!(text(&status).lines().count(), 3);
        let row: Vec<_> = text(&status)
            .lines()
            .nth(2)
            .unwrap_or_default()
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        assert_eq!(row[3..], ["3", "12m", "3s", "2", "5", "-"]);
        status
            .replicas
            .iter_mut()
            .for_each(|it| it.renewal_trouble = Some("Vault is sealed".to_owned()));
        let last = "orders-1 gets no new certificate (12m 3s left): Vault is sealed";
        assert_eq!(text(&status).lines().last(), Some(last));
    }

    #[test]
    fn a_denial_names_its_rule() {
        let denial = Denial {
            time: serde_json::json!(0),
            direction: "inbound".to_owned(),
            peer: Some("spiffe://example.org/lab".to_owned()),
            address: None,
            port: 8080,
            request: None,
            policy: Some("orders".to_owned()),
            rule: Some("not from the lab".to_owned()),
            reason: "deny-rule".to_owned(),
            audit: false,
        };
        let expected = "from spiffe://example.org/lab, port 8080: deny-rule by orders/not from the lab";
        assert_eq!(sentence(&denial), expected);
        let outside = Denial {
            direction: "outbound".to_owned(),
            peer: Some(String::new()),
            address: Some(std::net::Ipv4Addr::new(192, 0, 2, 1).into()),
            policy: None,
            reason: "egress".to_owned(),
            ..denial.clone()
        };
        assert_eq!(sentence(&outside), "to 192.0.2.1, port 8080: egress");
        let request = Denial {
            request: Some("GET /admin".to_owned()),
            rule: Some(String::new()),
            reason: "no-allow-rule".to_owned(),
            audit: true,
            ..denial
        };
        let expected = "audit: from spiffe://example.org/lab, port 8080, GET /admin: no-allow-rule by orders";
        assert_eq!(sentence(&request), expected);
    }
}
