//! What `up` is about to run, decided in full before anything starts.
//!
//! Invariants: building a plan changes nothing on the machine; a plan holds
//! everything that the supervisor needs, so the mesh file is read once; it is
//! written to the mesh folder for its owner alone (it holds the services'
//! environment).

mod problem;
mod publisher;
mod replica;
mod service;

use std::collections::BTreeMap;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use watchword_control_plane::mesh_file::{CollectorAddress, Egress, MeshFile, RegistryEntry, Tracing};
use watchword_daemon::MAX_SOCKET_PATH;

pub(crate) use self::problem::PlanError;
pub(crate) use self::publisher::{Published, Publisher};
pub(crate) use self::replica::{Replica, WORKLOAD_SOCKET};
pub(crate) use self::service::PlannedService;
use super::addresses;
use super::users::Users;
use crate::launcher::privileges::Privileges;
use crate::launcher::user_namespace::SIDECAR_UID;

/// A mesh on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Plan {
    /// The mesh's name.
    pub(crate) name: String,
    /// Without `spiffe://`.
    pub(crate) trust_domain: String,
    /// As in the mesh file.
    pub(crate) mode: String,
    /// The mesh folder.
    pub(crate) folder: PathBuf,
    /// The folder of all mesh folders, which apps do not see.
    pub(crate) base: PathBuf,
    /// Whether other users can be had: otherwise a user namespace with one
    /// user holds the mesh.
    pub(crate) root: bool,
    /// Whether the kernel has IPv6.
    pub(crate) ipv6: bool,
    /// How long an SVID is valid.
    pub(crate) certificate_ttl_seconds: u64,
    /// What signs, as the mesh file says it.
    pub(crate) authority: serde_json::Value,
    /// Other trust domains, each with the file of its roots, absolute.
    pub(crate) trust_bundles: BTreeMap<String, PathBuf>,
    /// Policy files and folders, absolute.
    pub(crate) policies: Vec<PathBuf>,
    /// Where sidecars send spans, as their file says it.
    pub(crate) tracing: Option<serde_json::Value>,
    /// Where a program finds its workload socket.
    pub(crate) workload_folder: PathBuf,
    /// Programs that the supervisor starts.
    pub(crate) tools: Tools,
    /// Who may be given an SVID beside the services, as the mesh file says it.
    pub(crate) registry: Vec<Registered>,
    /// By name.
    pub(crate) services: Vec<PlannedService>,
    /// By service and number.
    pub(crate) replicas: Vec<Replica>,
    /// Who carries calls in from outside, where a service is published.
    pub(crate) publisher: Option<Publisher>,
    /// What lies outside of the mesh and may be called.
    pub(crate) egress: Egress,
}

/// A SPIFFE ID that somebody may get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Registered {
    /// It.
    pub(crate) id: String,
    /// Who may hand it out to workloads that they attest.
    pub(crate) agents: Vec<String>,
}

/// Programs that the supervisor starts, absolute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Tools {
    /// iproute2's `ip`.
    pub(crate) ip: PathBuf,
    /// `watchword-proxy`.
    pub(crate) proxy: PathBuf,
    /// `watchword-control-plane`.
    pub(crate) control_plane: PathBuf,
}

/// What a plan needs to know of the machine.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// The folder of all mesh folders.
    pub(crate) base: PathBuf,
    /// Whether the kernel has IPv6.
    pub(crate) ipv6: bool,
    /// Where a program finds its workload socket.
    pub(crate) workload_folder: PathBuf,
    /// Programs that the supervisor starts.
    pub(crate) tools: Tools,
}

impl Plan {
    /// Plans `mesh` for `machine`, with the users that `users` finds.
    pub(crate) fn new(mesh: &MeshFile, machine: Machine, users: &Users) -> Result<Self, PlanError> {
        if let Some(key) = key_of_a_daemon(mesh) {
            return Err(PlanError::KeyOfADaemon(key));
        }
        if let Some(CollectorAddress::Tcp(address)) = mesh.tracing.as_ref().map(|tracing| &tracing.address) {
            return Err(PlanError::CollectorOutOfReach(address.clone()));
        }
        let folder = machine.base.join(&mesh.name);
        let total = mesh
            .services
            .values()
            .map(|service| usize::from(service.replicas))
            .sum::<usize>()
            + usize::from(mesh.services.values().any(|service| !service.publish.is_empty()));
        if total > addresses::MAX_REPLICAS {
            return Err(PlanError::TooMany(total));
        }
        let (mut services, mut replicas) = (Vec::new(), Vec::new());
        for (index, service) in (0u16..).zip(mesh.services.values()) {
            let first = replicas.len();
            for number in 1..=service.replicas {
                let index = u16::try_from(replicas.len()).unwrap_or(u16::MAX);
                let addresses = addresses::replica(index, machine.ipv6);
                let mut replica = Replica::new(service, number, addresses, users)?;
                replica.show_workload_socket(&machine.workload_folder);
                replicas.push(replica);
            }
            let own = replicas.get(first..).unwrap_or_default();
            services.push(PlannedService::new(
                service,
                addresses::virtual_service(index, machine.ipv6),
                own,
            ));
        }
        let index = u16::try_from(replicas.len()).unwrap_or(u16::MAX);
        let publisher = Publisher::new(mesh, &services, addresses::replica(index, machine.ipv6));
        let plan = Self {
            name: mesh.name.clone(),
            trust_domain: mesh.trust_domain.as_str().to_owned(),
            mode: mesh.mode.as_str().to_owned(),
            folder,
            base: machine.base,
            root: users.root(),
            ipv6: machine.ipv6,
            certificate_ttl_seconds: mesh.certificate_ttl.as_secs(),
            authority: mesh.authority.to_json(),
            trust_bundles: trust_bundles(mesh),
            policies: mesh.policies.clone(),
            tracing: mesh.tracing.as_ref().map(Tracing::to_json),
            workload_folder: machine.workload_folder,
            tools: machine.tools,
            registry: registered(mesh, publisher.as_ref()),
            services,
            replicas,
            publisher,
            egress: mesh.egress.clone(),
        };
        plan.check_socket_paths()?;
        plan.check_egress()?;
        Ok(plan)
    }

