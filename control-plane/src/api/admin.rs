//! The Admin service: what `watchword token create` and `watchword status`
//! ask.

use std::sync::Arc;

use tonic::{Code, Request, Response, Status};
use watchword_identity::{SpiffeId, TrustDomain};
use watchword_proto::admin::{
    self, Admin, CreateTokenRequest, CreateTokenResponse, SnapshotState, StatusRequest, StatusResponse,
};

use super::status::{refusal_status, status};
use crate::enrolment::{Enrolment, Refusal};
use crate::store::Lineage;
use crate::store::State;
use crate::subscribers::{Subscriber, Subscribers};

/// Answers people.
#[derive(Debug, Clone)]
pub struct AdminApi {
    /// Makes tokens.
    pub enrolment: Arc<Enrolment>,
    /// Who is connected.
    pub subscribers: Subscribers,
    /// Ours.
    pub trust_domain: TrustDomain,
    /// Of this start.
    pub epoch: u64,
}

#[tonic::async_trait]
impl Admin for AdminApi {
    async fn create_token(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Result<Response<CreateTokenResponse>, Status> {
        let text = request.into_inner().spiffe_id;
        let id = SpiffeId::new(&text)
            .map_err(|error| status(Code::InvalidArgument, "not-a-spiffe-id", format!("{text:?}: {error}")))?;
        let token = self.enrolment.create_token(&id).await.map_err(|refusal| {
            tracing::warn!(%id, reason = refusal.label(), %refusal, "no join token made");
            told_in_full(&refusal)
        })?;
        Ok(Response::new(CreateTokenResponse {
            token: token.text,
            expires_at: token.expires_at,
        }))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let all = |state: &State| state.lineages.values().map(lineage).collect();
        Ok(Response::new(StatusResponse {
            trust_domain: self.trust_domain.to_string(),
            authority: self.enrolment.issuer.authority().name().to_owned(),
            epoch: self.epoch,
            lineages: self.enrolment.records.look(all),
            subscribers: self.subscribers.list().into_iter().map(subscriber).collect(),
        }))
    }
}

/// Who may use the admin socket may read the log as well.
fn told_in_full(refusal: &Refusal) -> Status {
    status(refusal_status(refusal).code(), refusal.label(), refusal.to_string())
}

fn lineage(lineage: &Lineage) -> admin::Lineage {
    let newest = lineage.current.as_ref().or(lineage.pending.as_ref());
    admin::Lineage {
        spiffe_id: lineage.id.clone(),
        serial: newest.map(|svid| svid.serial.clone()).unwrap_or_default(),
        not_after: newest.map(|svid| svid.not_after).unwrap_or_default(),
        frozen: lineage.frozen,
    }
}

fn subscriber(subscriber: Subscriber) -> admin::Subscriber {
    let snapshots = subscriber.progress.into_iter().map(|(kind, progress)| SnapshotState {
        kind: kind.label().to_owned(),
        sent: progress.sent,
        acknowledged: progress.acknowledged,
        rejected_because: progress.rejected_because,
    });
    admin::Subscriber {
        spiffe_id: subscriber.id,
        instance: subscriber.instance,
        snapshots: snapshots.collect(),
    }
}
