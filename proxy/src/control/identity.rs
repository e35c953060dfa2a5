//! Our certificate: asked for at start, replaced at half its life, for ever.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use watchword_daemon::{Blocker, Clock, sleep_until};
use watchword_identity::schedule::{pause_after, renew_at};
use watchword_identity::{Bundle, Svid};
use watchword_mtls::{ControlClient, Credentials};
use watchword_proto::bundle_from_proto;
use watchword_proto::control::{AttestRequest, IssueResponse, RenewRequest, attest_request};

use super::bundles::Bundles;
use super::channel::ControlPlane;
use super::key_request::{KeyRequest, request_for};
use super::obtain::ObtainError;
use super::token::TokenSource;
use crate::connection::Connections;

/// Why the last try to get a certificate failed; nothing once one succeeds.
/// Clones share one state.
#[derive(Clone, Debug, Default)]
pub(crate) struct RenewalTrouble(Arc<Mutex<Option<String>>>);

impl RenewalTrouble {
    /// In words, with what to do.
    pub(crate) fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, reason: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }
}

/// Keeps the process's identity fresh.
pub(crate) struct IdentityKeeper {
    pub(crate) control_plane: ControlPlane,
    pub(crate) bundle_file: PathBuf,
    pub(crate) token: TokenSource,
    pub(crate) credentials: Credentials,
    pub(crate) bundles: Bundles,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) connections: Connections,
    pub(crate) blocker: Blocker,
    /// Shown to people.
    pub(crate) trouble: RenewalTrouble,
    /// Blocks while only a new join token helps: whoever started us looks for it.
    pub(crate) token_blocker: Blocker,
}

impl IdentityKeeper {
    /// Runs until it is dropped.
    pub(crate) async fn keep(self) {
        let mut request = None;
        let mut failures = 0;
        self.token_blocker.clear();
        loop {
            match self.while_valid(self.obtain(&mut request)).await {
                Ok(not_after) => {
                    failures = 0;
                    request = None;
                    self.trouble.set(None);
                    self.connections.telemetry().renewed("ok");
                    self.blocker.clear();
                    self.token_blocker.clear();
                    let renew = renew_at(self.clock.now(), not_after, fastrand::f64());
                    sleep_until(&self.clock, renew).await;
                }
                Err(error) => {
                    failures += 1;
                    self.connections.telemetry().renewed("failed");
                    self.failed(&error, failures).await;
                }
            }
        }
    }

    /// A try may outlast the certificate: then it is time to say so.
    async fn while_valid<T>(&self, attempt: impl Future<Output = T>) -> T {
        let mut attempt = std::pin::pin!(attempt);
        if let Some(current) = self.credentials.valid() {
            tokio::select! {
                biased;
                done = &mut attempt => return done,
                () = sleep_until(&self.clock, current.svid().not_after()) => {}
            }
            self.blocker
                .block("the certificate has expired, and the control plane has not answered yet");
        }
        attempt.await
    }

    /// Says what is wrong, and waits; goes on with what it has until that expires.
    async fn failed(&self, error: &ObtainError, failures: u32) {
        let left = self.time_left();
        let reason = self.with_remedy(error);
        tracing::warn!(
            reason,
            failures,
            left_s = left.as_secs(),
            "no new certificate; will try again"
        );
        self.trouble.set(Some(reason.clone()));
        let pause = pause_after(failures, left, fastrand::f64());
        if left.is_zero() {
            match error.wants_token() {
                true => self.token_blocker.block("a new one is needed"),
                false => self.token_blocker.clear(),
            }
            self.blocker.block(reason);
        } else if left <= pause {
            self.blocker
                .block(format!("the certificate is about to expire: {reason}"));
        }
        tokio::select! {
            () = sleep_until(&self.clock, self.clock.now() + pause) => {}
            () = self.token.replaced() => {}
        }
    }

    fn with_remedy(&self, error: &ObtainError) -> String {
        match error {
            ObtainError::Refused(tonic::Code::PermissionDenied | tonic::Code::Unauthenticated, _) => {
                let id = self
                    .credentials
                    .current()
                    .map_or("ID".to_owned(), |current| current.svid().id().to_string());
                format!("{error}; if this workload lost its key, make a new token: `watchword token create --id {id}`")
            }
            _ => error.to_string(),
        }
    }

    fn time_left(&self) -> Duration {
        self.credentials
            .current()
            .and_then(|current| current.svid().not_after().duration_since(self.clock.now()).ok())
            .unwrap_or_default()
    }

    /// One try. Returns when the new certificate ends.
    async fn obtain(&self, request: &mut Option<KeyRequest>) -> Result<SystemTime, ObtainError> {
        let mut spent = None;
        let (response, key) = match self.credentials.valid().zip(self.credentials.control_client()) {
            Some((current, client)) => {
                let request = request_for(request, current.svid().id())?;
                (self.renew(client, request.csr.clone()).await?, request)
            }
            None => {
                let token = self.token.read()?;
                let request = request_for(request, &token.id)?;
                let response = self.attest(token.text.clone(), request.csr.clone()).await?;
                spent = Some(token.text);
                (response, request)
            }
        };
        let not_after = self.publish(response, key)?;
        if let Some(token) = spent {
            self.token.spend(token);
        }
        Ok(not_after)
    }

    async fn renew(&self, client: ControlClient, csr: Vec<u8>) -> Result<IssueResponse, ObtainError> {
        let mut client = self.control_plane.identity_client(client).await?;
        Ok(client.renew(RenewRequest { csr }).await?.into_inner())
    }

    async fn attest(&self, token: String, csr: Vec<u8>) -> Result<IssueResponse, ObtainError> {
        let bundle = self.given_bundle()?;
        let credentials = self.credentials.clone();
        let now = watchword_mtls::Now::new(move || credentials.now());
        let mut client = self
            .control_plane
            .identity_client(ControlClient::anonymous(bundle, now)?)
            .await?;
        let evidence = Some(attest_request::Evidence::JoinToken(token));
        Ok(client.attest(AttestRequest { csr, evidence }).await?.into_inner())
    }

    /// The roots that we were given: read each time, since they may be replaced.
    fn given_bundle(&self) -> Result<Bundle, ObtainError> {
        let unusable = |problem: String| ObtainError::BundleFile {
            file: self.bundle_file.display().to_string(),
            problem,
        };
        let pem = std::fs::read(&self.bundle_file).map_err(|error| unusable(error.to_string()))?;
        let domain = self.control_plane.trust_domain();
        Bundle::from_pem(domain, &pem).map_err(|error| unusable(error.to_string()))
    }

    fn publish(&self, response: IssueResponse, request: &KeyRequest) -> Result<SystemTime, ObtainError> {
        let chain = response.chain.into_iter().map(CertificateDer::from).collect();
        let svid = Svid::from_chain(chain)?;
        if svid.id() != &request.id {
            return Err(ObtainError::Answer(format!(
                "asked for {}, got {}",
                request.id,
                svid.id()
            )));
        }
        let bundle = response
            .bundle
            .ok_or_else(|| ObtainError::Answer("it has no bundle".into()))?;
        let number = (response.bundle_epoch, response.bundle_version);
        let generation =
            self.bundles
                .with_certificate(&svid, &request.private_key(), number, bundle_from_proto(bundle)?)?;
        self.connections.set_own_id(svid.id().to_string());
        self.connections.telemetry().identity(generation, svid.not_after());
        tracing::info!(id = %svid.id(), serial = svid.serial(), generation, "new certificate");
        Ok(svid.not_after())
    }
}
