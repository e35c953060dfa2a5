//! A service as the others of its mesh see it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use watchword_control_plane::mesh_file::{PeerKind, Service};

use super::Replica;

/// A service as others see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct PlannedService {
    /// Its name, which others call it by.
    pub(crate) name: String,
    /// Its SPIFFE ID.
    pub(crate) spiffe_id: String,
    /// Port to protocol, as in the mesh file.
    pub(crate) ports: BTreeMap<u16, String>,
    /// The addresses that stand for all replicas; IPv4 first.
    pub(crate) virtual_addresses: Vec<IpAddr>,
    /// Its replicas' addresses, with each port.
    pub(crate) endpoints: Vec<SocketAddr>,
    /// Its replicas' addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// Its programs do their own mutual TLS.
    pub(crate) is_foreign: bool,
}

impl PlannedService {
    /// Of its `replicas` alone.
    pub(super) fn new(service: &Service, virtual_addresses: Vec<IpAddr>, replicas: &[Replica]) -> Self {
        let addresses: Vec<IpAddr> = replicas.iter().flat_map(|replica| replica.addresses.clone()).collect();
        let endpoints = addresses
            .iter()
            .flat_map(|address| service.ports.keys().map(|port| SocketAddr::new(*address, *port)))
            .collect();
        Self {
            name: service.name.clone(),
            spiffe_id: service.id.to_string(),
            ports: service
                .ports
                .iter()
                .map(|(port, kind)| (*port, kind.as_str().to_owned()))
                .collect(),
            virtual_addresses,
            endpoints,
            addresses,
            is_foreign: service.peer == PeerKind::Mtls,
        }
    }
}
