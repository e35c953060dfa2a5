//! What must never be seen: tokens, secret IDs.
//!
//! Invariants: a secret is wiped from memory when it is dropped, its Debug
//! shows nothing, and it is taken out of texts that come from elsewhere.

use std::fmt;

use zeroize::Zeroizing;

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(from = "String")]
pub(super) struct Secret(Zeroizing<String>);

impl Secret {
    pub(super) fn new(text: Zeroizing<String>) -> Self {
        Self(text)
    }

    /// For what is sent to Vault.
    pub(super) fn expose(&self) -> &str {
        &self.0
    }

    /// `text` without the secret, should it quote it.
    pub(super) fn redact(&self, text: &str) -> String {
        if self.0.is_empty() {
            return text.to_owned();
        }
        text.replace(self.0.as_str(), "[secret]")
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_shows_nothing_and_is_taken_out_of_texts() {
        let secret = Secret::new(Zeroizing::new("hvs.hunter2".into()));
        assert_eq!(format!("{secret:?}"), "[secret]");
        assert_eq!(secret.redact("no token hvs.hunter2!"), "no token [secret]!");
        assert_eq!(Secret::new(Zeroizing::new(String::new())).redact("ab"), "ab");
    }
}
