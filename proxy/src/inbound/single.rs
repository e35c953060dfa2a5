//! A caller's connection that carries one call, be it of the workload itself,
//! of a foreign peer or of who has no identity: judged, and carried to the app.

use std::sync::Arc;

use tokio::net::TcpStream;
use watchword_proto::tunnel::Reason;
use watchword_tunnel::AppStream;

use crate::dial::First;
use crate::ended::{Ended, Verdict};
use crate::enforce::{Admission, Question};
use crate::http::{self, ResetOnDrop};
use crate::refusal::{Refusal, Why};
use crate::relay::relay;

/// When a connection is over, whatever its two sides want.
pub(super) struct Limits<G, S, E> {
    /// Requests should go elsewhere.
    pub(super) goodbye: G,
    /// No further request is served.
    pub(super) stop: S,
    /// It is cut.
    pub(super) over: E,
}

/// `read` was read from the caller already.
pub(super) async fn carry<C, G, S, E>(question: &Question, caller: (C, Vec<u8>), limits: Limits<G, S, E>) -> Ended
where
    C: AppStream + Send + 'static,
    G: Future<Output = ()>,
    S: Future<Output = ()>,
    E: Future<Output = Reason>,
{
    carry_to(question, caller, None, limits).await
}

/// The same; `dialled` is an app that was dialled already.
pub(super) async fn carry_to<C, G, S, E>(
    question: &Question,
    (mut caller, read): (C, Vec<u8>),
    dialled: Option<TcpStream>,
    limits: Limits<G, S, E>,
) -> Ended
where
    C: AppStream + Send + 'static,
    G: Future<Output = ()>,
    S: Future<Output = ()>,
    E: Future<Output = Reason>,
{
    let visitor = &question.visitor;
    let changes = visitor.mesh.snapshots.policy_changes();
    let admission = match question.admit() {
        Ok(admission) => admission,
        Err(refusal) => {
            caller.abort();
            return Ended::denied(&refusal);
        }
    };
    let app = match dialled {
        Some(app) => Ok(Some(app)),
        None => dial(question, &admission).await,
    };
    let app = match app {
        Ok(app) => app,
        Err(error) => {
            caller.abort();
            return Ended::refused(&error.to_string());
        }
    };
    let carried = async {
        match (admission, app) {
            (Admission::Whole(decision), Some(app)) => relay((caller, read), app, Verdict::of(&decision)).await,
            (_, app) => {
                let served = (Arc::clone(visitor), question.protocol);
                let io = ResetOnDrop::new(caller, read);
                match http::serve(served, io, app, (limits.goodbye, limits.stop)).await {
                    Ok(()) => Ended::finished(0, 0, Verdict::none()),
                    Err(error) => Ended::failed("app-reset", error.to_string()),
                }
            }
        }
    };
    let reason = tokio::select! {
        ended = Box::pin(carried) => return ended,
        reason = question.cut_when_denied(changes) => reason,
        reason = limits.over => reason,
    };
    Ended::failed("cut", Why::label_of(reason))
}

/// No app where nothing could reach it.
async fn dial(question: &Question, admission: &Admission) -> std::io::Result<Option<TcpStream>> {
    if let Admission::Requests { some_may_pass: false } = admission {
        return Ok(None);
    }
    let visitor = &question.visitor;
    if !visitor.is_itself && visitor.mesh.app_pool.has(&visitor.app_key()) {
        return Ok(None);
    }
    let dialler = &visitor.mesh.dialler;
    match visitor.is_itself {
        true => dialler.connect_self(visitor.dialled).await,
        false => {
            dialler
                .connect_app(visitor.dialled, visitor.from.ip(), First::Either)
                .await
        }
    }
    .map(Some)
}

/// A connection that must not go on, for a reason of ours.
pub(super) fn refuse(mut caller: impl AppStream, why: Why) -> Ended {
    caller.abort();
    Ended::denied(&Refusal::of(why))
}
