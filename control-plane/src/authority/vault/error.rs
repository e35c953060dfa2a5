//! What can go wrong with a call to Vault.

use thiserror::Error;

use crate::authority::AuthorityError;

/// Why a call brought nothing.
#[derive(Debug, Clone, Error)]
pub(super) enum CallError {
    /// No address gave an answer that could be used. Temporary.
    #[error("{0}")]
    Unavailable(String),
    /// Vault does not take the token, or its policies don't allow the call.
    #[error("Vault says 403: {0}")]
    Forbidden(String),
    /// Vault understood, and will not.
    #[error("Vault says {status}: {text}")]
    Refused {
        /// HTTP's.
        status: u16,
        /// Vault's reasons.
        text: String,
    },
}

impl From<CallError> for AuthorityError {
    fn from(error: CallError) -> Self {
        match error {
            // Whoever asks again may be luckier: somebody may put a token or a policy right meanwhile.
            CallError::Unavailable(_) | CallError::Forbidden(_) => Self::Unavailable(error.to_string()),
            CallError::Refused { .. } => Self::Refused(error.to_string()),
        }
    }
}
