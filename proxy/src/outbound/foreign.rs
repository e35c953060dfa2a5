//! A call to a program that does its own mutual TLS: a connection for each
//! call, with our identity for the app's, that ends with the certificates it
//! stands on.

use std::time::Instant;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use watchword_identity::Usage;
use watchword_mtls::{ForeignProtocol, HandshakeError, connect_foreign};
use watchword_proto::directory::Protocol;
use watchword_tunnel::AppStream;

use crate::balance::Choice;
use crate::connection::Connection;
use crate::dial::watch_peer;
use crate::directory::Endpoint;
use crate::ended::{Ended, Verdict};
use crate::foreign_end::ForeignEnd;
use crate::foreign_tls::ForeignTls;
use crate::http::{HEAD_DEADLINE, PREFACE};
use crate::mesh::Mesh;
use crate::refusal::{Refusal, Why};
use crate::relay::relay;

/// Tries the endpoints, each once, until one proves to be whom the directory
/// expects. No byte of the app's goes out before.
pub(super) async fn carry(
    mesh: &Mesh,
    mut app: TcpStream,
    protocol: Protocol,
    mut choice: Choice,
    connection: &mut Connection,
) -> Ended {
    connection.set_protocol(protocol);
    app.guard(true);
    let (spoken, read) = match spoken(&mut app, protocol).await {
        Ok(spoken) => spoken,
        Err(error) => return Ended::failed("app-reset", error.to_string()),
    };
    let mut last = Ended::failed("no-endpoint", "");
    while let Some(endpoint) = choice.next(&mesh.loads, Instant::now()) {
        connection.set_peer(endpoint.id.to_string());
        let _counted = mesh.loads.open(endpoint.address);
        match connect(mesh, &endpoint, spoken).await {
            Ok((called, end)) => {
                mesh.loads.succeeded(endpoint.address);
                return tokio::select! {
                    ended = relay((app, read), called, Verdict::none()) => ended,
                    reason = end.over(Usage::Server) => Ended::failed("cut", Why::label_of(reason)),
                };
            }
            Err(ended) => {
                mesh.loads.failed(endpoint.address, Instant::now());
                last = ended;
            }
        }
    }
    app.abort();
    last
}

async fn connect(mesh: &Mesh, endpoint: &Endpoint, spoken: ForeignProtocol) -> Result<(ForeignTls, ForeignEnd), Ended> {
    let Some(generation) = mesh.credentials.valid() else {
        return Err(Ended::denied(&Refusal::of(Why::NoIdentity)));
    };
    let stream = mesh
        .dialler
        .connect(endpoint.address)
        .await
        .map_err(|error| Ended::failed("connect", format!("{}: {error}", endpoint.address)))?;
    let _ = watch_peer(&stream);
    let began = Instant::now();
    let shaken = Box::pin(connect_foreign(&generation, stream, (&endpoint.id, spoken))).await;
    mesh.connections.telemetry().handshake(
        shaken.as_ref().map(|_| ()).map_err(HandshakeError::label),
        began.elapsed(),
    );
    let (tls, peer) = shaken.map_err(|error| Ended::failed(error.label(), format!("{}: {error}", endpoint.address)))?;
    let end = ForeignEnd::new((&mesh.credentials, &mesh.clock), peer, &generation);
    Ok((ForeignTls::new(tls), end))
}

/// What TLS is to say of the protocol. On an http port the app's first bytes
/// tell the version; they are read, and must be carried first.
async fn spoken(app: &mut TcpStream, protocol: Protocol) -> std::io::Result<(ForeignProtocol, Vec<u8>)> {
    let mut read = Vec::new();
    match protocol {
        Protocol::Tcp => return Ok((ForeignProtocol::Any, read)),
        Protocol::Grpc => return Ok((ForeignProtocol::Http2, read)),
        Protocol::Http => {}
    }
    // The first byte may come late, as on any connection.
    app.read_buf(&mut read).await?;
    let rest = async {
        while read.len() < PREFACE.len() && PREFACE.starts_with(&read) && !read.is_empty() {
            if app.read_buf(&mut read).await? == 0 {
                break;
            }
        }
        std::io::Result::Ok(())
    };
    timeout(HEAD_DEADLINE, rest)
        .await
        .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
    let is_http2 = read.starts_with(PREFACE);
    let spoken = if is_http2 {
        ForeignProtocol::Http2
    } else {
        ForeignProtocol::Http1
    };
    Ok((spoken, read))
}
