//! A call to a program that does its own mutual TLS: with our identity for the
//! app's, on connections that end with the certificates they stand on. HTTP
//! goes on over another one in time.

mod calling;
mod http1;
mod http2;

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::net::TcpStream;
use watchword_identity::Usage;
use watchword_mtls::ForeignProtocol;
use watchword_proto::directory::Protocol;
use watchword_tunnel::AppStream;

use self::calling::Calling;
use crate::connection::Connection;
use crate::directory::Endpoint;
use crate::ended::{Ended, Verdict};
use crate::http::{Spoken, read_spoken};
use crate::mesh::Mesh;
use crate::refusal::Why;
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
        ended = relay((app, read.into()), called.stream, Verdict::none()) => ended,
        reason = called.end.over(Usage::Server) => Ended::failed("cut", Why::label_of(reason)),
    }
}

/// What TLS is to say of the protocol. On an http port the app's first bytes
/// tell the version; they are read, and must be carried first.
async fn spoken(app: &mut TcpStream, protocol: Protocol) -> std::io::Result<(ForeignProtocol, BytesMut)> {
    let mut read = BytesMut::new();
    let spoken = match protocol {
        Protocol::Tcp => ForeignProtocol::Any,
        Protocol::Grpc => ForeignProtocol::Http2,
        Protocol::Http => match read_spoken(app, &mut read).await? {
            Spoken::Http1 => ForeignProtocol::Http1,
            Spoken::Http2 => ForeignProtocol::Http2,
        },
    };
    Ok((spoken, read))
}
