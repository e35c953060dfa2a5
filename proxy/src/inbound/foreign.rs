//! A call of a program that does its own mutual TLS: it has no tunnel, and its
//! certificates can't be vouched for, so its connection ends with them.
//! Policies and logs are as for everybody else.

use std::sync::Arc;

use tokio::net::TcpStream;
use watchword_identity::Usage;
use watchword_mtls::{Generation, Peer, TlsStream};
use watchword_tunnel::AppStream;

use super::single::{Limits, carry};
use crate::connection::Connection;
use crate::ended::Ended;
use crate::enforce::Question;
use crate::foreign_end::ForeignEnd;
use crate::foreign_tls::ForeignTls;
use crate::mesh::Mesh;
use crate::visitor::{Ends, Visitor};

/// From the handshake to the connection's end.
pub(super) async fn serve(
    mesh: &Mesh,
    (tls, peer, generation): (TlsStream<TcpStream>, Peer, Arc<Generation>),
    ends: &Ends,
    mut connection: Connection,
) {
    connection.set_peer(peer.id().to_string());
    let mut caller = ForeignTls::new(tls);
    let protocol = match mesh.snapshots.declared(ends.dialled) {
        Ok(protocol) => protocol,
        Err(refusal) => {
            caller.abort();
            return connection.end(&Ended::denied(&refusal));
        }
    };
    connection.set_protocol(protocol);
    let ids = (peer.id().clone(), generation.svid().id().clone());
    let visitor = Visitor::new(mesh.clone(), ends, ids, peer.leaf_hash());
    let question = Question {
        visitor: Arc::new(visitor),
        protocol,
    };
    let end = ForeignEnd::new((&mesh.credentials, &mesh.clock), peer, &generation);
    drop(generation);
    let limits = Limits {
        goodbye: end.goodbye(),
        stop: async {
            tokio::select! {
                () = end.last() => {}
                () = mesh.shutdown.requested() => {}
            }
        },
        over: end.over(Usage::Client),
    };
    let ended = Box::pin(carry(&question, (caller, Vec::new()), limits)).await;
    connection.end(&ended);
}
