//! The control plane's own SVID: its key lives in memory only, and is
//! replaced at half-life together with the certificate.
//!
//! Invariant: a failed renewal leaves what is in force; connections are not
//! touched by a renewal.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use rustls_pki_types::PrivateKeyDer;
use thiserror::Error;
use watchword_daemon::{Blocker, Clock, sleep_until};
use watchword_identity::schedule::{pause_after, renew_at};
use watchword_identity::{SpiffeId, TrustDomain};
use watchword_mtls::{Credentials, PublishError};

use crate::authority::AuthorityError;
use crate::csr::{Csr, CsrError};
use crate::issuer::{IssueError, Issuer};

/// For the pauses before the first certificate: the longest is an eighth of it.
const START_SCALE: Duration = Duration::from_secs(80);

/// Why there is no new certificate.
#[derive(Debug, Error)]
pub enum OwnIdentityError {
    /// The trust domain leaves no room for our path.
    #[error("the trust domain can't have a control plane: {0}")]
    Id(String),
    /// No key, or no request.
    #[error("a key can't be made: {0}")]
    Key(#[from] rcgen::Error),
    /// Our own request is not accepted.
    #[error("our own request is refused: {0}")]
    Csr(#[from] CsrError),
    /// The authority.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// It can't be used.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

impl OwnIdentityError {
    /// Whether waiting may help.
    fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Issue(IssueError::Timeout | IssueError::Authority(AuthorityError::Unavailable(_)))
        )
    }
}

/// The control plane's SPIFFE ID in a trust domain.
///
/// # Errors
/// When the trust domain's name leaves no room for it.
pub fn control_plane_id(domain: &TrustDomain) -> Result<SpiffeId, OwnIdentityError> {
    let id = format!("spiffe://{domain}/watchword/control-plane");
    SpiffeId::new(id).map_err(|error| OwnIdentityError::Id(error.to_string()))
}

/// Keeps the credentials of the control plane fresh.
#[derive(Clone)]
pub struct OwnIdentity {
    /// Who we are.
    pub id: SpiffeId,
    /// Where they are published.
    pub credentials: Credentials,
    /// Where they come from.
    pub issuer: Arc<Issuer>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
}

impl OwnIdentity {
    /// Makes a key, has it certified, and publishes both. Returns when to do
    /// so again.
    ///
    /// # Errors
    /// See [`OwnIdentityError`].
    pub async fn renew(&self) -> Result<SystemTime, OwnIdentityError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(self.id.to_string().try_into()?)];
        let csr = Csr::from_der(params.serialize_request(&key)?.der())?;
        let svid = self.issuer.issue(&csr, &self.id).await?;
        let generation = self
            .credentials
            .publish(&svid, &PrivateKeyDer::from(key), self.issuer.bundle())?;
        tracing::info!(
            serial = svid.serial(),
            generation,
            "the control plane has a new certificate"
        );
        Ok(renew_at(self.clock.now(), svid.not_after(), fastrand::f64()))
    }

    /// [`OwnIdentity::renew`], again and again while the authority is away:
    /// `blocker` says why.
    ///
    /// # Errors
    /// When waiting can't help.
    pub async fn obtain(&self, blocker: &Blocker) -> Result<SystemTime, OwnIdentityError> {
        let mut failures = 0;
        loop {
            let error = match self.renew().await {
                Err(error) if error.may_pass() => error,
                done => return done,
            };
            failures += 1;
            let pause = pause_after(failures, START_SCALE, fastrand::f64());
            blocker.block(format!("waiting for the first certificate: {error}"));
            let pause_s = pause.as_secs_f32();
            tracing::warn!(%error, failures, pause_s, "the control plane is not ready: it waits for its first certificate");
            sleep_until(&self.clock, self.clock.now() + pause).await;
        }
    }

    /// Renews for ever, the first time at `at`.
    pub async fn keep(self, mut at: SystemTime) {
        let mut failures = 0;
        loop {
            sleep_until(&self.clock, at).await;
            at = match self.renew().await {
                Ok(next) => {
                    failures = 0;
                    next
                }
                Err(error) => {
                    failures += 1;
                    let now = self.clock.now();
                    let end = self.credentials.current().map(|current| current.svid().not_after());
                    let left = end.and_then(|end| end.duration_since(now).ok()).unwrap_or_default();
                    let pause = pause_after(failures, left, fastrand::f64());
                    tracing::error!(%error, failures, seconds_left = left.as_secs(), "the control plane's own certificate can't be renewed");
                    now + pause
                }
            };
        }
    }
}
