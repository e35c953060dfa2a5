//! Vault's PKI as the authority: every leaf is signed there, and no key that
//! could sign one is here.
//!
//! Invariants:
//! - The bundle is the roots that the operator gave, not what Vault says: who
//!   controls Vault's answers can't add a root.
//! - What Vault says of a token is not believed twice: a 403 leads to one new
//!   login and one more try.
//! - Secrets are in no log, error or Debug.

mod client;
mod endpoint;
mod error;
mod files;
mod health;
mod revoked;
mod root_file;
mod secret;
mod session;
mod tls;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;
use serde_json::json;
use thiserror::Error;
use tokio::task::AbortHandle;
use watchword_identity::{Bundle, BundleError, Svid, TrustDomain};
use watchword_mtls::OutsideError;

use super::{Authority, AuthorityError, SignRequest};
use crate::mesh_file::VaultSettings;
use client::{Call, Client};
use endpoint::MAX_BODY;
use error::CallError;
pub use health::{VaultHealth, ask_health};
use revoked::{MAX_LIST, Revoked};
pub use root_file::RootFile;
use session::Session;
use tls::Tls;

const MAX_FILE: u64 = 1 << 20;
/// More than any chain that verifiers take.
const MAX_CERTIFICATES: usize = 8;
/// Vault counts the lifetime from its own clock, and in whole seconds.
const CLOCK_ALLOWANCE: Duration = Duration::from_secs(30);
/// A lifetime that is shorter than asked by more than this is worth a line.
const SHORTENED: Duration = Duration::from_secs(2);

/// Why the Vault authority can't be used.
#[derive(Debug, Error)]
pub enum VaultError {
    /// A file.
    #[error("{}: {problem}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Its TLS.
    #[error("{}: {source}", .path.display())]
    Tls {
        /// Of the pinned authorities.
        path: PathBuf,
        /// What is wrong with them.
        source: OutsideError,
    },
    /// The root.
    #[error("{}: not a root that can be used: {source}", .path.display())]
    Root {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: BundleError,
    },
    /// The namespace.
    #[error("the namespace can't be sent as a header")]
    Namespace,
}

/// Has Vault sign.
pub struct VaultAuthority {
    client: Arc<Client>,
    session: Arc<Session>,
    path: String,
    revoked: Revoked,
    roots: Arc<RootFile>,
    /// How long the last shortened leaf was valid: told once per change.
    shortened: Mutex<Option<u64>>,
    keeper: AbortHandle,
}

impl std::fmt::Debug for VaultAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VaultAuthority")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Drop for VaultAuthority {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

#[derive(Deserialize)]
struct Signed {
    data: SignedData,
    #[serde(default)]
    warnings: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct SignedData {
    certificate: String,
    #[serde(default)]
    issuing_ca: Option<String>,
    #[serde(default)]
    ca_chain: Option<Vec<String>>,
}

impl VaultAuthority {
    /// Reads the files and gets ready; Vault is called with the first request.
    /// Must be called within a runtime.
    ///
    /// # Errors
    /// See [`VaultError`].
    pub fn open(settings: &VaultSettings, domain: &TrustDomain) -> Result<Self, VaultError> {
        let roots = Arc::new(RootFile::open(&settings.root_file, domain)?);
        for address in settings.addresses.iter().filter(|address| !address.tls) {
            tracing::warn!(%address, "Vault is called without TLS: on this machine only, and not for production");
        }
        let client = |longest| {
            let tls = settings
                .ca_file
                .as_deref()
                .map(|file| pinned(file, settings))
                .transpose()?;
            Client::new(&settings.addresses, tls, settings.namespace.as_deref(), longest)
                .map_err(|_| VaultError::Namespace)
        };
        let revoked = Revoked::new(client(MAX_LIST)?, &settings.mount);
        let client = Arc::new(client(MAX_BODY)?);
        let session = Arc::new(Session::new(Arc::clone(&client), settings.auth.clone()));
        let keeper = tokio::spawn(Arc::clone(&session).keep()).abort_handle();
        Ok(Self {
            client,
            session,
            path: format!("{}/sign/{}", settings.mount, settings.role),
            roots,
            revoked,
            shortened: Mutex::default(),
            keeper,
        })
    }

    async fn signed(&self, request: &SignRequest<'_>) -> Result<Signed, CallError> {
        let body = json!({
            "csr": crate::pem::text("CERTIFICATE REQUEST", request.csr.der()),
            // For roles with use_csr_sans=false; others take it from the request, which says the same.
            "uri_sans": request.id.to_string(),
            "ttl": format!("{}s", request.ttl.as_secs()),
            "format": "pem",
            "exclude_cn_from_sans": true,
        });
        let mut refused = None;
        loop {
            let token = self.session.token(refused).await?;
            let call = Call {
                path: self.path.clone(),
                token: Some(&token.secret),
                body: Some(&body),
                secrets: &[],
            };
            match self.client.call::<Signed>(&call).await {
                Ok(signed) => {
                    self.session.worked(token.number).await;
                    return Ok(signed);
                }
                Err(CallError::Forbidden(_)) if refused.is_none() => refused = Some(token.number),
                Err(error) => return Err(error),
            }
        }
    }

