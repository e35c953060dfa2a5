//! A call of the workload to itself: it never leaves the process, and is judged
//! like any other.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use watchword_policy::Protocol;

use super::single::{Limits, carry, refuse};
use crate::connection::Direction;
use crate::ended::Ended;
use crate::enforce::Question;
use crate::mesh::Mesh;
use crate::refusal::Why;
use crate::visitor::{Ends, Visitor};

/// `read` was read from the caller already; `protocol` is what the port speaks.
pub(crate) async fn serve_self(
    mesh: &Mesh,
    (caller, read): (TcpStream, Vec<u8>),
    (from, dialled): (SocketAddr, SocketAddr),
    protocol: Protocol,
) -> Ended {
    let mut connection = mesh.connections.begin(Direction::Inbound, from, dialled);
    let Some(generation) = mesh.credentials.valid() else {
        let ended = refuse(caller, Why::NoIdentity);
        connection.end(&ended);
        return ended;
    };
    let own = generation.svid().id();
    connection.set_peer(own.to_string());
    connection.set_protocol(protocol);
    let ends = Ends {
        from,
        dialled,
        is_itself: true,
    };
    let ids = (own.clone(), own.clone());
    let visitor = Visitor::new(mesh.clone(), &ends, ids, generation.leaf_hash());
    let question = Question {
        visitor: Arc::new(visitor),
        protocol,
    };
    let limits = Limits {
        goodbye: pending(),
        stop: mesh.shutdown.requested(),
        over: pending(),
    };
    let ended = Box::pin(carry(&question, (caller, read), limits)).await;
    connection.end(&ended);
    ended
}
