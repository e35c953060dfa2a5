//! Why there is no plan.

use std::path::PathBuf;

use ipnet::IpNet;
use watchword_daemon::MAX_SOCKET_PATH;

use crate::up::addresses;

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