    /// Notes how long leaves live, and says once why they are shorter than asked.
    fn note_lifetime(&self, request: &SignRequest<'_>, chain: &[CertificateDer<'static>], warnings: &[String]) {
        // What can't be read is refused elsewhere.
        let Ok(svid) = Svid::from_chain(chain.to_vec()) else {
            return;
        };
        let asked = request.now + request.ttl;
        let missing = asked.duration_since(svid.not_after()).unwrap_or_default();
        let got = svid.not_after().duration_since(request.now).unwrap_or_default();
        self.client.certificates_live_for(got);
        // Rounded, or each leaf would differ from the one before it.
        let now = (missing > SHORTENED).then_some(got.as_secs() / 10);
        let before = std::mem::replace(&mut *self.shortened.lock().unwrap_or_else(PoisonError::into_inner), now);
        if now.is_none() || now == before {
            return;
        }
        let issuer_left = issuer_end(chain).and_then(|end| end.duration_since(request.now).ok());
        let said: String = warnings
            .join("; ")
            .chars()
            .filter(|c| !c.is_control())
            .take(600)
            .collect();
        tracing::warn!(
            asked_s = request.ttl.as_secs(),
            got_s = got.as_secs(),
            issuer_ends_in_s = issuer_left.unwrap_or_default().as_secs(),
            vault_says = said,
            "Vault shortens certificates: raise the role's max_ttl or the mount's max lease, renew the issuer, or ask for less in certificates.ttl"
        );
    }
}

#[tonic::async_trait]
impl Authority for VaultAuthority {
    fn name(&self) -> &'static str {
        "vault"
    }

    fn clock_allowance(&self) -> Duration {
        CLOCK_ALLOWANCE
    }

    async fn sign(&self, request: SignRequest<'_>) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
        let signed = self.signed(&request).await?;
        let chain = chain(&signed.data, &self.roots.in_force())
            .map_err(|problem| AuthorityError::Unavailable(format!("Vault's answer holds no chain: {problem}")))?;
        self.note_lifetime(&request, &chain, &signed.warnings.unwrap_or_default());
        Ok(chain)
    }

    fn bundle(&self) -> Bundle {
        Bundle::clone(&self.roots.in_force())
    }

    fn root_file(&self) -> Option<Arc<RootFile>> {
        Some(Arc::clone(&self.roots))
    }

    fn has_revoked(&self, serial: &str) -> bool {
        self.revoked.holds(serial)
    }

    async fn maintain(&self, _now: SystemTime) -> Result<(), AuthorityError> {
        // Tokens are renewed at their own times.
        Ok(self.revoked.refresh().await?)
    }
}

/// Leaf first, without roots and without anything twice.
fn chain(data: &SignedData, bundle: &Bundle) -> Result<Vec<CertificateDer<'static>>, String> {
    let texts = std::iter::once(&data.certificate)
        .chain(&data.issuing_ca)
        .chain(data.ca_chain.iter().flatten());
    let mut chain: Vec<CertificateDer<'static>> = Vec::new();
    for text in texts {
        for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
            let certificate = certificate.map_err(|error| error.to_string())?;
            let is_root = bundle
                .iter()
                .any(|(_, roots)| roots.iter().any(|root| *root.certificate() == certificate));
            if is_root || chain.contains(&certificate) {
                continue;
            }
            if chain.len() == MAX_CERTIFICATES {
                return Err(format!("more than {MAX_CERTIFICATES} certificates"));
            }
            chain.push(certificate);
        }
    }
    if chain.is_empty() {
        return Err("no certificate".into());
    }
    Ok(chain)
}

fn issuer_end(chain: &[CertificateDer<'static>]) -> Option<SystemTime> {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let (_, issuer) = X509Certificate::from_der(chain.get(1)?).ok()?;
    let seconds = u64::try_from(issuer.validity().not_after.timestamp()).ok()?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

fn pinned(path: &Path, settings: &VaultSettings) -> Result<Tls, VaultError> {
    Tls::new(read_file(path)?, settings.client_certificate.clone()).map_err(|source| VaultError::Tls {
        path: path.to_path_buf(),
        source,
    })
}

fn read_file(path: &Path) -> Result<Vec<u8>, VaultError> {
    let problem = |problem: String| VaultError::File {
        path: path.to_path_buf(),
        problem,
    };
    let found = std::fs::metadata(path).map_err(|error| problem(error.to_string()))?;
    if !found.is_file() || found.len() > MAX_FILE {
        return Err(problem("not a file with certificates in it, of 1 MiB at most".into()));
    }
    std::fs::read(path).map_err(|error| problem(error.to_string()))
}

#[cfg(test)]
mod tests;
