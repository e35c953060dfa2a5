//! SVIDs for workloads that ask us by an open API: asked of the control plane,
//! and checked, as our own is.

use rustls_pki_types::CertificateDer;
use watchword_identity::Svid;
use watchword_mtls::Credentials;
use watchword_proto::control::IssueForWorkloadRequest;

use super::channel::ControlPlane;
use super::key_request::KeyRequest;
use super::obtain::ObtainError;

/// Asks in our own name.
#[derive(Clone)]
pub(crate) struct WorkloadIssuer {
    pub(crate) control_plane: ControlPlane,
    pub(crate) credentials: Credentials,
}

impl WorkloadIssuer {
    /// One try.
    pub(crate) async fn issue(&self, request: &KeyRequest) -> Result<Svid, ObtainError> {
        let client = self
            .credentials
            .control_client()
            .ok_or_else(|| ObtainError::Reach("this proxy has no valid certificate of its own".into()))?;
        let message = IssueForWorkloadRequest {
            csr: request.csr.clone(),
        };
        let mut client = self.control_plane.identity_client(client).await?;
        let chain = client.issue_for_workload(message).await?.into_inner().chain;
        let svid = Svid::from_chain(chain.into_iter().map(CertificateDer::from).collect())?;
        if svid.id() != &request.id || svid.public_key() != request.public_key {
            let (asked, got) = (&request.id, svid.id());
            return Err(ObtainError::Answer(format!(
                "asked for {asked} and a key of ours, got {got}, or another key"
            )));
        }
        let generation = self.credentials.current();
        let bundle = generation.ok_or_else(|| ObtainError::Answer("there is no bundle to check it by".into()))?;
        self.credentials.verify(&svid, bundle.bundle())?;
        Ok(svid)
    }
}
