//! From evidence to an SVID: the order in which a caller is checked, and what
//! is written down before it is answered.
//!
//! Invariants: nothing is signed before evidence, ID and registry agree, and
//! nothing is answered before the lineage knows it. Knows no gRPC.

use std::sync::Arc;

use arc_swap::ArcSwap;
use thiserror::Error;
use watchword_daemon::Clock;
use watchword_identity::{SpiffeId, Svid, SvidError};

use crate::attest::lineage::{self, LineageError, Renewal};
use crate::attest::token::{self, Claim, FreshToken, TokenError, TokenSecret};
use crate::attest::{decode_chain, encode_chain};
use crate::csr::{Csr, CsrError};
use crate::issuer::{IssueError, Issuer};
use crate::metrics::ControlMetrics;
use crate::registry::{Registry, Unregistered};
use crate::store::{Records, StoreError};

/// Why a caller got nothing. Closed: each has a label.
#[derive(Debug, Error)]
pub enum Refusal {
    /// The request.
    #[error(transparent)]
    Csr(#[from] CsrError),
    /// The join token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The SVID that it renews.
    #[error(transparent)]
    Lineage(#[from] LineageError),
    /// Its SVID was revoked by the authority.
    #[error(
        "the SVID with serial {0} was revoked by the authority: find out why, then attest again with a new join token"
    )]
    Revoked(String),
    /// The ID.
    #[error(transparent)]
    Registry(#[from] Unregistered),
    /// The authority.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system has no random bytes.
    #[error("the system gives no random bytes")]
    Random,
    /// What was kept can't be read back.
    #[error("the chain that was issued before can't be read back: attest again, with a new join token")]
    Kept,
}

impl Refusal {
    /// A label for logs and metrics: kebab-case, from a closed set.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Csr(error) => error.label(),
            Self::Token(error) => error.label(),
            Self::Lineage(error) => error.label(),
            Self::Revoked(_) => "serial-revoked",
            Self::Registry(error) => error.label(),
            Self::Issue(error) => error.label(),
            Self::Store(_) => "store",
            Self::Random => "no-randomness",
            Self::Kept => "kept-chain",
        }
    }
}

impl From<SvidError> for Refusal {
    fn from(_: SvidError) -> Self {
        Self::Kept
    }
}

/// A join token as it is shown, once.
pub struct NewToken {
    /// Secret.
    pub text: String,
    /// Unix seconds.
    pub expires_at: u64,
}

/// Gives SVIDs to those who may have them.
#[derive(Debug)]
pub struct Enrolment {
    /// Replaced whole when the mesh file changes.
    pub registry: ArcSwap<Registry>,
    /// Signs.
    pub issuer: Arc<Issuer>,
    /// Remembers.
    pub records: Records,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Counts.
    pub metrics: ControlMetrics,
}

impl Enrolment {
    /// Makes a join token for a registered ID.
    ///
    /// # Errors
    /// When the ID is not registered, or there are too many tokens.
    pub async fn create_token(&self, id: &SpiffeId) -> Result<NewToken, Refusal> {
        self.registry.load().admit(id)?;
        let fresh = FreshToken::draw().ok_or(Refusal::Random)?;
        let now = self.clock.now();
        let (text, owner) = (fresh.text(id), id.clone());
        let expires_at = self
            .records
            .update(move |state| token::create(state, &fresh, &owner, now))
            .await??;
        tracing::info!(%id, expires_at, "made a join token");
        Ok(NewToken { text, expires_at })
    }

    /// The first SVID, for a join token.
    ///
    /// # Errors
    /// See [`Refusal`]; each is logged and counted here.
    pub async fn attest(&self, csr: &[u8], join_token: &str) -> Result<Svid, Refusal> {
        self.try_attest(csr, join_token)
            .await
            .inspect_err(|refusal| self.note("attest", "", refusal))
    }

    async fn try_attest(&self, csr: &[u8], join_token: &str) -> Result<Svid, Refusal> {
        let secret = Arc::new(TokenSecret::from_text(join_token)?);
        let now = self.clock.now();
        self.records
            .look(|state| token::look_up(state, &secret, now).map(|_| ()))?;
        let csr = Arc::new(Csr::from_der(csr)?);
        let id = csr.id().clone();
        self.registry.load().admit(&id)?;
        let (claimed, request) = (Arc::clone(&secret), Arc::clone(&csr));
        let claim = self
            .records
            .update(move |state| token::claim(state, &claimed, &request, now))
            .await??;
        if let Claim::Again(chain) = claim {
            return kept(&chain);
        }
        let svid = self.issuer.issue(&csr, &id).await?;
        let issued = lineage::issued(&svid, csr.key_digest());
        let begun = self.records.update(move |state| {
            // The same caller may have asked twice at once: the first counts.
            if let Claim::Again(chain) = token::claim(state, &secret, &csr, now)? {
                return Ok(chain);
            }
            let lineage = lineage::begin(state, &issued, &id, now)?;
            token::settle(state, &secret, lineage, &id)?;
            Ok::<_, Refusal>(issued.chain.clone())
        });
        answer(svid, &begun.await??)
    }

