//! Join tokens: 128 random bits, good for ten minutes and for one key.
//!
//! Invariants: only a hash is kept. A token belongs to the first key that
//! uses it; that key may try again until its certificate has been seen in
//! use, so a lost answer is harmless; any other key is refused.

use std::fmt;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use thiserror::Error;
use watchword_identity::SpiffeId;
use zeroize::Zeroizing;

use crate::csr::{Csr, KeyDigest};
use crate::store::{LineageKey, State, Token, TokenUse, unix_seconds};

/// From making to first use.
pub const TOKEN_LIFETIME: Duration = Duration::from_secs(600);
/// More tokens than that are not kept at a time.
const MAX_TOKENS: usize = 16_384;
/// Longer texts are not looked at: a SPIFFE ID has 2,048 bytes at most.
const MAX_TEXT: usize = 4096;
const PREFIX: &str = "wwjt-";

/// Why a token is refused. Closed: each has a label.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TokenError {
    /// Not in the form of a token.
    #[error("not a join token: it looks like wwjt-…:spiffe://…; make one with `watchword token create --id ID`")]
    Malformed,
    /// Never made here, or forgotten.
    #[error("the join token is unknown: make one with `watchword token create --id {0}`")]
    Unknown(String),
    /// Too late.
    #[error("the join token has expired: make one with `watchword token create --id {0}`")]
    Expired(String),
    /// The token is for one ID, the request for another.
    #[error("the join token is for {token}, but the request is for {requested}")]
    OtherId {
        /// As the token was made.
        token: String,
        /// As the request says.
        requested: String,
    },
    /// Somebody else used it before.
    #[error("the join token was used by another key: if that was not this workload, it was stolen")]
    OtherKey,
    /// Its certificate is in use already.
    #[error("the join token was used, and its certificate too: make one with `watchword token create --id {0}`")]
    Spent(String),
    /// There are too many.
    #[error("there are {MAX_TOKENS} join tokens already: wait until some have expired")]
    TooMany,
}

impl TokenError {
    /// A label for logs and metrics: kebab-case, from a closed set.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Malformed => "token-malformed",
            Self::Unknown(_) => "token-unknown",
            Self::Expired(_) => "token-expired",
            Self::OtherId { .. } => "token-for-other-id",
            Self::OtherKey => "token-used-by-other-key",
            Self::Spent(_) => "token-spent",
            Self::TooMany => "token-too-many",
        }
    }
}

/// A token's secret as its bearer shows it. Its text is never printed.
pub struct TokenSecret {
    hash: String,
    hint: String,
}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenSecret")
            .field("for", &self.hint)
            .finish_non_exhaustive()
    }
}

impl TokenSecret {
    /// Reads `wwjt-<base64url of 16 bytes>:<SPIFFE ID>`.
    ///
    /// # Errors
    /// [`TokenError::Malformed`].
    pub fn from_text(text: &str) -> Result<Self, TokenError> {
        let parts = Some(text.trim())
            .filter(|text| text.len() <= MAX_TEXT)
            .and_then(|text| text.strip_prefix(PREFIX))
            .and_then(|text| text.split_once(':'));
        let (secret, id) = parts.ok_or(TokenError::Malformed)?;
        let id = SpiffeId::new(id).map_err(|_| TokenError::Malformed)?;
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(secret).map_err(|_| TokenError::Malformed)?);
        if bytes.len() != 16 {
            return Err(TokenError::Malformed);
        }
        Ok(Self {
            hash: hash(&bytes),
            hint: id.to_string(),
        })
    }
}

