//! A call of the workload to itself: it never leaves the process, and is judged
//! like any other.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use watchword_policy::Protocol;
use watchword_tunnel::AppStream;

use crate::connection::Direction;
use crate::ended::{Ended, Verdict};
use crate::enforce::{Admission, Question};
use crate::http::{self, ResetOnDrop};
use crate::mesh::Mesh;
use crate::refusal::{Refusal, Why};
use crate::visitor::{Ends, Visitor};

/// `read` was read from the caller already; `protocol` is what the port speaks.
pub(crate) async fn serve_self(
    mesh: &Mesh,
    (mut caller, read): (TcpStream, Vec<u8>),
    (from, dialled): (SocketAddr, SocketAddr),
    protocol: Protocol,
) -> Ended {
    let mut connection = mesh.connections.begin(Direction::Inbound, from, dialled);
    let Some(generation) = mesh.credentials.valid() else {
        caller.abort();
        let ended = Ended::denied(&Refusal::of(Why::NoIdentity));
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
    let ended = Box::pin(carry(&question, caller, read)).await;
    connection.end(&ended);
    ended
}

async fn carry(question: &Question, mut caller: TcpStream, read: Vec<u8>) -> Ended {
    let visitor = &question.visitor;
    let changes = visitor.mesh.snapshots.policy_changes();
    let admission = match question.admit() {
        Ok(admission) => admission,
        Err(refusal) => {
            caller.abort();
            return Ended::denied(&refusal);
        }
    };
    let app = match admission {
        Admission::Requests { some_may_pass: false } => None,
        _ => match visitor.mesh.dialler.connect_self(visitor.dialled).await {
            Ok(app) => Some(app),
            Err(error) => {
                caller.abort();
                return Ended::refused(&error.to_string());
            }
        },
    };
    let cut = question.cut_when_denied(changes);
    match (admission, app) {
        (Admission::Whole(decision), Some(app)) => {
            let verdict = Verdict::of(&decision);
            let carried = carry_bytes((caller, read), app, verdict);
            tokio::select! {
                ended = carried => ended,
                reason = cut => Ended::failed("cut", Why::label_of(reason)),
            }
        }
        (_, app) => {
            let served = (Arc::clone(visitor), question.protocol);
            let io = ResetOnDrop::new(caller, read);
            let stop = visitor.mesh.shutdown.requested();
            tokio::select! {
                served = http::serve(served, io, app, stop) => match served {
                    Ok(()) => Ended::finished(0, 0, Verdict::none()),
                    Err(error) => Ended::failed("app-reset", error.to_string()),
                },
                reason = cut => Ended::failed("cut", Why::label_of(reason)),
            }
        }
    }
}

/// Neither side may take a cut for the end of its data, nor our being killed.
async fn carry_bytes((mut caller, read): (TcpStream, Vec<u8>), mut app: TcpStream, verdict: Verdict) -> Ended {
    caller.guard(true);
    app.guard(true);
    let carried = async {
        app.write_all(&read).await?;
        tokio::io::copy_bidirectional(&mut caller, &mut app).await
    };
    match carried.await {
        Ok((sent, received)) => {
            caller.guard(false);
            app.guard(false);
            Ended::finished(sent + read.len() as u64, received, verdict)
        }
        Err(error) => Ended::failed("app-reset", error.to_string()),
    }
}
