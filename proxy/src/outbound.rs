//! The story of a connection that the workload makes: where it is going, who
//! must answer there, a tunnel to them, and then the bytes. Who has no sidecar
//! is called without a tunnel, by [`foreign`]; what is not the mesh's, if at
//! all, by [`egress`].

mod carriers;
mod foreign;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::net::TcpStream;
use watchword_proto::directory::PeerKind;
use watchword_proto::tunnel::Open;
use watchword_tunnel::{AppStream, Call, Carried, End, Pooled};

use crate::balance::{Choice, OpenStream};
use crate::connection::{Connection, Direction};
use crate::directory::{Endpoint, Found, Served};
use crate::egress;
use crate::ended::Ended;
use crate::inbound;
use crate::intercept::original::{is_local, original_destination};
use crate::mesh::Mesh;
use crate::reaches::is_flow;
use crate::refusal::{Refusal, Why};

pub(crate) use carriers::{Carriers, begin};

/// From the accepted connection to its end.
async fn send(mesh: &Mesh, mut app: TcpStream, from: SocketAddr) {
    let dialled = match original_destination(&app, from) {
        Ok(dialled) => dialled,
        Err(error) => {
            tracing::warn!(%from, reason = Why::NotCaptured.label(), %error, "outbound connection refused");
            return app.abort();
        }
    };
    let mut connection = mesh.connections.begin(Direction::Outbound, from, dialled);
    let served = match find(mesh, dialled) {
        Ok(Some(served)) => served,
        Ok(None) => {
            let ended = Box::pin(egress::carry(mesh, app, dialled)).await;
            return connection.end(&ended);
        }
        Err(refusal) => {
            app.abort();
            return connection.end(&Ended::denied(&refusal));
        }
    };
    let Served {
        endpoints,
        address_text,
    } = served;
    let is_foreign = endpoints
        .first()
        .is_some_and(|endpoint| endpoint.peer == PeerKind::Mtls);
    let ended = if is_foreign {
        Box::pin(foreign::carry(mesh, app, (dialled, endpoints), &mut connection)).await
    } else {
        let open = Open {
            traceparent: String::new(),
            requested: (*address_text).to_owned(),
        };
        let choice = Choice::new(endpoints, dialled);
        carry(mesh, (app, from), open, choice, &mut connection).await
    };
    connection.end(&ended);
}

/// Who serves the address that the app dialled; nobody of the mesh where it is
/// outside. An address of the mesh is never reached in plaintext.
fn find(mesh: &Mesh, dialled: SocketAddr) -> Result<Option<Served>, Refusal> {
    if mesh.credentials.valid().is_none() {
        return Err(Refusal::of(Why::NoIdentity));
    }
    let directory = mesh.snapshots.directory().ok_or_else(|| Refusal::of(Why::NotReady))?;
    match directory.find(dialled) {
        Found::Served(served) => Ok(Some(served.clone())),
        Found::PortNotDeclared => Err(Refusal::of(Why::PortNotDeclared)),
        Found::Unlisted => Err(Refusal::of(Why::UnlistedMeshAddress)),
        Found::Outside => Ok(None),
    }
}

/// Our own address can't be dialled from here: it would skip interception and
/// reach the app as raw TLS.
fn is_this_workload(mesh: &Mesh, endpoint: &Endpoint) -> bool {
    let is_our_id = mesh
        .credentials
        .current()
        .is_some_and(|current| *current.svid().id() == *endpoint.id);
    is_our_id && is_local(endpoint.address.ip()).unwrap_or(false)
}

/// Tries the endpoints, each once, as long as no byte can have reached an app.
fn carry(
    mesh: &Mesh,
    (app, from): (TcpStream, SocketAddr),
    open: Open,
    mut choice: Choice,
    connection: &mut Connection,
) -> impl Future<Output = Ended> {
    let mut call = Call::of_guarded(app, open);
    let mut last = Ended::failed("no-endpoint", "");
    // An `async fn` has room for its arguments twice, for as long as the call lasts.
    async move {
        let mut now = Instant::now();
        loop {
            let Some(endpoint) = choice.next(&mesh.loads, now) else {
                // The call is dropped here, which resets the app's connection.
                return last;
            };
            connection.set_peer(Arc::clone(&endpoint.id_text));
            let stream = mesh.loads.open(endpoint.address, now);
            if is_this_workload(mesh, &endpoint) {
                let Some(app) = call.into_parts() else { return last };
                let ends = (from, endpoint.address);
                return Box::pin(inbound::serve_self(mesh, app, ends, endpoint.protocol)).await;
            }
            match carry_to(mesh, &endpoint, call, &stream).await {
                Tried::Over(ended) => {
                    mesh.loads.succeeded(&stream);
                    return ended;
                }
                Tried::Unreached(again, ended) => {
                    now = Instant::now();
                    mesh.loads.failed(endpoint.address, now);
                    call = again;
                    last = ended;
                }
            }
        }
    }
}

/// How a try went.
enum Tried {
    Over(Ended),
    /// The call can be tried elsewhere.
    Unreached(Call<TcpStream>, Ended),
}

/// Carries the call to one endpoint. A warm tunnel that the endpoint has left
/// meanwhile is replaced by a new one, once.
fn carry_to(
    mesh: &Mesh,
    endpoint: &Endpoint,
    mut call: Call<TcpStream>,
    stream: &OpenStream,
) -> impl Future<Output = Tried> {
    let mut is_stale = false;
    // As above.
    async move {
        loop {
            let taken = match is_stale {
                true => mesh.tunnels.get_new(endpoint).await,
                false => mesh.tunnels.get(endpoint, stream).await,
            };
            let Pooled {
                tunnel,
                facts: standing,
                is_warm,
            } = match taken {
                Ok(taken) => taken,
                Err(ended) => return Tried::Unreached(call, ended),
            };
            mesh.connections.telemetry().stream_opened();
            let Carried { tunnel, end } = tunnel.carry(call, std::future::pending()).await;
            if let Some(tunnel) = tunnel {
                mesh.tunnels.put_back(endpoint, tunnel, standing);
            }
            match end {
                End::Denied(denied) => return Tried::Over(Ended::denied_by_peer(&denied)),
                End::Closed(mut closed) => {
                    closed.settle(std::future::pending()).await;
                    if is_flow(closed.sent + closed.received, stream.began.elapsed()) {
                        mesh.tunnels.note_flow(endpoint);
                    }
                    return Tried::Over(Ended::of_made(&closed));
                }
                End::Refused { errno, call } => {
                    let error = std::io::Error::from_raw_os_error(errno.cast_signed());
                    return Tried::Unreached(call, Ended::refused(&error.to_string()));
                }
                End::Replay { why, call: again } if is_warm || standing.is_lane() => {
                    tracing::debug!(endpoint = %endpoint.address, reason = why.label(), "a warm tunnel was stale");
                    mesh.tunnels.give_up(endpoint, standing);
                    call = again;
                    is_stale = true;
                }
                End::Replay { why, call } => {
                    return Tried::Unreached(call, Ended::failed(why.label(), why.to_string()));
                }
            }
        }
    }
}