    /// The control plane's SPIFFE ID.
    pub(crate) fn control_plane_id(&self) -> String {
        format!("spiffe://{}/watchword/control-plane", self.trust_domain)
    }

    /// Where the control plane answers people.
    pub(crate) fn admin_socket(&self) -> PathBuf {
        self.folder.join("admin.sock")
    }

    /// Where the control plane answers sidecars.
    pub(crate) fn control_socket(&self) -> PathBuf {
        self.folder.join("control.sock")
    }

    /// Where sidecars ask for connections to what is outside.
    pub(crate) fn egress_socket(&self) -> PathBuf {
        self.folder.join("egress.sock")
    }

    /// Whether anything outside may be called.
    pub(crate) fn has_egress(&self) -> bool {
        self.egress != Egress::default()
    }

    /// Everything that has a network and a sidecar: the replicas, and the
    /// publisher last.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Replica> {
        let publisher = self.publisher.iter().map(|publisher| &publisher.replica);
        self.replicas.iter().chain(publisher)
    }

    /// As whom the sidecars run, and their helpers, with these capabilities.
    pub(crate) fn sidecars_privileges(&self, capabilities: &[&str]) -> Privileges {
        let capabilities = capabilities.iter().map(|&name| name.to_owned()).collect();
        match self.root {
            true => Privileges::User {
                uid: SIDECAR_UID,
                gid: SIDECAR_UID,
                name: None,
                capabilities,
            },
            false => Privileges::Only { capabilities },
        }
    }

    fn check_egress(&self) -> Result<(), PlanError> {
        let ours: Vec<IpNet> = addresses::mesh_ranges(self.ipv6)
            .iter()
            .filter_map(|range| range.parse().ok())
            .collect();
        for entry in &self.egress.entries {
            for range in &entry.to {
                if let Some(mesh) = ours.iter().find(|ours| ours.contains(range)) {
                    return Err(PlanError::EgressIntoTheMesh {
                        name: entry.name.clone(),
                        range: *range,
                        mesh: *mesh,
                    });
                }
            }
        }
        Ok(())
    }

    fn check_socket_paths(&self) -> Result<(), PlanError> {
        let sidecars = self.members().map(|replica| replica.workload_socket(&self.folder));
        match sidecars.max_by_key(|path| path.as_os_str().len()) {
            Some(path) if path.as_os_str().len() > MAX_SOCKET_PATH => Err(PlanError::LongPath {
                length: path.as_os_str().len(),
                path,
            }),
            _ => Ok(()),
        }
    }
}

impl From<&RegistryEntry> for Registered {
    fn from(entry: &RegistryEntry) -> Self {
        Self {
            id: entry.id.to_string(),
            agents: entry.agents.iter().map(ToString::to_string).collect(),
        }
    }
}

/// What `up` decides by itself, and must not seem to take from the file.
fn key_of_a_daemon(mesh: &MeshFile) -> Option<&'static str> {
    let keys = [
        ("stateDir", mesh.state_dir.is_some()),
        ("runDir", mesh.run_dir.is_some()),
        ("listen", mesh.listen.is_some()),
        ("healthListen", mesh.health_listen.is_some()),
        ("meshRanges", !mesh.mesh_ranges.is_empty()),
    ];
    keys.into_iter().find_map(|(key, given)| given.then_some(key))
}

/// What the mesh file names, and who carries calls in from outside.
fn registered(mesh: &MeshFile, publisher: Option<&Publisher>) -> Vec<Registered> {
    let own = publisher.map(|publisher| Registered {
        id: publisher.replica.spiffe_id.clone(),
        agents: Vec::new(),
    });
    mesh.registry.iter().map(Registered::from).chain(own).collect()
}

fn trust_bundles(mesh: &MeshFile) -> BTreeMap<String, PathBuf> {
    let files = mesh.trust_bundles.iter();
    files
        .map(|(domain, file)| (domain.as_str().to_owned(), file.clone()))
        .collect()
}
