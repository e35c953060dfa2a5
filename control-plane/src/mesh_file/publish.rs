//! Where ports of a service can be called from outside of the mesh.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use watchword_policy::diagnostic::{Position, Report};
use watchword_policy::document::{Fields, Node};

use super::read::optional;
use super::service::report_undeclared_port;
use super::{PeerKind, Protocol, values};

/// A port of the service, and its address outside.
pub(super) struct Published {
    pub(super) port: u16,
    pub(super) listen: SocketAddr,
    pub(super) listen_at: Position,
    port_at: Position,
}

/// Reads `publish` of a service with these ports.
pub(super) fn read(
    fields: &Fields<'_>,
    (ports, peer): (&BTreeMap<u16, Protocol>, PeerKind),
    report: &mut Report,
) -> Option<Vec<Published>> {
    let published = optional(fields, "publish", report, read_ports)?.unwrap_or_default();
    for entry in &published {
        report_undeclared_port(entry.port, entry.port_at, ports, report);
    }
    if let Some(first) = published.first().filter(|_| peer == PeerKind::Mtls) {
        let message = "`publish` needs a sidecar, whose policies judge who calls; a service with `peer: mtls` has \
                       none: let its program listen where it is to be reached";
        report.error(first.port_at, message);
    }
    Some(published)
}

fn read_ports(node: &Node, report: &mut Report) -> Option<Vec<Published>> {
    let expected = "ports with the address where each can be called, such as {8080: 127.0.0.1:18080}";
    let entries = node.entries(expected, report)?;
    let mut published: Vec<Published> = Vec::new();
    let mut whole = true;
    for (key, value) in entries {
        let listen = values::socket_address(value, report);
        match values::port(key, report).zip(listen) {
            // Two spellings of one number are no repeated keys to YAML.
            Some((port, _)) if published.iter().any(|other| other.port == port) => {
                report.error(key.at, format!("port {port} is given twice: keep one"));
                whole = false;
            }
            Some((port, listen)) => published.push(Published {
                port,
                port_at: key.at,
                listen,
                listen_at: value.at,
            }),
            None => whole = false,
        }
    }
    whole.then_some(published)
}
