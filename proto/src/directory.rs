//! The directory as validated types, to and from its message.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use watchword_identity::SpiffeId;
pub use watchword_policy::Protocol;

use crate::{InvalidMessage, control};

/// Who lives where: the services, and the ranges that are the mesh's alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    /// All services.
    pub services: Vec<Service>,
    /// An address in one of these that the directory does not list is denied.
    pub mesh_ranges: Vec<IpNet>,
    /// What lies outside of the mesh and may be called.
    pub egress: Egress,
}

/// What lies outside of the mesh and may be called.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Egress {
    /// What happens to the rest.
    pub mode: EgressMode,
    /// Each by a name of its own.
    pub entries: Vec<EgressEntry>,
}

/// What happens to a call to an address that is neither the mesh's nor listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EgressMode {
    /// It is denied.
    #[default]
    Deny,
    /// It passes, and the log says that it would be denied.
    Audit,
    /// It passes.
    Allow,
}

/// Addresses outside of the mesh that may be called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EgressEntry {
    /// For the log.
    pub name: String,
    /// Not empty.
    pub to: Vec<IpNet>,
    /// Empty: all.
    pub ports: Vec<u16>,
}

/// Never called, whatever is listed: what is this machine's own or this link's
/// (the metadata services of clouds among it), and what is no single machine's.
pub const NEVER_EGRESS: [IpNet; 9] = [
    IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(0, 0, 0, 0)), 8),
    IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8),
    IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(169, 254, 0, 0)), 16),
    IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(224, 0, 0, 0)), 4),
    IpNet::new_assert(IpAddr::V4(Ipv4Addr::BROADCAST), 32),
    IpNet::new_assert(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 128),
    IpNet::new_assert(IpAddr::V6(Ipv6Addr::LOCALHOST), 128),
    IpNet::new_assert(IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), 10),
    IpNet::new_assert(IpAddr::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0)), 8),
];

/// One service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name in the mesh file.
    pub name: String,
    /// Addresses that stand for all endpoints.
    pub virtual_addresses: Vec<IpAddr>,
    /// What is spoken on which port.
    pub ports: BTreeMap<u16, Protocol>,
    /// Where its workloads listen.
    pub endpoints: Vec<Endpoint>,
    /// What answers there.
    pub peer: PeerKind,
}

/// What answers at a service's endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PeerKind {
    /// A sidecar of ours.
    #[default]
    Watchword,
    /// A program with a SPIFFE identity that does its own mutual TLS.
    Mtls,
}

/// One address of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Never an unspecified or loopback one.
    pub address: IpAddr,
    /// Those of the service's ports that it serves.
    pub ports: Vec<u16>,
    /// Who must answer there.
    pub id: SpiffeId,
}

impl From<&Directory> for control::Directory {
    fn from(directory: &Directory) -> Self {
        Self {
            services: directory.services.iter().map(control::Service::from).collect(),
            mesh_ranges: directory.mesh_ranges.iter().map(IpNet::to_string).collect(),
            egress_mode: control::EgressMode::from(directory.egress.mode).into(),
            egress: directory
                .egress
                .entries
                .iter()
                .map(control::EgressEntry::from)
                .collect(),
        }
    }
}

impl From<EgressMode> for control::EgressMode {
    fn from(mode: EgressMode) -> Self {
        match mode {
            EgressMode::Deny => Self::Deny,
            EgressMode::Audit => Self::Audit,
            EgressMode::Allow => Self::Allow,
        }
    }
}

impl From<&EgressEntry> for control::EgressEntry {
    fn from(entry: &EgressEntry) -> Self {
        Self {
            name: entry.name.clone(),
            to: entry.to.iter().map(IpNet::to_string).collect(),
            ports: entry.ports.iter().copied().map(u32::from).collect(),
        }
    }
}

