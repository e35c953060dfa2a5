//! Issuance: a checked request goes to the authority, and what comes back is
//! checked as if a stranger had made it, before anybody gets it.
//!
//! Invariants: nothing leaves here that peers would refuse, or that grants
//! more than was decided. Who may have which ID is decided elsewhere.

mod distrust;
mod new_roots;

use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;
use watchword_daemon::Clock;
use watchword_identity::{Bundle, SpiffeId, Svid};

pub use distrust::{Distrust, Expectation, distrust};
pub use new_roots::{LONGEST_HOLD, NewRoots};

use crate::authority::{Authority, AuthorityError, SignRequest};
use crate::csr::Csr;
use crate::metrics::ControlMetrics;

/// An authority that hangs must not hold its callers for ever.
pub(crate) const SIGN_DEADLINE: Duration = Duration::from_secs(8);

/// Why nothing was issued. Closed: each has a label.
#[derive(Debug, Error)]
pub enum IssueError {
    /// The authority did not sign.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// It took too long.
    #[error("the authority did not sign within {} s", SIGN_DEADLINE.as_secs())]
    Timeout,
    /// It signed something else than it was asked to.
    #[error("the authority's certificate is withheld: {0}")]
    Distrusted(#[from] Distrust),
}

impl IssueError {
    /// A label for logs and metrics: kebab-case, from a closed set.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Authority(error) => error.label(),
            Self::Timeout => "authority-timeout",
            Self::Distrusted(error) => error.label(),
        }
    }
}

/// Turns requests into SVIDs.
#[derive(Debug)]
pub struct Issuer {
    authority: Arc<dyn Authority>,
    ttl: Duration,
    clock: Arc<dyn Clock>,
    metrics: ControlMetrics,
    new_roots: Option<Arc<NewRoots>>,
}

impl Issuer {
    /// With certificates that are valid for `ttl`.
    pub fn new(authority: Arc<dyn Authority>, ttl: Duration, clock: Arc<dyn Clock>, metrics: ControlMetrics) -> Self {
        Self {
            authority,
            ttl,
            clock,
            metrics,
            new_roots: None,
        }
    }

    /// Withholds leaves of new roots until proxies know these.
    #[must_use]
    pub fn withholding(mut self, new_roots: Arc<NewRoots>) -> Self {
        self.new_roots = Some(new_roots);
        self
    }

    /// What signs.
    pub fn authority(&self) -> &Arc<dyn Authority> {
        &self.authority
    }

    /// The roots that vouch for what is issued.
    pub fn bundle(&self) -> Bundle {
        self.authority.bundle()
    }

    /// Issues an SVID for `id`, which was decided, to the key of `csr`.
    ///
    /// # Errors
    /// See [`IssueError`].
    pub async fn issue(&self, csr: &Csr, id: &SpiffeId) -> Result<Svid, IssueError> {
        let began = Instant::now();
        let result = self.sign_and_check(csr, id).await;
        let reason = result.as_ref().map_or_else(IssueError::label, |_| "");
        self.metrics.signed(self.authority.name(), reason, began.elapsed());
        match &result {
            Ok(svid) => tracing::info!(%id, serial = svid.serial(), "issued"),
            Err(IssueError::Distrusted(error)) => {
                tracing::error!(%id, reason, %error, "the authority signed what it was not asked for; withheld");
            }
            Err(error) => tracing::warn!(%id, reason, %error, "not issued"),
        }
        if let (Ok(svid), Some(new_roots)) = (&result, &self.new_roots) {
            new_roots.let_through(svid, &self.bundle(), self.clock.now()).await;
        }
        result
    }

    async fn sign_and_check(&self, csr: &Csr, id: &SpiffeId) -> Result<Svid, IssueError> {
        let now = self.clock.now();
        let request = SignRequest {
            csr,
            id,
            ttl: self.ttl,
            now,
        };
        let chain = tokio::time::timeout(SIGN_DEADLINE, self.authority.sign(request))
            .await
            .map_err(|_| IssueError::Timeout)??;
        // An authority elsewhere counts from when it signs, in whole seconds.
        let now = self.clock.now();
        let expected = Expectation {
            id,
            public_key: csr.public_key(),
            ends_by: now + self.ttl + self.authority.clock_allowance(),
            now,
        };
        Ok(distrust(chain, &expected, &self.authority.bundle())?)
    }
}
