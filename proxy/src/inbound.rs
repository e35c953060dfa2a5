//! The story of a connection that comes to the workload: where it was going,
//! and who calls. What then comes on the tunnel, stream by stream, is told in
//! [`stream`]; a call of the workload to itself in [`to_self`].

mod stream;
mod to_self;

use std::future::ready;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use watchword_mtls::{Generation, HandshakeError, Peer, accept_tunnel};
use watchword_proto::tunnel::Reason;
use watchword_tunnel::{AppStream, ServerTunnel};

use self::stream::Caller;
use crate::connection::Direction;
use crate::dial::watch_peer;
use crate::ended::Ended;
use crate::intercept::CANARY_PORT;
use crate::intercept::original::{is_local, is_own_port, original_destination};
use crate::mesh::Mesh;
use crate::refusal::{Refusal, Why};
use crate::tunnel_io::TunnelIo;
use crate::visitor::{Ends, Visitor};

pub(crate) use to_self::serve_self;

/// Takes a connection that the kernel sent to us, as a task of its own.
pub(crate) fn begin(mesh: &Mesh, stream: TcpStream, from: SocketAddr) {
    let mesh = mesh.clone();
    tokio::spawn(async move { receive(&mesh, stream, from).await });
}

/// From the accepted connection to its last stream.
async fn receive(mesh: &Mesh, mut stream: TcpStream, from: SocketAddr) {
    let dialled = match original_destination(&stream) {
        Ok(dialled) if is_own_port(dialled.port()) => {
            if mesh.connections.may_write_of_stranger() {
                tracing::warn!(%from, %dialled, reason = Why::NotCaptured.label(), "a call to the sidecar's own port refused");
            }
            return stream.abort();
        }
        Ok(dialled) => dialled,
        Err(error) => {
            if mesh.connections.may_write_of_stranger() {
                tracing::warn!(%from, reason = Why::NotCaptured.label(), %error, "inbound connection refused");
            }
            return stream.abort();
        }
    };
    if dialled.port() == CANARY_PORT {
        return answer_canary(stream).await;
    }
    let mut connection = mesh.connections.begin(Direction::Inbound, from, dialled);
    if !is_local(dialled.ip()).unwrap_or(false) {
        stream.abort();
        return connection.end(&Ended::denied(&Refusal::of(Why::NotLocal)));
    }
    let (tunnel, peer, generation) = match Box::pin(shake_hands(mesh, stream, from.ip())).await {
        Ok(shaken) => shaken,
        Err(ended) => return connection.end(&ended),
    };
    let Some(_live) = mesh.live_tunnels.begin(from.ip(), peer.id()) else {
        connection.set_peer(peer.id().to_string());
        connection.end(&Ended::failed("limit", "its SPIFFE ID has too many tunnels here"));
        let _ = tunnel.next(ready(Reason::Limit)).await;
        return;
    };
    connection.forget();
    let ends = Ends {
        from,
        dialled,
        is_itself: false,
    };
    let ids = (peer.id().clone(), generation.svid().id().clone());
    let caller = Caller {
        visitor: Arc::new(Visitor::new(mesh.clone(), &ends, ids, peer.leaf_hash())),
        expires: peer.svid().not_after().min(generation.svid().not_after()),
        trust: Arc::clone(generation.bundle()),
    };
    // What stands here while the tunnel is idle is held for each of them.
    drop((generation, peer));
    if let Err(error) = caller.serve_streams(tunnel).await {
        caller.report(&error);
    }
}

/// Interception is there: said to whoever dials the port that nobody serves.
async fn answer_canary(mut stream: TcpStream) {
    static INSTANCE: OnceLock<u64> = OnceLock::new();
    let body = format!("{:016x}\n", INSTANCE.get_or_init(|| fastrand::u64(..)));
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}

/// TLS with a mandatory client SVID, once there is a slot for it.
async fn shake_hands(
    mesh: &Mesh,
    mut stream: TcpStream,
    source: IpAddr,
) -> Result<(ServerTunnel<TunnelIo>, Peer, Arc<Generation>), Ended> {
    let known = mesh.live_tunnels.reach_from(source);
    let Some(_slot) = mesh.handshakes.slot(source, known).await else {
        stream.abort();
        return Err(Ended::failed("limit", "too many connections wait for their handshake"));
    };
    let Some(generation) = mesh.credentials.valid() else {
        stream.abort();
        return Err(Ended::denied(&Refusal::of(Why::NoIdentity)));
    };
    let _ = watch_peer(&stream);
    let began = Instant::now();
    let shaken = accept_tunnel(&generation, stream).await;
    mesh.connections.telemetry().handshake(
        shaken.as_ref().map(|_| ()).map_err(HandshakeError::label),
        began.elapsed(),
    );
    match shaken {
        Ok((tls, peer)) => {
            let io = TunnelIo::new(tls, mesh.connections.telemetry());
            Ok((ServerTunnel::new(io), peer, generation))
        }
        Err(error) => Err(Ended::failed(error.label(), error.to_string())),
    }
}