impl From<&Service> for control::Service {
    fn from(service: &Service) -> Self {
        let ports = service.ports.iter().map(|(&number, &protocol)| control::Port {
            number: number.into(),
            protocol: control::Protocol::from(protocol).into(),
        });
        let endpoints = service.endpoints.iter().map(|endpoint| control::Endpoint {
            address: address_bytes(endpoint.address),
            ports: endpoint.ports.iter().copied().map(u32::from).collect(),
            spiffe_id: endpoint.id.to_string(),
        });
        Self {
            name: service.name.clone(),
            virtual_addresses: service.virtual_addresses.iter().copied().map(address_bytes).collect(),
            ports: ports.collect(),
            endpoints: endpoints.collect(),
            peer: control::Peer::from(service.peer).into(),
        }
    }
}

impl From<PeerKind> for control::Peer {
    fn from(peer: PeerKind) -> Self {
        match peer {
            PeerKind::Watchword => Self::Watchword,
            PeerKind::Mtls => Self::Mtls,
        }
    }
}

impl From<Protocol> for control::Protocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self::Tcp,
            Protocol::Http => Self::Http,
            Protocol::Grpc => Self::Grpc,
        }
    }
}

impl TryFrom<control::Directory> for Directory {
    type Error = InvalidMessage;

    fn try_from(message: control::Directory) -> Result<Self, InvalidMessage> {
        let services = message
            .services
            .into_iter()
            .enumerate()
            .map(|(index, service)| service_from_proto(service, &format!("services[{index}]")))
            .collect::<Result<_, _>>()?;
        let mode = match control::EgressMode::try_from(message.egress_mode) {
            Ok(control::EgressMode::Unspecified | control::EgressMode::Deny) => EgressMode::Deny,
            Ok(control::EgressMode::Audit) => EgressMode::Audit,
            Ok(control::EgressMode::Allow) => EgressMode::Allow,
            Err(_) => return Err(InvalidMessage::new("egress_mode", "unknown mode")),
        };
        let entries = message
            .egress
            .into_iter()
            .enumerate()
            .map(|(index, entry)| egress_from_proto(entry, &format!("egress[{index}]")))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            services,
            mesh_ranges: ranges(&message.mesh_ranges, "mesh_ranges")?,
            egress: Egress { mode, entries },
        })
    }
}

fn egress_from_proto(message: control::EgressEntry, field: &str) -> Result<EgressEntry, InvalidMessage> {
    if message.to.is_empty() {
        return Err(InvalidMessage::new(format!("{field}.to"), "no range"));
    }
    let ports = message.ports.into_iter().map(|port| port_from_proto(port, field));
    Ok(EgressEntry {
        to: ranges(&message.to, field)?,
        ports: ports.collect::<Result<_, _>>()?,
        name: message.name,
    })
}

fn ranges(texts: &[String], field: &str) -> Result<Vec<IpNet>, InvalidMessage> {
    let parse = |range: &String| {
        range
            .parse()
            .map_err(|error| InvalidMessage::new(format!("{field} {range:?}"), error))
    };
    texts.iter().map(parse).collect()
}

fn service_from_proto(message: control::Service, field: &str) -> Result<Service, InvalidMessage> {
    let mut ports = BTreeMap::new();
    for port in message.ports {
        let number = port_from_proto(port.number, field)?;
        let protocol = match control::Protocol::try_from(port.protocol) {
            Ok(control::Protocol::Tcp) => Protocol::Tcp,
            Ok(control::Protocol::Http) => Protocol::Http,
            Ok(control::Protocol::Grpc) => Protocol::Grpc,
            Ok(control::Protocol::Unspecified) | Err(_) => {
                return Err(InvalidMessage::new(format!("{field}.ports"), "unknown protocol"));
            }
        };
        ports.insert(number, protocol);
    }
    let virtual_addresses = message
        .virtual_addresses
        .iter()
        .map(|bytes| address(bytes, field))
        .collect::<Result<_, _>>()?;
    let endpoints = message
        .endpoints
        .into_iter()
        .map(|endpoint| endpoint_from_proto(endpoint, &format!("{field}.endpoints")))
        .collect::<Result<_, _>>()?;
    let peer = match control::Peer::try_from(message.peer) {
        Ok(control::Peer::Unspecified | control::Peer::Watchword) => PeerKind::Watchword,
        Ok(control::Peer::Mtls) => PeerKind::Mtls,
        Err(_) => return Err(InvalidMessage::new(format!("{field}.peer"), "unknown kind of peer")),
    };
    Ok(Service {
        name: message.name,
        peer,
        virtual_addresses,
        ports,
        endpoints,
    })
}

