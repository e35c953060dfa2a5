//! Calls to what lies outside of the mesh: who may be called there, and the
//! way. In plaintext, and only where the mesh file says so.
//!
//! Invariants: link-local addresses and the mesh's own are never called so; a
//! change of the directory that denies a live call cuts it.

mod chunks;
pub mod gateway;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::sync::watch::Receiver;
use watchword_proto::directory::{Egress, EgressMode, NEVER_EGRESS};
use watchword_tunnel::AppStream;

use crate::dial::Dialler;
use crate::directory::Found;
use crate::ended::{Ended, Verdict};
use crate::mesh::Mesh;
use crate::refusal::{Refusal, Why};
use crate::relay::relay;

/// What stands for a policy in logs and metrics.
const POLICY: &str = "egress";

/// How what is outside is reached.
#[derive(Clone, Debug)]
pub(crate) enum Way {
    /// From here.
    Direct,
    /// By the helper that listens there, from another network.
    Gateway(Arc<PathBuf>),
}

/// A call that may be made.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Permit {
    /// The entry that lists it; none: it passes by the mode.
    entry: Option<Arc<str>>,
    /// Only an audit: it would be denied.
    would_deny: bool,
}

/// Carries a call to its end.
pub(crate) async fn carry(mesh: &Mesh, mut app: TcpStream, dialled: SocketAddr) -> Ended {
    let changes = mesh.snapshots.directory_changes();
    let permit = match permitted(mesh, dialled) {
        Ok(permit) => permit,
        Err(refusal) => {
            app.abort();
            return Ended::denied(&refusal);
        }
    };
    let decision = if permit.would_deny { "would-deny" } else { "allow" };
    let verdict = Verdict::by(decision, POLICY.into(), permit.entry.clone());
    let telemetry = mesh.connections.telemetry();
    telemetry.decided(Some(&POLICY.into()), permit.entry.as_ref(), decision);
    let carried = async {
        match &mesh.egress {
            Way::Direct => carry_to(app, connect(&mesh.dialler, dialled).await, verdict).await,
            Way::Gateway(socket) => carry_to(app, gateway::connect(socket, dialled).await, verdict).await,
        }
    };
    tokio::select! {
        ended = carried => ended,
        () = denied_later(mesh, dialled, changes) => Ended::failed("cut", "policy-changed"),
    }
}

/// Why what is outside was not reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreached {
    /// It has another list than we do.
    #[error("the helper denies it")]
    Denied,
    /// The helper is away, or talks nonsense.
    #[error("the helper for egress does not answer: {0}")]
    NoHelper(io::Error),
    /// The network's or the server's word for it.
    #[error("{0}")]
    Network(io::Error),
}

async fn connect(dialler: &Dialler, to: SocketAddr) -> Result<TcpStream, Unreached> {
    dialler.connect(to).await.map_err(Unreached::Network)
}

async fn carry_to(mut app: TcpStream, outside: Result<impl AppStream, Unreached>, verdict: Verdict) -> Ended {
    match outside {
        Ok(outside) => relay((app, Vec::new()), outside, verdict).await,
        Err(error) => {
            app.abort();
            match error {
                Unreached::Denied => Ended::denied(&Refusal::of(Why::Egress)),
                error => Ended {
                    verdict,
                    ..Ended::refused(&error.to_string())
                },
            }
        }
    }
}

/// Asks the directory of this moment.
fn permitted(mesh: &Mesh, dialled: SocketAddr) -> Result<Permit, Refusal> {
    let directory = mesh.snapshots.directory().ok_or_else(|| Refusal::of(Why::NotReady))?;
    // What has become the mesh's meanwhile is not outside.
    let is_outside = directory.find(dialled) == Found::Outside;
    let permit = is_outside.then(|| judge(directory.egress(), dialled)).flatten();
    permit.ok_or_else(|| Refusal::of(Why::Egress))
}

async fn denied_later(mesh: &Mesh, dialled: SocketAddr, mut changes: Receiver<u64>) {
    while permitted(mesh, dialled).is_ok() {
        if changes.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// What a list says of an address that is none of the mesh's.
fn judge(egress: &Egress, dialled: SocketAddr) -> Option<Permit> {
    let address = dialled.ip().to_canonical();
    if NEVER_EGRESS.iter().any(|never| never.contains(&address)) {
        return None;
    }
    let listed = egress.entries.iter().find(|entry| {
        let port = entry.ports.is_empty() || entry.ports.contains(&dialled.port());
        port && entry.to.iter().any(|range| range.contains(&address))
    });
    let permit = |entry: Option<&str>, would_deny| Permit {
        entry: entry.map(Arc::from),
        would_deny,
    };
    match (listed, egress.mode) {
        (Some(entry), _) => Some(permit(Some(&entry.name), false)),
        (None, EgressMode::Allow) => Some(permit(None, false)),
        (None, EgressMode::Audit) => Some(permit(None, true)),
        (None, EgressMode::Deny) => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use watchword_proto::directory::EgressEntry;

    use super::*;

    fn egress(mode: EgressMode) -> Egress {
        let entry = |name: &str, to: &[&str], ports: &[u16]| EgressEntry {
            name: name.to_owned(),
            to: to.iter().map(|range| range.parse().unwrap()).collect(),
            ports: ports.to_vec(),
        };
        Egress {
            mode,
            entries: vec![
                entry("registry", &["10.0.0.9/32", "2001:db8::/64"], &[443]),
                entry("everything", &["198.51.100.0/24", "0.0.0.0/0"], &[9999]),
                entry("all ports", &["203.0.113.7/32"], &[]),
            ],
        }
    }

    #[test]
    fn what_is_listed_passes_by_its_entry_and_the_rest_by_the_mode() {
        let table = [
            ("10.0.0.9:443", Some("registry")),
            ("[2001:db8::7]:443", Some("registry")),
            ("[::ffff:10.0.0.9]:443", Some("registry")),
            ("10.0.0.9:80", None),
            ("10.0.0.8:443", None),
            ("[2001:db8:1::7]:443", None),
            ("203.0.113.7:1", Some("all ports")),
            ("192.0.2.1:9999", Some("everything")),
        ];
        for (dialled, entry) in table {
            let dialled = dialled.parse().unwrap();
            let found = |mode| judge(&egress(mode), dialled).map(|permit| (permit.entry, permit.would_deny));
            let entry: Option<Arc<str>> = entry.map(Arc::from);
            let by_entry = entry.clone().map(|entry| (Some(entry), false));
            assert_eq!(found(EgressMode::Deny), by_entry, "{dialled}");
            assert_eq!(found(EgressMode::Allow), Some((entry.clone(), false)), "{dialled}");
            let is_listed = entry.is_some();
            assert_eq!(found(EgressMode::Audit), Some((entry, !is_listed)), "{dialled}");
        }
    }

    #[test]
    fn link_local_and_the_likes_are_never_called() {
        for never in [
            "169.254.169.254:9999",
            "[::ffff:169.254.169.254]:9999",
            "127.0.0.1:9999",
            "0.0.0.0:9999",
            "224.0.0.1:9999",
            "255.255.255.255:9999",
            "[fe80::1]:80",
            "[::1]:80",
            "[::]:80",
            "[ff02::1]:80",
        ] {
            assert_eq!(
                judge(&egress(EgressMode::Allow), never.parse().unwrap()),
                None,
                "{never}"
            );
        }
    }
}
