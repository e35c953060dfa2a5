//! Everything that the control plane listens on, opened before anything is
//! served; its health alone is shown sooner.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use tokio::net::{TcpListener, UnixListener};

use super::RunError;
use crate::api::bind_unix;
use crate::mesh_file::MeshFile;

pub(super) const CONTROL_SOCKET: &str = "control.sock";
pub(super) const ADMIN_SOCKET: &str = "admin.sock";
/// TLS and tokens protect it.
const CONTROL_SOCKET_MODE: u32 = 0o666;
const ADMIN_SOCKET_MODE: u32 = 0o600;
const DEFAULT_HEALTH: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15014);

/// What is open.
pub(super) struct Listeners {
    pub(super) control: UnixListener,
    pub(super) admin: UnixListener,
    pub(super) tcp: Option<TcpListener>,
}

impl Listeners {
    pub(super) async fn open(mesh: &MeshFile, run_folder: &Path) -> Result<Self, RunError> {
        Ok(Self {
            control: bind_unix(&run_folder.join(CONTROL_SOCKET), CONTROL_SOCKET_MODE)?,
            admin: bind_unix(&run_folder.join(ADMIN_SOCKET), ADMIN_SOCKET_MODE)?,
            tcp: bind_tcp(mesh.listen).await?,
        })
    }
}

/// Where health is shown, if it is.
pub(super) async fn open_health(mesh: &MeshFile) -> Result<Option<TcpListener>, RunError> {
    bind_tcp(mesh.health_listen.or_else(|| mesh.listen.map(|_| DEFAULT_HEALTH))).await
}

async fn bind_tcp(address: Option<SocketAddr>) -> Result<Option<TcpListener>, RunError> {
    let Some(address) = address else {
        return Ok(None);
    };
    let bound = TcpListener::bind(address).await;
    bound.map(Some).map_err(|problem| RunError::Listen { address, problem })
}