fn endpoint_from_proto(message: control::Endpoint, field: &str) -> Result<Endpoint, InvalidMessage> {
    let ports = message
        .ports
        .into_iter()
        .map(|port| port_from_proto(port, field))
        .collect::<Result<_, _>>()?;
    let id = SpiffeId::new(&message.spiffe_id).map_err(|error| InvalidMessage::new(field, error))?;
    Ok(Endpoint {
        address: address(&message.address, field)?,
        ports,
        id,
    })
}

pub(crate) fn port_from_proto(port: u32, field: &str) -> Result<u16, InvalidMessage> {
    u16::try_from(port)
        .ok()
        .filter(|&port| port > 0)
        .ok_or_else(|| InvalidMessage::new(field, format!("{port} is not a port")))
}

fn address_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn address(bytes: &[u8], field: &str) -> Result<IpAddr, InvalidMessage> {
    let address = <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .map_err(|_| InvalidMessage::new(field, "an address has 4 or 16 bytes"))?
        .to_canonical();
    if address.is_unspecified() || address.is_loopback() || address.is_multicast() {
        return Err(InvalidMessage::new(
            field,
            format!("{address} is no address of a workload"),
        ));
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn directory() -> Directory {
        Directory {
            services: vec![Service {
                name: "orders".into(),
                virtual_addresses: vec!["240.0.0.1".parse().unwrap(), "fd77::1".parse().unwrap()],
                ports: BTreeMap::from([(8080, Protocol::Http), (5432, Protocol::Tcp)]),
                endpoints: vec![Endpoint {
                    address: "10.87.0.2".parse().unwrap(),
                    ports: vec![8080, 5432],
                    id: SpiffeId::new("spiffe://example.org/orders").unwrap(),
                }],
                peer: PeerKind::Mtls,
            }],
            mesh_ranges: vec!["10.87.0.0/16".parse().unwrap(), "fd87::/64".parse().unwrap()],
            egress: Egress {
                mode: EgressMode::Audit,
                entries: vec![EgressEntry {
                    name: "registry".into(),
                    to: vec!["10.0.0.9/32".parse().unwrap(), "2001:db8::/32".parse().unwrap()],
                    ports: vec![443],
                }],
            },
        }
    }

    #[test]
    fn a_directory_survives_the_wire() {
        let message = control::Directory::from(&directory());
        assert_eq!(Directory::try_from(message).unwrap(), directory());
    }

    #[test]
    fn nonsense_in_a_directory_is_refused_with_its_field() {
        type Change = fn(&mut control::Directory);
        let table: &[(Change, &str)] = &[
            (|d| d.mesh_ranges.push("10/99".into()), "mesh_ranges"),
            (|d| d.egress_mode = 99, "egress_mode"),
            (|d| d.egress[0].to.clear(), "egress[0].to"),
            (|d| d.egress[0].to.push("10/99".into()), "egress[0]"),
            (|d| d.egress[0].ports.push(0), "egress[0]"),
            (|d| d.services[0].virtual_addresses.push(vec![1, 2, 3]), "services[0]"),
            (
                |d| d.services[0].endpoints[0].address = vec![127, 0, 0, 1],
                "services[0].endpoints",
            ),
            (
                |d| d.services[0].endpoints[0].ports.push(65536),
                "services[0].endpoints",
            ),
            (
                |d| d.services[0].endpoints[0].spiffe_id = "orders".into(),
                "services[0].endpoints",
            ),
            (|d| d.services[0].ports[0].protocol = 99, "services[0].ports"),
            (|d| d.services[0].ports[0].number = 0, "services[0]"),
            (|d| d.services[0].peer = 99, "services[0].peer"),
        ];
        for (change, field) in table {
            let mut message = control::Directory::from(&directory());
            change(&mut message);
            let error = Directory::try_from(message).unwrap_err();
            assert!(error.field.starts_with(field), "{error}");
        }
    }
}
