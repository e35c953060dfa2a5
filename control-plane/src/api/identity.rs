//! The Identity service: thin, all decisions are made in `crate::enrolment`.

use std::sync::Arc;

use tonic::{Code, Request, Response, Status};
use watchword_identity::Svid;
use watchword_proto::control::attest_request::Evidence;
use watchword_proto::control::{AttestRequest, Identity, IssueForWorkloadRequest, IssueResponse, RenewRequest};

use super::status::{authenticated, refusal_status, status};
use crate::enrolment::{Enrolment, Refusal};
use crate::snapshots::Snapshots;

/// Issues X.509-SVIDs over gRPC.
#[derive(Debug, Clone)]
pub struct IdentityApi {
    enrolment: Arc<Enrolment>,
    snapshots: Snapshots,
    epoch: u64,
}

impl IdentityApi {
    /// For callers who are to be enrolled here; they get the bundle that is
    /// told in this epoch.
    pub fn new(enrolment: Arc<Enrolment>, snapshots: Snapshots, epoch: u64) -> Self {
        Self {
            enrolment,
            snapshots,
            epoch,
        }
    }

    fn respond(&self, result: Result<Svid, Refusal>) -> Result<Response<IssueResponse>, Status> {
        let svid = result.map_err(|refusal| refusal_status(&refusal))?;
        let view = self.snapshots.current();
        let (bundle, bundle_version) = view.bundle();
        Ok(Response::new(IssueResponse {
            chain: svid.chain().iter().map(|certificate| certificate.to_vec()).collect(),
            bundle: Some(bundle.clone()),
            bundle_epoch: self.epoch,
            bundle_version,
        }))
    }
}

#[tonic::async_trait]
impl Identity for IdentityApi {
    async fn attest(&self, request: Request<AttestRequest>) -> Result<Response<IssueResponse>, Status> {
        let request = request.into_inner();
        match request.evidence {
            Some(Evidence::JoinToken(token)) => self.respond(self.enrolment.attest(&request.csr, &token).await),
            None => {
                let message = "the request has no evidence that this control plane understands: send a join token";
                Err(status(Code::InvalidArgument, "no-evidence", message))
            }
        }
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<IssueResponse>, Status> {
        let current = authenticated(&request, self.enrolment.clock.as_ref())?;
        self.respond(self.enrolment.renew(&request.into_inner().csr, &current).await)
    }

    async fn issue_for_workload(
        &self,
        request: Request<IssueForWorkloadRequest>,
    ) -> Result<Response<IssueResponse>, Status> {
        let speaker = authenticated(&request, self.enrolment.clock.as_ref())?;
        let csr = request.into_inner().csr;
        self.respond(self.enrolment.issue_for_workload(&csr, &speaker).await)
    }
}
