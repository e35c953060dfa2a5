//! A replica: what runs in a network of its own beside a sidecar.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use watchword_control_plane::mesh_file::{PeerKind, Service};

use super::PlanError;
use crate::launcher::privileges::Privileges;
use crate::up::users::Users;

/// Of the SPIFFE Workload API and SDS.
pub(crate) const WORKLOAD_SOCKET: &str = "workload.sock";

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

impl Replica {
    /// The `number`th of `service`, with the user that `users` finds.
    pub(super) fn new(
        service: &Service,
        number: u16,
        addresses: Vec<IpAddr>,
        users: &Users,
    ) -> Result<Self, PlanError> {
        let Some(command) = service.run.clone() else {
            return Err(PlanError::RunsElsewhere(service.name.clone()));
        };
        let privileges = users
            .privileges(service.user.as_deref())
            .map_err(|reason| PlanError::User {
                service: service.name.clone(),
                reason,
            })?;
        Ok(Self {
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

    pub(super) fn show_workload_socket(&mut self, folder: &Path) {
        let socket = format!("unix://{}", folder.join(WORKLOAD_SOCKET).display());
        self.environment
            .entry("SPIFFE_ENDPOINT_SOCKET".to_owned())
            .or_insert(socket);
    }
}
