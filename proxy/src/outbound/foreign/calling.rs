//! A connection to one of the programs that a call is for.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use watchword_mtls::{ForeignProtocol, HandshakeError, connect_foreign};

use crate::balance::{Choice, OpenStream};
use crate::connection::Connection;
use crate::dial::watch_peer;
use crate::directory::Endpoint;
use crate::ended::Ended;
use crate::foreign_end::ForeignEnd;
use crate::foreign_tls::ForeignTls;
use crate::mesh::Mesh;
use crate::refusal::{Refusal, Why};

/// Whom a call is for.
pub(super) struct Calling<'a> {
    pub(super) mesh: &'a Mesh,
    pub(super) dialled: SocketAddr,
    pub(super) endpoints: Arc<[Endpoint]>,
    pub(super) connection: &'a mut Connection,
}

/// A connection to one of them.
pub(super) struct Called {
    pub(super) stream: ForeignTls,
    pub(super) end: ForeignEnd,
    pub(super) _counted: OpenStream,
}

impl Calling<'_> {
    /// Tries the endpoints, each once, until one proves to be whom the
    /// directory expects. No byte of the app's goes out before.
    pub(super) async fn connect(&mut self, spoken: ForeignProtocol) -> Result<Called, Ended> {
        let mesh = self.mesh;
        let mut choice = Choice::new(Arc::clone(&self.endpoints), self.dialled);
        let mut last = Ended::failed("no-endpoint", "");
        while let Some(endpoint) = choice.next(&mesh.loads, Instant::now()) {
            self.connection.set_peer(Arc::clone(&endpoint.id_text));
            let counted = mesh.loads.open(endpoint.address, Instant::now());
            match connect(mesh, &endpoint, spoken).await {
                Ok((stream, end)) => {
                    mesh.loads.succeeded(&counted);
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