/// Makes a token for `id`. The text is shown once and kept by nobody here.
///
/// # Errors
/// [`TokenError::TooMany`].
pub fn create(state: &mut State, fresh: &FreshToken, id: &SpiffeId, now: SystemTime) -> Result<u64, TokenError> {
    if state.tokens.len() >= MAX_TOKENS {
        state.sweep(now);
    }
    if state.tokens.len() >= MAX_TOKENS {
        return Err(TokenError::TooMany);
    }
    let expires_at = unix_seconds(now + TOKEN_LIFETIME);
    state.tokens.insert(
        hash(&*fresh.0).into(),
        Token {
            id: id.to_string(),
            expires_at,
            used: None,
        },
    );
    Ok(expires_at)
}

/// Sixteen random bytes that are to become a token.
pub struct FreshToken(Zeroizing<[u8; 16]>);

impl FreshToken {
    /// Draws them; nothing when the system has no randomness.
    pub fn draw() -> Option<Self> {
        let mut bytes = Zeroizing::new([0; 16]);
        SystemRandom::new().fill(&mut *bytes).ok()?;
        Some(Self(bytes))
    }

    /// As its bearer is to show it: it says for which ID it is.
    pub fn text(&self, id: &SpiffeId) -> String {
        format!("{PREFIX}{}:{id}", URL_SAFE_NO_PAD.encode(*self.0))
    }
}

/// What a good token entitles to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// A first certificate, for the key that the token is now bound to.
    First,
    /// The answer that was lost: the chain, DER in base64.
    Again(Vec<String>),
}

/// Whether there is such a token, and still in time: asked before anything
/// costly is done for a caller that nobody knows.
///
/// # Errors
/// [`TokenError::Unknown`] and [`TokenError::Expired`].
pub fn look_up<'a>(state: &'a State, secret: &TokenSecret, now: SystemTime) -> Result<&'a Token, TokenError> {
    let token = state
        .tokens
        .get(secret.hash.as_str())
        .ok_or_else(|| TokenError::Unknown(secret.hint.clone()))?;
    if unix_seconds(now) >= token.expires_at {
        return Err(TokenError::Expired(token.id.clone()));
    }
    Ok(token)
}

/// Binds the token to the request's key, which has proven that it is there.
///
/// # Errors
/// See [`TokenError`]; the token is as it was then.
pub fn claim(state: &mut State, secret: &TokenSecret, csr: &Csr, now: SystemTime) -> Result<Claim, TokenError> {
    let requested = csr.id().to_string();
    let token = look_up(state, secret, now)?;
    if token.id != requested {
        let token = token.id.clone();
        return Err(TokenError::OtherId { token, requested });
    }
    let key = csr.key_digest();
    let Some(used) = &token.used else {
        let used = TokenUse { key, lineage: None };
        if let Some(token) = state.tokens.get_mut(secret.hash.as_str()) {
            token.used = Some(used);
        }
        return Ok(Claim::First);
    };
    if used.key != key {
        return Err(TokenError::OtherKey);
    }
    let Some(lineage) = used.lineage else {
        return Ok(Claim::First);
    };
    unclaimed_chain(state, lineage, &key)
        .map(Claim::Again)
        .ok_or(TokenError::Spent(requested))
}

/// Notes which lineage the token began.
///
/// # Errors
/// [`TokenError::Unknown`] when it was forgotten meanwhile.
pub fn settle(state: &mut State, secret: &TokenSecret, lineage: LineageKey, id: &SpiffeId) -> Result<(), TokenError> {
    let used = state
        .tokens
        .get_mut(secret.hash.as_str())
        .and_then(|token| token.used.as_mut());
    used.ok_or_else(|| TokenError::Unknown(id.to_string()))?.lineage = Some(lineage);
    Ok(())
}

fn unclaimed_chain(state: &State, lineage: LineageKey, key: &KeyDigest) -> Option<Vec<String>> {
    let lineage = state.lineages.get(&lineage)?;
    let pending = lineage.pending.as_ref()?;
    let first = lineage.current.is_none() && !lineage.frozen && pending.key == *key;
    first.then(|| pending.chain.clone())
}

fn hash(secret: &[u8]) -> String {
    digest(&SHA256, secret)
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
#[path = "token_tests.rs"]
mod tests;
