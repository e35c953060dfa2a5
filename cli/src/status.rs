//! `watchword status`: what a mesh's sidecars and control plane say of
//! themselves.
//!
//! Invariant: a part that does not answer is shown as such, and is no error.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::ValueEnum;
use comfy_table::{Table, presets};
use serde::Serialize;
use watchword_daemon::{Clock as _, SystemClock};
use watchword_proto::admin::StatusResponse;

use crate::admin_client::Admin;
use crate::find_mesh::{Found, Selector};
use crate::record::{Record, RunningReplica};
use crate::say;
use crate::sidecar_client::{self, Certificate, Connections, Denial};

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
    connections: Option<u64>,
    last_denial: Option<Denial>,
    error: Option<String>,
}

/// Asks every part and prints what they say.
pub(crate) async fn run(selector: &Selector, format: Format) -> anyhow::Result<()> {
    let found = selector.find()?;
    let status = collect(&found).await;
    match format {
        Format::Json => say::out(serde_json::to_string_pretty(&status)?)?,
        Format::Table => print(&status)?,
    }
    Ok(())
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
    let (certificate, connections) = tokio::join!(
        sidecar_client::get::<Certificate>(socket, "/certs"),
        sidecar_client::get::<Connections>(socket, "/connections"),
    );
    let error = certificate
        .as_ref()
        .err()
        .or(connections.as_ref().err())
        .map(ToString::to_string)
        .or(running.trouble);
    let (certificate, connections) = (certificate.ok(), connections.ok());
    let not_after = certificate.as_ref().map(|certificate| certificate.not_after);
    Replica {
        service: running.replica.service,
        replica: running.replica.name,
        spiffe_id: running.replica.spiffe_id,
        generation: certificate.as_ref().map(|certificate| certificate.generation),
        serial: certificate.map(|certificate| certificate.serial),
        not_after,
        seconds_left: not_after.map(|end| seconds_left(end, SystemClock.now())),
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

fn print(status: &Status) -> std::io::Result<()> {
    let plane = &status.control_plane;
    if let Some(error) = &plane.error {
        say::out(error)?;
    } else {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let (domain, authority) = (text(&plane.trust_domain), text(&plane.authority));
        let connected = plane.connected.unwrap_or_default();
        let mesh = status
            .mesh
            .as_ref()
            .map_or_else(String::new, |name| format!("mesh {name}, "));
        say::out(format!(
            "{mesh}trust domain {domain}, {authority} authority, epoch {}, {connected} sidecars connected",
            plane.epoch.unwrap_or_default()
        ))?;
    }
    for id in &plane.frozen {
        say::out(format!("frozen, since an old certificate of it was used: {id}"))?;
    }
    plane.rejected.iter().try_for_each(say::out)?;
    if status.replicas.is_empty() {
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "SERVICE",
        "REPLICA",
        "SPIFFE ID",
        "GENERATION",
        "TIME LEFT",
        "CONNECTIONS",
        "LAST DENIAL",
    ]);
    for replica in &status.replicas {
        table.add_row(row(replica));
    }
    say::out(table.trim_fmt())
}

fn row(replica: &Replica) -> [String; 7] {
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
        number(replica.connections),
        last,
    ]
}

fn sentence(denial: &Denial) -> String {
    let peer = denial.peer.as_deref().unwrap_or("somebody unknown");
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

fn seconds_left(not_after: u64, now: SystemTime) -> i64 {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    signed(not_after).saturating_sub(signed(now))
}

/// `1h 5m`, `12m 3s`, `4s`, `expired 4s ago`.
fn duration(seconds: i64) -> String {
    if seconds < 0 {
        return format!("expired {} ago", duration(seconds.saturating_neg()));
    }
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m {seconds}s"),
        (hours, minutes, _) => format!("{hours}h {minutes}m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_told_as_people_tell_it() {
        let all = [3_900, 723, 4, 0, -4].map(duration);
        assert_eq!(all, ["1h 5m", "12m 3s", "4s", "0s", "expired 4s ago"]);
        let now = UNIX_EPOCH + Duration::from_secs(100);
        assert_eq!((seconds_left(160, now), seconds_left(90, now)), (60, -10));
    }

    #[test]
    fn a_denial_names_its_rule() {
        let denial = Denial {
            time: serde_json::json!(0),
            direction: "inbound".to_owned(),
            peer: Some("spiffe://example.org/lab".to_owned()),
            port: 8080,
            request: None,
            policy: Some("orders".to_owned()),
            rule: Some("not from the lab".to_owned()),
            reason: "deny-rule".to_owned(),
            audit: false,
        };
        let expected = "from spiffe://example.org/lab, port 8080: deny-rule by orders/not from the lab";
        assert_eq!(sentence(&denial), expected);
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
