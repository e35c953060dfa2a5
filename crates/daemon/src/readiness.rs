//! Readiness by ownership: a part that must work before traffic may come
//! holds a blocker, and says why while it does not.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Ready while nobody blocks. Clones share one state.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    reasons: Arc<Mutex<BTreeMap<&'static str, String>>>,
}

impl Readiness {
    /// A part that is not ready, until it says otherwise.
    pub fn blocker(&self, part: &'static str, reason: impl Into<String>) -> Blocker {
        let blocker = Blocker {
            part,
            readiness: self.clone(),
        };
        blocker.block(reason);
        blocker
    }

    /// Who blocks, and why; empty when ready.
    pub fn reasons(&self) -> BTreeMap<&'static str, String> {
        self.reasons.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// One part's say in readiness. Dropped, it blocks no more.
#[derive(Debug)]
pub struct Blocker {
    part: &'static str,
    readiness: Readiness,
}

impl Blocker {
    /// Not ready, for this reason.
    pub fn block(&self, reason: impl Into<String>) {
        self.readiness
            .reasons
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(self.part, reason.into());
    }

    /// Ready again.
    pub fn clear(&self) {
        self.readiness
            .reasons
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(self.part);
    }
}

impl Drop for Blocker {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_only_while_nobody_blocks() {
        let readiness = Readiness::default();
        let identity = readiness.blocker("identity", "none yet");
        let policies = readiness.blocker("policies", "none yet");
        identity.clear();
        assert_eq!(readiness.reasons().into_keys().collect::<Vec<_>>(), ["policies"]);
        drop(policies);
        assert!(readiness.reasons().is_empty());
        identity.block("expired");
        assert_eq!(readiness.reasons()["identity"], "expired");
    }
}
