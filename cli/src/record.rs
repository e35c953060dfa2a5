//! `mesh.json`: what a running mesh consists of, for the commands that talk
//! about it or join it.
//!
//! Invariant: process ids are those that /proc shows outside of the mesh.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::mesh_folder::{FolderError, write_private};
use crate::up::plan::{Plan, Replica};

/// A running mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    /// The mesh's name.
    pub(crate) name: String,
    /// The process id of `watchword up`.
    pub(crate) up_pid: u32,
    /// The holder of the switch's network namespace.
    pub(crate) switch_pid: u32,
    /// Whether the mesh lives in a user namespace.
    pub(crate) user_namespace: bool,
    /// By service and number.
    pub(crate) replicas: Vec<RunningReplica>,
}

/// A replica with its processes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RunningReplica {
    /// What was planned.
    #[serde(flatten)]
    pub(crate) replica: Replica,
    /// The holder of its namespaces.
    pub(crate) holder_pid: u32,
    /// Tells the holder from a later process with its id.
    pub(crate) network_inode: u64,
    /// The sidecar; none while it is not running.
    pub(crate) proxy_pid: Option<u32>,
    /// Its interception is not whole: what is wrong.
    #[serde(default)]
    pub(crate) trouble: Option<String>,
    /// Where the sidecar answers people.
    pub(crate) admin_socket: std::path::PathBuf,
}

/// Why the record of a mesh cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    /// There is none: the mesh is being started, or is no mesh of `up`.
    #[error("cannot read {path}: {source} (a mesh that is still starting has none yet)")]
    Unreadable {
        /// The file.
        path: std::path::PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// Another version wrote it.
    #[error(
        "{path} is not what this version of watchword writes ({source}): use the one that started the mesh, or start the mesh again"
    )]
    Invalid {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
}

impl Record {
    /// A mesh whose holders run, without sidecars yet. `holders` are in the
    /// order of the plan's members.
    pub(crate) fn new(plan: &Plan, up_pid: u32, switch_pid: u32, holders: &[u32]) -> Self {
        let replicas = plan.members().zip(holders).map(|(replica, holder)| RunningReplica {
            replica: replica.clone(),
            holder_pid: *holder,
            network_inode: network_inode(*holder).unwrap_or_default(),
            proxy_pid: None,
            trouble: None,
            admin_socket: replica.sidecar_socket(&plan.folder),
        });
        Self {
            name: plan.name.clone(),
            up_pid,
            switch_pid,
            user_namespace: !plan.root,
            replicas: replicas.collect(),
        }
    }

    /// Reads the record of the mesh in `folder`.
    pub(crate) fn load(folder: &Path) -> Result<Self, RecordError> {
        let path = folder.join("mesh.json");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(source) => return Err(RecordError::Unreadable { path, source }),
        };
        serde_json::from_str(&text).map_err(|source| RecordError::Invalid { path, source })
    }

    /// Writes it into `folder`, for its owner alone.
    pub(crate) fn store(&self, folder: &Path) -> Result<(), FolderError> {
        let path = folder.join("mesh.json");
        let text = serde_json::to_string_pretty(self).map_err(|error| FolderError::Io {
            what: "describe the mesh for",
            path: path.clone(),
            source: error.into(),
        })?;
        write_private(&path, &text)
    }

    /// That `name` means none, and what there is.
    pub(crate) fn unknown(&self, name: &str) -> anyhow::Error {
        let names: Vec<_> = self.replicas.iter().map(|it| it.replica.name.as_str()).collect();
        anyhow::anyhow!(
            "mesh {} has no service `{name}` (it has {})",
            self.name,
            names.join(", ")
        )
    }

    /// The replica that `name` means: `orders-2`, or the first of `orders`.
    pub(crate) fn replica(&self, name: &str) -> Option<&RunningReplica> {
        let by = |matches: fn(&Replica, &str) -> bool| self.replicas.iter().find(|r| matches(&r.replica, name));
        by(|replica, name| replica.name == name).or_else(|| by(|replica, name| replica.service == name))
    }
}

/// Which network namespace process `pid` is in.
pub(crate) fn network_inode(pid: u32) -> Option<u64> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(format!("/proc/{pid}/ns/net"))
        .ok()
        .map(|found| found.ino())
}
