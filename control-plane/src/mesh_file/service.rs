//! One service of a mesh file.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use spiffe::{SpiffeId, TrustDomain};
use watchword_policy::diagnostic::{Position, Report};
use watchword_policy::document::{Fields, Node};

use super::agreement::PlacedService;
use super::read::{list, optional};
use super::{PeerKind, Protocol, Service, publish, values};

const KEYS: &[&str] = &[
    "id",
    "run",
    "env",
    "directory",
    "ports",
    "replicas",
    "user",
    "publish",
    "healthy",
    "peer",
    "endpoints",
    "addresses",
    "virtualAddresses",
];
/// Keys that say how a program is run.
const WITH_RUN: &[&str] = &["env", "directory", "replicas", "user", "healthy", "publish"];
const MAX_REPLICAS: u16 = 64;

/// Reads the service `name`, which is nothing where the name was wrong.
pub(super) fn read(
    node: &Node,
    (name, name_at): (Option<&str>, Position),
    (domain, base): (Option<&TrustDomain>, &Path),
    report: &mut Report,
) -> Option<PlacedService> {
    let fields = node.fields("a service", KEYS, report)?;
    let runs = runs_here(&fields, report);
    let id = match fields.optional("id") {
        Some(id) => values::workload_id(id, domain, report),
        None => default_id(name, name_at, domain, report),
    };
    let run = optional(&fields, "run", report, read_run);
    let env = optional(&fields, "env", report, read_env);
    let directory = optional(&fields, "directory", report, |node, report| {
        values::path(node, base, report)
    });
    let ports = optional(&fields, "ports", report, read_ports);
    let replicas = optional(&fields, "replicas", report, |node, report| {
        node.integer(1..=MAX_REPLICAS, "a number", report)
    });
    let user = optional(&fields, "user", report, read_user);
    let healthy = optional(&fields, "healthy", report, read_healthy);
    let endpoints = list(&fields, "endpoints", "IP:PORT", report, read_endpoint);
    let addresses = list(&fields, "addresses", "IP addresses", report, |node, report| {
        read_address(node, "the address of one machine", report)
    });
    let virtual_addresses = list(&fields, "virtualAddresses", "IP addresses", report, |node, report| {
        read_address(node, "an address that can stand for a service", report)
    });
    let peer = optional(&fields, "peer", report, read_peer);
    let (ports, endpoints) = (ports?.unwrap_or_default(), endpoints?);
    report_undeclared(&endpoints, &ports, report);
    let peer = peer?.unwrap_or_default();
    let published = publish::read(&fields, (&ports, peer), report);
    runs?;
    Some(PlacedService {
        name_at,
        directory_at: fields.optional("directory").map(|node| node.at),
        endpoints_at: endpoints.iter().map(|(_, at)| *at).collect(),
        publish_at: published
            .iter()
            .flatten()
            .map(|entry| (entry.listen, entry.listen_at))
            .collect(),
        addresses_at: addresses.iter().flatten().map(|(_, at)| *at).collect(),
        virtual_addresses_at: virtual_addresses.iter().flatten().map(|(_, at)| *at).collect(),
        service: Service {
            name: name?.to_owned(),
            id: id?,
            run: run?,
            env: env?.unwrap_or_default(),
            directory: directory?.unwrap_or_else(|| base.to_owned()),
            ports,
            replicas: replicas?.unwrap_or(1),
            user: user?,
            healthy: healthy?,
            publish: published?.into_iter().map(|entry| (entry.port, entry.listen)).collect(),
            endpoints: endpoints.into_iter().map(|(address, _)| address).collect(),
            addresses: addresses?.into_iter().map(|(address, _)| address).collect(),
            virtual_addresses: virtual_addresses?.into_iter().map(|(address, _)| address).collect(),
            peer,
        },
    })
}

/// Whether the service has `run` rather than `endpoints`, and only keys that
/// go with that.
fn runs_here(fields: &Fields<'_>, report: &mut Report) -> Option<bool> {
    let (run, endpoints) = (fields.place_of("run"), fields.place_of("endpoints"));
    let (misplaced, why): (&[&str], &str) = match (run, endpoints) {
        (None, None) => {
            let message = "expected `run: [PROGRAM, ARGUMENT…]` (a service that is started here) or `endpoints: \
                           [IP:PORT…]` (one that runs elsewhere) in a service";
            report.error(fields.at(), message);
            return None;
        }
        (Some(_), Some(at)) => {
            report.error(at, "a service has either `run` or `endpoints`: remove one of them");
            return None;
        }
        (Some(_), None) => (
            &["virtualAddresses", "addresses"],
            "goes with `endpoints`: a service with `run` gets addresses by itself",
        ),
        (None, Some(_)) => (
            WITH_RUN,
            "goes with `run`: nothing is started for a service with `endpoints`",
        ),
    };
    for key in misplaced {
        if let Some(at) = fields.place_of(key) {
            report.error(at, format!("`{key}` {why}; remove it"));
        }
    }
    Some(run.is_some())
}

