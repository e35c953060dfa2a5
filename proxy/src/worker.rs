//! Threads that carry traffic: each has a single-threaded runtime, so that no
//! lock stands between them. Only their listeners are shared.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::time::timeout;
use watchword_daemon::Shutdown;

use crate::accept::accept;
use crate::dial::watch_peer;
use crate::intercept::{INBOUND_PORT, OUTBOUND_PORT};
use crate::mesh::Mesh;
use crate::{inbound, outbound};

/// Connections that wait for us in the kernel.
const BACKLOG: i32 = 4096;

/// The listeners, bound before workers start, so that a taken port is an error
/// at start. Workers share them: the kernel wakes all that wait, and the first
/// has the connection (docs/decisions/0022).
pub(crate) struct Listeners {
    inbound: Vec<std::net::TcpListener>,
    outbound: Vec<std::net::TcpListener>,
}

impl Listeners {
    /// Inbound on every address; outbound on loopback alone, where the
    /// redirect brings the app's connections.
    pub(crate) fn bind() -> io::Result<Self> {
        let inbound = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        let outbound = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        Ok(Self {
            inbound: bind_families(inbound, INBOUND_PORT, &watch_peer)?,
            outbound: bind_families(outbound, OUTBOUND_PORT, &guard_app)?,
        })
    }

    /// The same sockets for a further worker.
    pub(crate) fn share(&self) -> io::Result<Self> {
        let share = |listeners: &[std::net::TcpListener]| -> io::Result<Vec<_>> {
            listeners.iter().map(std::net::TcpListener::try_clone).collect()
        };
        Ok(Self {
            inbound: share(&self.inbound)?,
            outbound: share(&self.outbound)?,
        })
    }
}

/// The kernel gives accepted connections the options of their listener (tcp(7)):
/// what each of them needs is said once.
type Options<'a> = &'a dyn Fn(&Socket) -> io::Result<()>;

/// The app's connections end by a reset unless we say otherwise, even when we
/// are killed before we looked at them: see [`AppStream::guard`].
///
/// [`AppStream::guard`]: watchword_tunnel::AppStream::guard
fn guard_app(listener: &Socket) -> io::Result<()> {
    // Over loopback nothing is lost: to pace what is sent (BBR) would only cost
    // (docs/decisions/0021). Where it can't be had, the system's own will do.
    let _ = listener.set_tcp_congestion(b"reno");
    listener.set_tcp_nodelay(true)?;
    listener.set_linger(Some(Duration::ZERO))
}

fn bind_families(addresses: [IpAddr; 2], port: u16, options: Options<'_>) -> io::Result<Vec<std::net::TcpListener>> {
    let mut listeners = Vec::new();
    for address in addresses {
        match bind(SocketAddr::new(address, port), options) {
            Ok(listener) => listeners.push(listener),
            // A machine without IPv6.
            Err(error) if address.is_ipv6() && is_no_such_family(&error) => {
                tracing::warn!(%error, port, "no IPv6 here: only IPv4 is served");
            }
            Err(error) => {
                return Err(io::Error::new(
                    error.kind(),
                    format!("can't listen on {address} port {port}: {error}"),
                ));
            }
        }
    }
    Ok(listeners)
}

fn is_no_such_family(error: &io::Error) -> bool {
    use nix::libc::{EADDRNOTAVAIL, EAFNOSUPPORT};
    matches!(error.raw_os_error(), Some(EAFNOSUPPORT | EADDRNOTAVAIL))
}

fn bind(address: SocketAddr, options: Options<'_>) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // A restarted sidecar finds its port in TIME_WAIT. No SO_REUSEPORT: without
    // root the app has our uid, and could listen beside us.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    options(&socket)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A worker's thread, which ends by itself after its drain.
pub(crate) type Worker = JoinHandle<io::Result<()>>;

/// Starts a worker. It ends after the wish to stop, when its connections have
/// ended or the drain is over.
pub(crate) fn start(index: u16, listeners: Listeners, mesh: &Mesh, shutdown: Shutdown) -> io::Result<Worker> {
    let mesh = mesh.for_worker();
    std::thread::Builder::new()
        .name(format!("worker-{index}"))
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(serve(listeners, mesh, shutdown))
        })
}

async fn serve(listeners: Listeners, mesh: Mesh, shutdown: Shutdown) -> io::Result<()> {
    let mut accepting = tokio::task::JoinSet::new();
    for listener in listeners.inbound {
        let (listener, mesh) = (TcpListener::from_std(listener)?, mesh.clone());
        accepting.spawn(async move {
            accept(&listener, mesh.connections.telemetry(), |stream, from| {
                inbound::begin(&mesh, stream, from)
            })
            .await
        });
    }
    for listener in listeners.outbound {
        let (listener, mesh) = (TcpListener::from_std(listener)?, mesh.clone());
        accepting.spawn(async move {
            accept(&listener, mesh.connections.telemetry(), |stream, from| {
                outbound::begin(&mesh, stream, from)
            })
            .await
        });
    }
    accepting.spawn({
        let mesh = mesh.clone();
        async move { mesh.tunnels.retire(&mesh.snapshots, &mesh.loads).await }
    });
    shutdown.requested().await;
    // Callers are still heard, and told to go elsewhere.
    let _ = timeout(mesh.drain, all_left(&mesh)).await;
    Ok(())
}

/// Who holds a tunnel has heard that we leave when it closes that. Before, its
/// next call may be on the way to us, and would be lost.
async fn all_left(mesh: &Mesh) {
    loop {
        mesh.connections.all_ended().await;
        mesh.live_tunnels.all_ended().await;
        if mesh.connections.active() == 0 {
            return;
        }
    }
}
