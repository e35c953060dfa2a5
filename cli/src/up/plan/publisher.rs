//! Who carries calls in from outside of the mesh.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use watchword_control_plane::mesh_file::MeshFile;
use watchword_control_plane::registry;

use super::{PlannedService, Replica};
use crate::launcher::privileges::Privileges;

/// The name of its namespaces, which has a dot: no service's has.
const PUBLISHER: &str = "watchword.publish";

/// A namespace and a sidecar without a program, through which calls from
/// outside come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Publisher {
    /// Its name is no service's.
    pub(crate) replica: Replica,
    /// Not empty.
    pub(crate) ports: Vec<Published>,
}

/// A port of a service that can be called from outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Published {
    /// The service's name.
    pub(crate) service: String,
    /// Where it listens, in the caller's network.
    pub(crate) listen: SocketAddr,
    /// The service's virtual address.
    pub(crate) to: SocketAddr,
}

impl Publisher {
    /// Where a service of `mesh` is published; `services` are its, in order.
    pub(super) fn new(mesh: &MeshFile, services: &[PlannedService], addresses: Vec<IpAddr>) -> Option<Self> {
        let ports = mesh.services.values().zip(services).flat_map(|(service, planned)| {
            let address = planned.virtual_addresses.first();
            let published = service.publish.iter().zip(address.into_iter().cycle());
            published.map(|((port, listen), address)| Published {
                service: service.name.clone(),
                listen: *listen,
                to: SocketAddr::new(*address, *port),
            })
        });
        let ports: Vec<Published> = ports.collect();
        let replica = Replica {
            name: PUBLISHER.to_owned(),
            service: PUBLISHER.to_owned(),
            number: 1,
            spiffe_id: format!("spiffe://{}{}", mesh.trust_domain, registry::PUBLISHER),
            addresses,
            command: Vec::new(),
            environment: BTreeMap::new(),
            directory: PathBuf::from("/"),
            privileges: Privileges::Only {
                capabilities: Vec::new(),
            },
            healthy: None,
            is_foreign: false,
        };
        (!ports.is_empty()).then_some(Self { replica, ports })
    }
}
