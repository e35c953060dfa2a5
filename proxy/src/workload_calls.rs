//! Calls by the workload socket, whichever API they are of: who makes them, and
//! how what they can't have is said in gRPC.

use std::sync::Arc;

use tonic::{Request, Status};

use crate::workloads::{Caller, Process, Refused, Subscription, Workloads};

/// Who calls: goes with each request of a connection.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) caller: Caller,
    pub(crate) process: Option<Arc<Process>>,
}

/// What a caller is to have, for as long as it asks.
pub(crate) fn subscribe<T>(workloads: &Workloads, request: &Request<T>) -> Result<Subscription, Status> {
    let Some(Connection { caller, process }) = request.extensions().get() else {
        return Err(Status::internal("the connection has no caller"));
    };
    workloads
        .subscribe(caller, process.as_ref())
        .inspect_err(|refused| tracing::warn!(uid = caller.uid, pid = caller.pid, reason = %refused, "a caller of the workload socket gets nothing"))
        .map_err(Status::from)
}

/// A refusal as a client sees it: by the codes of the standard, in which a
/// server that is too busy is unavailable (SPIFFE Workload Endpoint, section 6).
impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        let text = refused.to_string();
        match refused {
            Refused::NotEntitled(_) => Self::permission_denied(text),
            Refused::Failed(failure) if failure.denied => Self::permission_denied(text),
            Refused::NoIdentityYet
            | Refused::NoAnswer
            | Refused::Failed(_)
            | Refused::Stopping
            | Refused::TooManyCallers(_)
            | Refused::TooManyStreams(_) => Self::unavailable(text),
        }
    }
}
