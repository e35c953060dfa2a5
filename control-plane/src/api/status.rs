//! Refusals as gRPC statuses: a code for machines, a sentence for people, and
//! the reason's label in the metadata `watchword-reason`.
//!
//! Invariant: a caller learns what is wrong with its request, and nothing of
//! our files or our authority.

use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::{Code, Request, Status};
use watchword_daemon::Clock;
use watchword_identity::Svid;

use super::connection::Caller;
use crate::attest::lineage::LineageError;
use crate::attest::token::TokenError;
use crate::authority::AuthorityError;
use crate::enrolment::Refusal;
use crate::issuer::IssueError;

/// Holds a refusal's label.
pub(super) const REASON: &str = "watchword-reason";

/// A status with its reason.
pub(super) fn status(code: Code, reason: &'static str, message: impl Into<String>) -> Status {
    let mut metadata = MetadataMap::new();
    metadata.insert(REASON, AsciiMetadataValue::from_static(reason));
    Status::with_metadata(code, message, metadata)
}

/// A refusal as a caller sees it.
pub(super) fn refusal_status(refusal: &Refusal) -> Status {
    let message = match refusal {
        Refusal::Store(_) => "the control plane can't write its state: its log says why".to_owned(),
        Refusal::Issue(_) => "the authority did not issue: the control plane's log says why".to_owned(),
        other => other.to_string(),
    };
    status(code(refusal), refusal.label(), message)
}

fn code(refusal: &Refusal) -> Code {
    match refusal {
        Refusal::Csr(_) => Code::InvalidArgument,
        Refusal::Token(error) => match error {
            TokenError::Malformed => Code::InvalidArgument,
            TokenError::Unknown(_) | TokenError::Expired(_) | TokenError::Spent(_) => Code::Unauthenticated,
            TokenError::OtherId { .. } | TokenError::OtherKey => Code::PermissionDenied,
            TokenError::TooMany => Code::ResourceExhausted,
        },
        Refusal::Lineage(error) => match error {
            LineageError::Unknown(_) => Code::Unauthenticated,
            LineageError::SameKey => Code::InvalidArgument,
            LineageError::TooOften | LineageError::TooMany | LineageError::TooManyWorkloads => Code::ResourceExhausted,
            LineageError::Replaced(_) => Code::Aborted,
            LineageError::Retired(_)
            | LineageError::Frozen(_)
            | LineageError::OtherKeyPending(_)
            | LineageError::OtherId { .. } => Code::PermissionDenied,
        },
        Refusal::Registry(_) | Refusal::Revoked(_) => Code::PermissionDenied,
        Refusal::Issue(error) => match error {
            IssueError::Authority(AuthorityError::Refused(_)) => Code::FailedPrecondition,
            IssueError::Authority(_) | IssueError::Timeout => Code::Unavailable,
            IssueError::Distrusted(_) => Code::Internal,
        },
        Refusal::Store(_) => Code::Unavailable,
        Refusal::Random | Refusal::Kept => Code::Internal,
    }
}

/// The SVID that a request's connection was made with.
///
/// # Errors
/// When there was none, or it has expired since.
pub(super) fn authenticated<T>(request: &Request<T>, clock: &dyn Clock) -> Result<Svid, Status> {
    let peer = request
        .extensions()
        .get::<Caller>()
        .and_then(|caller| caller.peer.as_ref());
    let Some(peer) = peer else {
        let message = "this call needs a client certificate: only Attest is served without one";
        return Err(status(Code::Unauthenticated, "no-certificate", message));
    };
    if clock.now() > peer.svid().not_after() {
        let message = "the SVID that this connection was made with has expired: connect with a newer one";
        return Err(status(Code::Unauthenticated, "expired", message));
    }
    Ok(peer.svid().clone())
}
