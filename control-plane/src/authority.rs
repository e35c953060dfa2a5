//! What signs: the port between the control plane and a certificate authority.
//!
//! Invariants: an authority decides nothing. Who may have which SPIFFE ID was
//! decided before it is asked, and what it answers is distrusted afterwards
//! (`crate::issuer`).

mod embedded;
mod vault;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use thiserror::Error;
use watchword_identity::{Bundle, SpiffeId};

pub use embedded::{EmbeddedAuthority, EmbeddedError};
pub use vault::{RootFile, VaultAuthority, VaultError, VaultHealth, ask_health};

use crate::csr::Csr;

/// What is to be signed.
#[derive(Debug, Clone, Copy)]
pub struct SignRequest<'a> {
    /// Checked already; an authority that is not handed the request itself
    /// takes nothing but the public key from it.
    pub csr: &'a Csr,
    /// The decided ID.
    pub id: &'a SpiffeId,
    /// How long it is to be valid from `now`.
    pub ttl: Duration,
    /// The wall time.
    pub now: SystemTime,
}

/// Why nothing was signed. Closed: each has a label.
#[derive(Debug, Error)]
pub enum AuthorityError {
    /// Its own certificate is over, so nothing that it signs would verify.
    #[error("the authority's intermediate certificate has expired: {0}")]
    Expired(String),
    /// It refuses this request.
    #[error("the authority refuses to sign: {0}")]
    Refused(String),
    /// It can't do it now.
    #[error("the authority can't sign now: {0}")]
    Unavailable(String),
}

impl AuthorityError {
    /// A label for logs and metrics: kebab-case, from a closed set.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Expired(_) => "authority-expired",
            Self::Refused(_) => "authority-refused",
            Self::Unavailable(_) => "authority-unavailable",
        }
    }
}

/// Signs certificates, and knows the roots that vouch for them.
#[tonic::async_trait]
pub trait Authority: Debug + Send + Sync {
    /// A label for logs and metrics.
    fn name(&self) -> &'static str;

    /// By how much its clock may differ from ours.
    fn clock_allowance(&self) -> Duration {
        Duration::ZERO
    }

    /// Signs a leaf. DER, leaf first, then intermediates, without the root.
    ///
    /// # Errors
    /// See [`AuthorityError`].
    async fn sign(&self, request: SignRequest<'_>) -> Result<Vec<CertificateDer<'static>>, AuthorityError>;

    /// The roots that vouch for what it signs.
    fn bundle(&self) -> Bundle;

    /// The file that these roots stand in, when they may change while we run.
    fn root_file(&self) -> Option<Arc<RootFile>> {
        None
    }

    /// Whether it has revoked a certificate, as far as is known here. `serial`
    /// is in lower-case hexadecimal.
    fn has_revoked(&self, _serial: &str) -> bool {
        false
    }

    /// Called now and then: renews the authority's own certificates in time,
    /// and looks up what was revoked.
    ///
    /// # Errors
    /// See [`AuthorityError`]. It goes on with what it has.
    async fn maintain(&self, now: SystemTime) -> Result<(), AuthorityError>;
}
