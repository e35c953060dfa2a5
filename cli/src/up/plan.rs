//! What `up` is about to run, decided in full before anything starts.
//!
//! Invariants: building a plan changes nothing on the machine; a plan holds
//! everything that the supervisor needs, so the mesh file is read once; it is
//! written to the mesh folder for its owner alone (it holds the services'
//! environment).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use watchword_control_plane::mesh_file::{
    CollectorAddress, Egress, MeshFile, PeerKind, RegistryEntry, Service, Tracing,
};
use watchword_control_plane::registry;
use watchword_daemon::MAX_SOCKET_PATH;

use super::addresses;
use super::users::Users;
use crate::launcher::privileges::Privileges;
use crate::launcher::user_namespace::SIDECAR_UID;

/// Of the SPIFFE Workload API and SDS.
pub(crate) const WORKLOAD_SOCKET: &str = "workload.sock";

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

/// One running instance of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Replica {
    /// `service-n`.
    pub(crate) name: String,
    /// The service's name.
    pub(crate) service: String,
    /// From 1.
    pub(crate) number: u16,
    /// The service's SPIFFE ID.
    pub(crate) spiffe_id: String,
    /// Its own addresses; IPv4 first.
    pub(crate) addresses: Vec<IpAddr>,
    /// The program and its arguments.
    pub(crate) command: Vec<String>,
    /// What is added to the caller's environment.
    pub(crate) environment: BTreeMap<String, String>,
    /// Working directory, absolute.
    pub(crate) directory: PathBuf,
    /// Who the program runs as.
    pub(crate) privileges: Privileges,
    /// The port that must accept before the replica counts as ready.
    pub(crate) healthy: Option<u16>,
    /// The program does its own mutual TLS: an agent serves it, which captures
    /// nothing.
    pub(crate) is_foreign: bool,
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

/// Why a valid mesh file cannot be run on this machine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlanError {
    /// It is a control plane's file.
    #[error(
        "service {0} has `endpoints`: it runs elsewhere, and `up` runs services here; give it `run: [PROGRAM, …]` instead"
    )]
    RunsElsewhere(String),
    /// A key that is for the control plane's own file.
    #[error("`{0}` is for the file of a control plane that runs by itself; `up` decides it: leave it out")]
    KeyOfADaemon(&'static str),
    /// Sidecars have networks of their own.
    #[error(
        "`tracing.address: {0}` can't be reached: sidecars have networks of their own here; let the collector listen on a Unix socket, and say `unix:PATH`"
    )]
    CollectorOutOfReach(String),
    /// The mesh has its addresses itself.
    #[error(
        "egress: `{name}`: {range} lies in {mesh}, which is the mesh's own on this machine: it can't be called there"
    )]
    EgressIntoTheMesh {
        /// The entry.
        name: String,
        /// What it lists.
        range: IpNet,
        /// Ours.
        mesh: IpNet,
    },
    /// More than a bridge can join.
    #[error("the mesh has {0} replicas; on one machine {max} can be joined: lower `replicas`", max = addresses::MAX_REPLICAS)]
    TooMany(usize),
    /// `user` names nobody.
    #[error("service {service}: {reason}")]
    User {
        /// The service.
        service: String,
        /// What is wrong with its `user`, and what to do.
        reason: String,
    },
    /// A socket's path exceeds what the kernel takes (unix(7)).
    #[error(
        "the path {path} has {length} bytes, and a Unix socket's may have {MAX_SOCKET_PATH}: give the mesh a shorter `name`, or set XDG_RUNTIME_DIR to a shorter folder"
    )]
    LongPath {
        /// The socket.
        path: PathBuf,
        /// Its length in bytes.
        length: usize,
    },
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
                let mut replica = replica(service, number, addresses, users)?;
                replica.show_workload_socket(&machine.workload_folder);
                replicas.push(replica);
            }
            let own = replicas.get(first..).unwrap_or_default();
            services.push(planned(service, addresses::virtual_service(index, machine.ipv6), own));
        }
        let index = u16::try_from(replicas.len()).unwrap_or(u16::MAX);
        let publisher = publisher(mesh, &services, addresses::replica(index, machine.ipv6));
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

impl Replica {
    /// The sidecar's folder.
    pub(crate) fn run_dir(&self, folder: &Path) -> PathBuf {
        folder.join(&self.name)
    }

    /// Where the sidecar answers people.
    pub(crate) fn sidecar_socket(&self, folder: &Path) -> PathBuf {
        self.run_dir(folder).join("proxy-admin.sock")
    }

    /// What the program sees of the sidecar's folder: its workload socket alone.
    pub(crate) fn shown_dir(&self, folder: &Path) -> PathBuf {
        self.run_dir(folder).join("app")
    }

    /// Where the sidecar answers the program. The longest path of a socket.
    pub(crate) fn workload_socket(&self, folder: &Path) -> PathBuf {
        self.shown_dir(folder).join(WORKLOAD_SOCKET)
    }

    /// The program's user, as the sidecar sees it.
    pub(crate) fn uid(&self) -> u32 {
        match self.privileges {
            Privileges::User { uid, .. } => uid,
            // Seen from the user namespace around its own.
            Privileges::OwnNamespace { .. } | Privileges::Only { .. } | Privileges::Keep => 0,
        }
    }

    fn show_workload_socket(&mut self, folder: &Path) {
        let socket = format!("unix://{}", folder.join(WORKLOAD_SOCKET).display());
        self.environment
            .entry("SPIFFE_ENDPOINT_SOCKET".to_owned())
            .or_insert(socket);
    }
}

fn replica(service: &Service, number: u16, addresses: Vec<IpAddr>, users: &Users) -> Result<Replica, PlanError> {
    let Some(command) = service.run.clone() else {
        return Err(PlanError::RunsElsewhere(service.name.clone()));
    };
    let privileges = users
        .privileges(service.user.as_deref())
        .map_err(|reason| PlanError::User {
            service: service.name.clone(),
            reason,
        })?;
    Ok(Replica {
        name: format!("{}-{number}", service.name),
        service: service.name.clone(),
        number,
        spiffe_id: service.id.to_string(),
        addresses,
        command,
        environment: service.env.clone(),
        directory: service.directory.clone(),
        privileges,
        healthy: service.healthy,
        is_foreign: service.peer == PeerKind::Mtls,
    })
}

/// The name of its namespaces, which has a dot: no service's has.
const PUBLISHER: &str = "watchword.publish";

fn publisher(mesh: &MeshFile, services: &[PlannedService], addresses: Vec<IpAddr>) -> Option<Publisher> {
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
    (!ports.is_empty()).then_some(Publisher { replica, ports })
}

fn planned(service: &Service, virtual_addresses: Vec<IpAddr>, replicas: &[Replica]) -> PlannedService {
    let addresses: Vec<IpAddr> = replicas.iter().flat_map(|replica| replica.addresses.clone()).collect();
    let endpoints = addresses
        .iter()
        .flat_map(|address| service.ports.keys().map(|port| SocketAddr::new(*address, *port)))
        .collect();
    PlannedService {
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
