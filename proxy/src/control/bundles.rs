//! Bundles come by two ways, the stream and the answers of the Identity
//! service, in any order; the newest counts.
//!
//! Invariants: what is in force is never followed by an older one. A bundle
//! that does not vouch for our certificate is not put in force under it, but
//! the next certificate comes with it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls_pki_types::PrivateKeyDer;
use watchword_identity::{Bundle, Svid};
use watchword_mtls::{Credentials, PublishError};

/// Epoch and version, as the control plane counts.
pub(crate) type Number = (u64, u64);

/// Puts bundles in force. Clones share one state.
#[derive(Clone)]
pub(crate) struct Bundles {
    credentials: Credentials,
    newest: Arc<Mutex<Option<(Number, Bundle)>>>,
}

impl Bundles {
    pub(crate) fn new(credentials: Credentials) -> Self {
        Self {
            credentials,
            newest: Arc::default(),
        }
    }

    /// By the stream. Nothing to do when an answer brought a newer one.
    pub(crate) fn pushed(&self, number: Number, bundle: Bundle) -> Result<(), PublishError> {
        let mut newest = self.lock();
        if newest.as_ref().is_some_and(|(last, _)| number < *last) {
            return Ok(());
        }
        *newest = Some((number, bundle.clone()));
        if self
            .credentials
            .current()
            .is_some_and(|current| **current.bundle() == bundle)
        {
            return Ok(());
        }
        let generation = self.credentials.publish_bundle(bundle)?;
        tracing::info!(generation, "new trust bundle");
        Ok(())
    }

    /// With a new certificate. Returns the generation.
    pub(crate) fn with_certificate(
        &self,
        svid: &Svid,
        key: &PrivateKeyDer<'static>,
        number: Number,
        bundle: Bundle,
    ) -> Result<u64, PublishError> {
        let mut newest = self.lock();
        match &*newest {
            Some((last, newer)) if number < *last => self.credentials.publish(svid, key, newer.clone()),
            _ => {
                let generation = self.credentials.publish(svid, key, bundle.clone())?;
                *newest = Some((number, bundle));
                Ok(generation)
            }
        }
    }

    /// Held while publishing, so that two ways don't overtake each other.
    fn lock(&self) -> MutexGuard<'_, Option<(Number, Bundle)>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "bundles_tests.rs"]
mod tests;