fn default_id(
    name: Option<&str>,
    name_at: Position,
    domain: Option<&TrustDomain>,
    report: &mut Report,
) -> Option<SpiffeId> {
    let id = SpiffeId::from_segments(domain?.clone(), &[name?]).ok()?;
    if values::is_reserved(&id) {
        let message =
            format!("the ID of this service would be `{id}`, which is reserved: rename it, or give it an `id`");
        report.error(name_at, message);
        return None;
    }
    Some(id)
}

fn read_run(node: &Node, report: &mut Report) -> Option<Vec<String>> {
    let expected = "a program and its arguments, such as [./orders, --port, 8080]";
    let words = values::each(node, expected, report, |node, report| plain(node, "a text", report))?;
    if words.first().is_none_or(String::is_empty) {
        node.mismatch(expected, report);
        return None;
    }
    Some(words)
}

fn read_env(node: &Node, report: &mut Report) -> Option<BTreeMap<String, String>> {
    let entries = node.entries("variables by name", report)?;
    let variables: Vec<Option<(String, String)>> = entries
        .into_iter()
        .map(|(key, value)| {
            let expected = "the name of a variable, without `=`";
            let name = plain(key, expected, report);
            let name = name.filter(|name| {
                let good = !name.is_empty() && !name.contains('=');
                if !good {
                    key.mismatch(expected, report);
                }
                good
            });
            let value = plain(value, "a text", report);
            name.zip(value)
        })
        .collect();
    variables.into_iter().collect()
}

fn read_healthy(node: &Node, report: &mut Report) -> Option<u16> {
    let fields = node.fields("`healthy`", &["port"], report)?;
    let hint = "the port that accepts connections once the service is up";
    values::port(fields.required("port", hint, report)?, report)
}

fn read_peer(node: &Node, report: &mut Report) -> Option<PeerKind> {
    let expected = "`watchword` (a sidecar) or `mtls` (a program that does its own mutual TLS)";
    match node.text(expected, report)? {
        "watchword" => Some(PeerKind::Watchword),
        "mtls" => Some(PeerKind::Mtls),
        _ => {
            node.mismatch(expected, report);
            None
        }
    }
}

fn read_user(node: &Node, report: &mut Report) -> Option<String> {
    let expected = "the name of a user";
    let user = plain(node, expected, report)?;
    if user.is_empty() {
        node.mismatch(expected, report);
        return None;
    }
    Some(user)
}

/// A scalar that a program can be handed: without a zero byte.
fn plain(node: &Node, expected: &str, report: &mut Report) -> Option<String> {
    let text = node.scalar(expected, report)?;
    if text.contains('\0') {
        report.error(node.at, format!("expected {expected}, found one with a zero byte"));
        return None;
    }
    Some(text.to_owned())
}

fn read_ports(node: &Node, report: &mut Report) -> Option<BTreeMap<u16, Protocol>> {
    let entries = node.entries("ports with their protocol, such as {8080: http}", report)?;
    let mut ports = BTreeMap::new();
    let mut whole = true;
    for (key, value) in entries {
        let protocol = read_protocol(value, report);
        match values::port(key, report).zip(protocol) {
            // Two spellings of one number are no repeated keys to YAML.
            Some((port, _)) if ports.contains_key(&port) => {
                report.error(key.at, format!("port {port} is given twice: keep one"));
                whole = false;
            }
            Some((port, protocol)) => {
                ports.insert(port, protocol);
            }
            None => whole = false,
        }
    }
    whole.then_some(ports)
}

fn read_protocol(node: &Node, report: &mut Report) -> Option<Protocol> {
    let expected = "a protocol: `tcp`, `http` or `grpc`";
    let text = node.text(expected, report)?;
    let protocol = Protocol::ALL.into_iter().find(|protocol| protocol.as_str() == text);
    if protocol.is_none() {
        node.mismatch(expected, report);
    }
    protocol
}

fn read_endpoint(node: &Node, report: &mut Report) -> Option<(SocketAddr, Position)> {
    let address = values::socket_address(node, report)?;
    if !values::is_host(address.ip()) {
        node.mismatch("the address of one machine", report);
        return None;
    }
    Some((address, node.at))
}

fn read_address(node: &Node, expected: &str, report: &mut Report) -> Option<(IpAddr, Position)> {
    let address = values::ip_address(node, report)?;
    if !values::is_host(address) || address.is_loopback() {
        node.mismatch(expected, report);
        return None;
    }
    Some((address, node.at))
}

fn report_undeclared(endpoints: &[(SocketAddr, Position)], ports: &BTreeMap<u16, Protocol>, report: &mut Report) {
    for (address, at) in endpoints {
        report_undeclared_port(address.port(), *at, ports, report);
    }
}

pub(super) fn report_undeclared_port(port: u16, at: Position, ports: &BTreeMap<u16, Protocol>, report: &mut Report) {
    if !ports.contains_key(&port) {
        let message = format!("the service does not declare port {port}: add it to `ports`, as `{port}: tcp`");
        report.error(at, message);
    }
}
