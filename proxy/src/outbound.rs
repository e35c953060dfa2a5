//! The story of a connection that the workload makes: where it is going, who
//! must answer there, a tunnel to them, and then the bytes.

use std::net::SocketAddr;
use std::time::Instant;

use tokio::net::TcpStream;
use watchword_mtls::{HandshakeError, connect_tunnel};
use watchword_proto::tunnel::Open;
use watchword_tunnel::{AppStream, Call, Carried, ClientTunnel, End};

use crate::connection::{Connection, Direction};
use crate::dial::watch_peer;
use crate::directory::{Endpoint, Found};
use crate::ended::Ended;
use crate::inbound;
use crate::intercept::original::{is_local, original_destination};
use crate::mesh::Mesh;
use crate::refusal::{Refusal, Why};
use crate::tunnel_io::TunnelIo;

/// Takes a connection that the kernel sent to us, as a task of its own.
pub(crate) fn begin(mesh: &Mesh, app: TcpStream, from: SocketAddr) {
    let mesh = mesh.clone();
    tokio::spawn(async move { send(&mesh, app, from).await });
}

/// From the accepted connection to its end.
async fn send(mesh: &Mesh, mut app: TcpStream, from: SocketAddr) {
    let dialled = match original_destination(&app) {
        Ok(dialled) => dialled,
        Err(error) => {
            tracing::warn!(%from, reason = Why::NotCaptured.label(), %error, "outbound connection refused");
            return app.abort();
        }
    };
    let mut connection = mesh.connections.begin(Direction::Outbound, from, dialled);
    let endpoints = match find(mesh, dialled) {
        Ok(endpoints) => endpoints,
        Err(refusal) => {
            app.abort();
            return connection.end(&Ended::denied(&refusal));
        }
    };
    let _ = watch_peer(&app);
    let ended = match &endpoints[..] {
        [first, ..] if is_this_workload(mesh, first) => {
            connection.set_peer(first.id.to_string());
            Box::pin(inbound::serve_self(mesh, app, from, first.address)).await
        }
        _ => Box::pin(carry(mesh, app, dialled, &endpoints, &mut connection)).await,
    };
    connection.end(&ended);
}

/// Who serves the address that the app dialled, in the order in which they
/// are tried. An address of the mesh is never reached in plaintext.
fn find(mesh: &Mesh, dialled: SocketAddr) -> Result<Vec<Endpoint>, Refusal> {
    if mesh.credentials.valid().is_none() {
        return Err(Refusal::of(Why::NoIdentity));
    }
    let directory = mesh.snapshots.directory().ok_or_else(|| Refusal::of(Why::NotReady))?;
    match directory.find(dialled) {
        Found::Endpoints(endpoints) => {
            let mut order = endpoints.to_vec();
            fastrand::shuffle(&mut order);
            // Stable: a random order within each family.
            order.sort_by_key(|endpoint| endpoint.address.is_ipv4() != dialled.is_ipv4());
            Ok(order)
        }
        Found::PortNotDeclared => Err(Refusal::of(Why::PortNotDeclared)),
        Found::Unlisted => Err(Refusal::of(Why::UnlistedMeshAddress)),
        Found::Outside => Err(Refusal::of(Why::Egress)),
    }
}

/// Our own address can't be dialled from here: it would skip interception and
/// reach the app as raw TLS.
fn is_this_workload(mesh: &Mesh, endpoint: &Endpoint) -> bool {
    let is_our_id = mesh
        .credentials
        .current()
        .is_some_and(|current| *current.svid().id() == endpoint.id);
    is_our_id && is_local(endpoint.address.ip()).unwrap_or(false)
}

/// Tries the endpoints, each once, as long as no byte can have reached an app.
async fn carry(
    mesh: &Mesh,
    app: TcpStream,
    dialled: SocketAddr,
    endpoints: &[Endpoint],
    connection: &mut Connection,
) -> Ended {
    let open = Open {
        traceparent: String::new(),
        requested: dialled.to_string(),
    };
    let mut call = Call::new(app, open);
    let mut last = Ended::failed("no-endpoint", "");
    for endpoint in endpoints {
        if is_this_workload(mesh, endpoint) {
            continue;
        }
        connection.set_peer(endpoint.id.to_string());
        let tunnel = match open_tunnel(mesh, endpoint).await {
            Ok(tunnel) => tunnel,
            Err(ended) => {
                last = ended;
                continue;
            }
        };
        let Carried { tunnel: _, end } = tunnel.carry(call, std::future::pending()).await;
        match end {
            End::Denied(denied) => return Ended::denied_by_peer(&denied),
            End::Closed(mut closed) => {
                closed.settle(std::future::pending()).await;
                return Ended::of_made(&closed);
            }
            End::Refused { errno, call: again } => {
                last = Ended::refused(&std::io::Error::from_raw_os_error(errno.cast_signed()).to_string());
                call = again;
            }
            End::Replay { why, call: again } => {
                last = Ended::failed(why.label(), why.to_string());
                call = again;
            }
        }
    }
    // The call is dropped here, which resets the app's connection.
    last
}

/// A new tunnel to an endpoint, where exactly the expected identity answers.
async fn open_tunnel(mesh: &Mesh, endpoint: &Endpoint) -> Result<ClientTunnel<TunnelIo>, Ended> {
    let Some(generation) = mesh.credentials.valid() else {
        return Err(Ended::denied(&Refusal::of(Why::NoIdentity)));
    };
    let stream = mesh
        .dialler
        .connect(endpoint.address)
        .await
        .map_err(|error| Ended::failed("connect", format!("{}: {error}", endpoint.address)))?;
    let began = Instant::now();
    let shaken = connect_tunnel(&generation, stream, &endpoint.id).await;
    mesh.connections.telemetry().handshake(
        shaken.as_ref().map(|_| ()).map_err(HandshakeError::label),
        began.elapsed(),
    );
    let (tls, _) = shaken.map_err(|error| Ended::failed(error.label(), format!("{}: {error}", endpoint.address)))?;
    mesh.connections.telemetry().stream_opened();
    Ok(ClientTunnel::new(TunnelIo(tls)))
}
