//! The story of a connection that comes to the workload: where it was going,
//! and who calls. What then comes on the tunnel, stream by stream, is told in
//! [`stream`]; a call of a program that does its own TLS in [`foreign`], one of
//! the workload to itself in [`to_self`], and in permissive mode one of who has no
//! identity in [`plaintext`].

mod foreign;
mod lanes;
mod plaintext;
mod policy_news;
mod single;
mod stream;
mod to_self;

use std::future::ready;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::net::TcpStream;
use watchword_mtls::{Accepted, ForeignProtocol, Generation, HandshakeError, TlsStream, accept};
use watchword_policy::Protocol;
use watchword_proto::tunnel::Reason;
use watchword_tunnel::{AppStream, ServerTunnel};

use self::stream::Caller;
use crate::connection::Direction;
use crate::ended::Ended;
use crate::foreign_tls::ForeignTls;
use crate::intercept::CANARY_PORT;
use crate::intercept::original::{is_local, is_own_port, original_destination};
use crate::mesh::Mesh;
use crate::refusal::{Refusal, Why};
use crate::tunnel_io::{Own, TunnelIo};
use crate::visitor::{Ends, Visitor};

pub(crate) use to_self::serve_self;

/// Takes a connection that the kernel sent to us, as a task of its own.
pub(crate) fn begin(mesh: &Mesh, stream: TcpStream, from: SocketAddr) {
    let mesh = mesh.clone();
    tokio::spawn(async move { receive(&mesh, stream, from).await });
}

/// From the accepted connection to its last stream.
async fn receive(mesh: &Mesh, mut stream: TcpStream, from: SocketAddr) {
    let Some(dialled) = captured(mesh, &stream, from) else {
        return stream.abort();
    };
    if dialled.port() == CANARY_PORT {
        return mesh.canary.answer(stream, dialled).await;
    }
    let mut connection = mesh.connections.begin(Direction::Inbound, from, dialled);
    if !is_local(dialled.ip()).unwrap_or(false) {
        stream.abort();
        return connection.end(&Ended::denied(&Refusal::of(Why::NotLocal)));
    }
    let ends = Ends {
        from,
        dialled,
        is_itself: false,
    };
    if mesh.snapshots.may_be_plaintext(from.ip()) {
        let heard = Box::pin(plaintext::serve_unless_tls(mesh, stream, &ends, connection)).await;
        let Some(tls) = heard else { return };
        (stream, connection) = tls;
    }
    let (accepted, generation) = match Box::pin(shake_hands(mesh, stream, &ends)).await {
        Ok(shaken) => shaken,
        Err(ended) => return connection.end(&ended),
    };
    let Some(live) = mesh.live_tunnels.begin(from.ip(), accepted.peer().id()) else {
        connection.set_peer(accepted.peer().id().to_string());
        connection.end(&Ended::failed("limit", "its SPIFFE ID has too many connections here"));
        return send_away(mesh, accepted).await;
    };
    let (tls, peer) = match accepted {
        Accepted::Tunnel(tls, peer) => (tls, peer),
        Accepted::Foreign(tls, peer) => {
            return Box::pin(foreign::serve(mesh, (tls, peer, generation), &ends, connection)).await;
        }
    };
    connection.forget();
    let ids = (peer.id().clone(), generation.svid().id().clone());
    let caller = Caller {
        visitor: Arc::new(Visitor::new(mesh.clone(), &ends, ids, peer.leaf_hash())),
        expires: peer.svid().not_after().min(generation.svid().not_after()),
        trust: Arc::clone(generation.bundle()),
    };
    let id = peer.id().clone();
    drop((generation, peer));
    // A task of its own is smaller than this one, which has room for a
    // handshake: there may be thousands that wait.
    if tls.has_lanes() {
        let io = Own::new(tls, mesh.connections.telemetry());
        tokio::spawn(lanes::serve(io, Arc::new(caller), (id, live)));
    } else {
        let tunnel = tunnel_on(mesh, tls);
        tokio::spawn(async move { caller.serve_tunnel(tunnel, live).await });
    }
}

fn tunnel_on(mesh: &Mesh, tls: TlsStream<TcpStream>) -> ServerTunnel<TunnelIo> {
    ServerTunnel::new(TunnelIo::Own(Own::new(tls, mesh.connections.telemetry())))
}

/// There are too many of its kind.
async fn send_away(mesh: &Mesh, accepted: Accepted<TcpStream>) {
    match accepted {
        Accepted::Tunnel(tls, _) if tls.has_lanes() => {
            lanes::send_away(Own::new(tls, mesh.connections.telemetry())).await;
        }
        Accepted::Tunnel(tls, _) => {
            let _ = tunnel_on(mesh, tls).next(ready(Reason::Limit)).await;
        }
        Accepted::Foreign(tls, _) => ForeignTls::new(tls).abort(),
    }
}

/// Where the caller dialled; nothing for who was not captured.
fn captured(mesh: &Mesh, stream: &TcpStream, from: SocketAddr) -> Option<SocketAddr> {
    match original_destination(stream, from) {
        Ok(dialled) if is_own_port(dialled.port()) => {
            if mesh.connections.may_write_of_stranger() {
                tracing::warn!(%from, %dialled, reason = Why::NotCaptured.label(), "a call to the sidecar's own port refused");
            }
            None
        }
        Ok(dialled) => Some(dialled),
        Err(error) => {
            if mesh.connections.may_write_of_stranger() {
                tracing::warn!(%from, reason = Why::NotCaptured.label(), %error, "inbound connection refused");
            }
            None
        }
    }
}

/// TLS with a mandatory client SVID, once there is a slot for it.
async fn shake_hands(
    mesh: &Mesh,
    mut stream: TcpStream,
    ends: &Ends,
) -> Result<(Accepted<TcpStream>, Arc<Generation>), Ended> {
    let source = ends.from.ip();
    let known = mesh.live_tunnels.reach_from(source);
    let Some(_slot) = mesh.handshakes.slot(source, known).await else {
        stream.abort();
        return Err(Ended::failed("limit", "too many connections wait for their handshake"));
    };
    let Some(generation) = mesh.credentials.valid() else {
        stream.abort();
        return Err(Ended::denied(&Refusal::of(Why::NoIdentity)));
    };
    // What a port that nobody declared speaks is never asked.
    let foreign = match mesh.snapshots.declared(ends.dialled) {
        Ok(Protocol::Http) => ForeignProtocol::Http1,
        Ok(Protocol::Grpc) => ForeignProtocol::Http2,
        Ok(Protocol::Tcp) | Err(_) => ForeignProtocol::Any,
    };
    let began = Instant::now();
    let shaken = accept(&generation, stream, foreign).await;
    mesh.connections.telemetry().handshake(
        shaken.as_ref().map(|_| ()).map_err(HandshakeError::label),
        began.elapsed(),
    );
    match shaken {
        Ok(accepted) => Ok((accepted, generation)),
        Err(error) => Err(Ended::failed(error.label(), error.to_string())),
    }
}