    /// The next SVID, for the one that the caller proved to have.
    ///
    /// # Errors
    /// See [`Refusal`]; each is logged and counted here.
    pub async fn renew(&self, csr: &[u8], current: &Svid) -> Result<Svid, Refusal> {
        let id = current.id().to_string();
        self.try_renew(csr, current)
            .await
            .inspect_err(|refusal| self.note("renew", &id, refusal))
    }

    async fn try_renew(&self, csr: &[u8], current: &Svid) -> Result<Svid, Refusal> {
        let csr = Csr::from_der(csr)?;
        let current = Arc::new(current.clone());
        if csr.id() != current.id() {
            let (svid, requested) = (current.id().to_string(), csr.id().to_string());
            return Err(LineageError::OtherId { svid, requested }.into());
        }
        self.admit_unrevoked(&current)?;
        let key = csr.key_digest();
        let (renewed, asked) = (Arc::clone(&current), key.clone());
        let renewal = self
            .records
            .update(move |state| lineage::renew(state, &renewed, &asked))
            .await??;
        if let Renewal::Again(chain) = renewal {
            return kept(&chain);
        }
        let svid = self.issuer.issue(&csr, current.id()).await?;
        let issued = lineage::issued(&svid, key);
        let chain = self
            .records
            .update(move |state| lineage::succeed(state, &current, &issued))
            .await??;
        answer(svid, &chain)
    }

    /// An SVID for a workload that `speaker`, which the caller proved to be,
    /// speaks for.
    ///
    /// # Errors
    /// See [`Refusal`]; each is logged and counted here.
    pub async fn issue_for_workload(&self, csr: &[u8], speaker: &Svid) -> Result<Svid, Refusal> {
        let id = speaker.id().to_string();
        self.try_issue_for_workload(csr, speaker)
            .await
            .inspect_err(|refusal| self.note("issue-for-workload", &id, refusal))
    }

    async fn try_issue_for_workload(&self, csr: &[u8], speaker: &Svid) -> Result<Svid, Refusal> {
        let csr = Csr::from_der(csr)?;
        self.admit_unrevoked(speaker)?;
        self.registry.load().admit_workload(speaker.id(), csr.id())?;
        let now = self.clock.now();
        let asks = Arc::new(speaker.clone());
        let asked = Arc::clone(&asks);
        self.records
            .update(move |state| lineage::speak_for_workload(state, &asked, now))
            .await??;
        let svid = self.issuer.issue(&csr, csr.id()).await?;
        let (serial, not_after) = (svid.serial().to_owned(), svid.not_after());
        self.records
            .update(move |state| lineage::spoke_for_workload(state, &asks, (&serial, not_after), now))
            .await??;
        Ok(svid)
    }

    /// Notes that an SVID is in use, and refuses one that was replaced.
    ///
    /// # Errors
    /// See [`Refusal`]; each is logged and counted here.
    pub async fn admit(&self, svid: &Svid) -> Result<(), Refusal> {
        let noted = async {
            self.admit_unrevoked(svid)?;
            let seen = svid.clone();
            Ok(self.records.update(move |state| lineage::used(state, &seen)).await??)
        };
        noted
            .await
            .inspect_err(|refusal| self.note("subscribe", &svid.id().to_string(), refusal))
    }

    fn admit_unrevoked(&self, svid: &Svid) -> Result<(), Refusal> {
        self.registry.load().admit(svid.id())?;
        if self.issuer.authority().has_revoked(svid.serial()) {
            return Err(Refusal::Revoked(svid.serial().to_owned()));
        }
        Ok(())
    }

    fn note(&self, call: &'static str, id: &str, refusal: &Refusal) {
        let reason = refusal.label();
        self.metrics.refused(reason);
        let alarm = match refusal {
            Refusal::Lineage(error) => error.is_alarm(),
            Refusal::Token(error) => matches!(error, TokenError::OtherKey),
            _ => false,
        };
        if alarm {
            self.metrics.alarm(reason);
            tracing::error!(alarm = true, call, id, reason, %refusal, "refused: look into this");
        } else {
            tracing::warn!(call, id, reason, %refusal, "refused");
        }
    }
}

/// What was signed, unless another answer to the same request came first.
fn answer(signed: Svid, recorded: &[String]) -> Result<Svid, Refusal> {
    if encode_chain(signed.chain()) == recorded {
        Ok(signed)
    } else {
        kept(recorded)
    }
}

fn kept(chain: &[String]) -> Result<Svid, Refusal> {
    Ok(Svid::from_chain(decode_chain(chain).ok_or(Refusal::Kept)?)?)
}

#[cfg(test)]
mod tests;
