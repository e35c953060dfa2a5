//! A call to a program that does its own mutual TLS: with our identity for the
//! app's, on connections that end with the certificates they stand on. HTTP
//! goes on over another one in time.

mod http1;
mod http2;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use watchword_identity::Usage;
use watchword_mtls::{ForeignProtocol, HandshakeError, connect_foreign};
use watchword_proto::directory::Protocol;
use watchword_tunnel::AppStream;

use crate::balance::{Choice, OpenStream};
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

/// Carries the call to its end.
pub(super) async fn carry(
    mesh: &Mesh,
    mut app: TcpStream,
    (dialled, endpoints): (SocketAddr, Arc<[Endpoint]>),
    connection: &mut Connection,
) -> Ended {
    let protocol = endpoints.first().map_or(Protocol::Tcp, |endpoint| endpoint.protocol);
    connection.set_protocol(protocol);
    app.guard(true);
    let (spoken, read) = match spoken(&mut app, protocol).await {
        Ok(spoken) => spoken,
        Err(error) => return Ended::failed("app-reset", error.to_string()),
    };
    let mut calling = Calling {
        mesh,
        dialled,
        endpoints,
        connection,
    };
    if spoken == ForeignProtocol::Http1 {
        return http1::carry(&mut calling, app, read).await;
    }
    let called = match calling.connect(spoken).await {
        Ok(called) => called,
        Err(ended) => {
            app.abort();
            return ended;
        }
    };
    if spoken == ForeignProtocol::Http2 {
        return http2::carry(called, app, read).await;
    }
    tokio::select! {
        ended = relay((app, read), called.stream, Verdict::none()) => ended,
        reason = called.end.over(Usage::Server) => Ended::failed("cut", Why::label_of(reason)),
    }
}

/// Whom a call is for.
struct Calling<'a> {
    mesh: &'a Mesh,
    dialled: SocketAddr,
    endpoints: Arc<[Endpoint]>,
    connection: &'a mut Connection,
}

/// A connection to one of them.
struct Called {
    stream: ForeignTls,
    end: ForeignEnd,
    _counted: OpenStream,
}

impl Calling<'_> {
    /// Tries the endpoints, each once, until one proves to be whom the
    /// directory expects. No byte of the app's goes out before.
    async fn connect(&mut self, spoken: ForeignProtocol) -> Result<Called, Ended> {
        let mesh = self.mesh;
        let mut choice = Choice::new(Arc::clone(&self.endpoints), self.dialled);
        let mut last = Ended::failed("no-endpoint", "");
        while let Some(endpoint) = choice.next(&mesh.loads, Instant::now()) {
            self.connection.set_peer(endpoint.id.to_string());
            let counted = mesh.loads.open(endpoint.address);
            match connect(mesh, &endpoint, spoken).await {
                Ok((stream, end)) => {
                    mesh.loads.succeeded(endpoint.address);
                    return Ok(Called {
                        stream,
                        end,
                        _counted: counted,
                    });
                }
                Err(ended) => {
                    mesh.loads.failed(endpoint.address, Instant::now());
                    last = ended;
                }
            }
        }
        Err(last)
    }
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
