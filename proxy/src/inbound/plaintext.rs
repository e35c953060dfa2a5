//! In permissive mode: a caller from outside of the mesh, who may speak in
//! plaintext and then has the principal `unauthenticated`, under policies as
//! everybody else.
//!
//! Invariant: nobody waits for a time to pass before it is served (ADR 20). On a tcp
//! port who speaks first decides, for a server may have to: a ClientHello of
//! the caller means TLS, anything else, or a word of the app, plaintext. On
//! other ports the caller speaks first anyway. No byte of a ClientHello goes to
//! the app.

use std::future::pending;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::timeout;
use watchword_mtls::HANDSHAKE_DEADLINE;
use watchword_policy::{Protocol, UNAUTHENTICATED};
use watchword_proto::tunnel::Reason;
use watchword_tunnel::AppStream;

use super::single::{Limits, carry_to};
use crate::connection::Connection;
use crate::dial::First;
use crate::ended::Ended;
use crate::enforce::Question;
use crate::mesh::Mesh;
use crate::refusal::{Refusal, Why};
use crate::visitor::{Ends, Visitor};

/// How a ClientHello begins (RFC 8446 section 5.1): a handshake record.
const HANDSHAKE: u8 = 22;
const MAJOR_VERSION: u8 = 3;
const CLIENT_HELLO: u8 = 1;
/// Of the record's head and the message's type.
const HEAD: usize = 6;

/// What a connection turned out to be.
enum Heard {
    Tls,
    /// With the app, where it was dialled to hear it.
    Plaintext(Option<TcpStream>),
    Refused(Ended),
}

/// Serves a caller that speaks in plaintext, to its end; gives back one that
/// speaks TLS, of which nothing was read.
pub(super) async fn serve_unless_tls(
    mesh: &Mesh,
    mut stream: TcpStream,
    ends: &Ends,
    mut connection: Connection,
) -> Option<(TcpStream, Connection)> {
    // Beyond it as in strict mode: they must not be in the way of an identity.
    let Some(_place) = mesh.plaintext_room.enter(ends.from.ip()) else {
        return Some((stream, connection));
    };
    let question = match question(mesh, ends) {
        Ok(question) => question,
        Err(refusal) => {
            stream.abort();
            connection.end(&Ended::denied(&refusal));
            return None;
        }
    };
    let app = match hear(&question, &stream).await {
        Heard::Tls => return Some((stream, connection)),
        Heard::Plaintext(app) => app,
        Heard::Refused(ended) => {
            stream.abort();
            connection.set_peer(UNAUTHENTICATED);
            connection.end(&ended);
            return None;
        }
    };
    connection.set_peer(UNAUTHENTICATED);
    connection.set_protocol(question.protocol);
    let limits = Limits {
        goodbye: pending(),
        stop: mesh.shutdown.requested(),
        over: pending::<Reason>(),
    };
    let ended = Box::pin(carry_to(&question, (stream, Vec::new()), app, limits)).await;
    connection.end(&ended);
    None
}

fn question(mesh: &Mesh, ends: &Ends) -> Result<Question, Refusal> {
    let generation = mesh.credentials.valid().ok_or_else(|| Refusal::of(Why::NoIdentity))?;
    let protocol = mesh.snapshots.declared(ends.dialled)?;
    let own = generation.svid().id().clone();
    Ok(Question {
        visitor: Arc::new(Visitor::unauthenticated(mesh.clone(), ends, own)),
        protocol,
    })
}

async fn hear(question: &Question, stream: &TcpStream) -> Heard {
    let mesh = &question.visitor.mesh;
    let changes = mesh.snapshots.policy_changes();
    if question.protocol == Protocol::Tcp && !question.is_denied() {
        return tokio::select! {
            heard = hear_both(question, stream) => heard,
            reason = question.cut_when_denied(changes) => {
                Heard::Refused(Ended::failed("cut", Why::label_of(reason)))
            }
        };
    }
    // Who would not be let in can wait for its first word, and so can who has
    // to say it: it may turn out to have an identity.
    let source = question.visitor.from.ip();
    let known = mesh.live_tunnels.reach_from(source);
    let Some(_slot) = mesh.handshakes.slot(source, known).await else {
        return Heard::Refused(Ended::failed("limit", "too many connections wait for their handshake"));
    };
    match timeout(HANDSHAKE_DEADLINE, is_client_hello(stream)).await {
        Ok(true) => Heard::Tls,
        Ok(false) | Err(_) => Heard::Plaintext(None),
    }
}

/// Dials the app, to hear who speaks first: the caller or the app.
async fn hear_both(question: &Question, stream: &TcpStream) -> Heard {
    let visitor = &question.visitor;
    let dialler = &visitor.mesh.dialler;
    let of_caller = |is_tls: bool| if is_tls { Heard::Tls } else { Heard::Plaintext(None) };
    let app = tokio::select! {
        biased;
        is_tls = is_client_hello(stream) => return of_caller(is_tls),
        app = dialler.connect_app(visitor.dialled, visitor.from.ip(), First::Either) => app,
    };
    let app = match app {
        Ok(app) => app,
        Err(error) => return Heard::Refused(Ended::refused(&error.to_string())),
    };
    let mut word = [0];
    let is_tls = tokio::select! {
        biased;
        is_tls = is_client_hello(stream) => is_tls,
        _ = app.peek(&mut word) => false,
    };
    if is_tls {
        Heard::Tls
    } else {
        Heard::Plaintext(Some(app))
    }
}

/// Whether the caller's first bytes are a ClientHello, once there are any. What
/// is there of it decides: who sends it byte by byte has itself to blame.
async fn is_client_hello(stream: &TcpStream) -> bool {
    let mut head = [0; HEAD];
    let count = stream.peek(&mut head).await.unwrap_or(0);
    let expected = [
        Some(HANDSHAKE),
        Some(MAJOR_VERSION),
        None,
        None,
        None,
        Some(CLIENT_HELLO),
    ];
    let mut seen = head.iter().take(count).zip(expected);
    count > 0 && seen.all(|(byte, expected)| expected.is_none_or(|expected| *byte == expected))
}
