//! The process's identity, swapped whole: one atomic pointer to the current
//! generation.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use rustls_pki_types::PrivateKeyDer;
use tokio::sync::watch;
use watchword_identity::{Bundle, Svid, Usage};

use crate::control::ControlClient;
use crate::generation::{Generation, PublishError};
use crate::verify::{Now, VerifyError, verify_chain};

struct Inner {
    current: ArcSwapOption<Generation>,
    // Held by publishers only, so that generations are numbered in order.
    publishing: Mutex<u64>,
    changed: watch::Sender<u64>,
    now: Now,
}

/// Who we are and whom we trust, at this moment. Clones share one state.
#[derive(Clone)]
pub struct Credentials(Arc<Inner>);

impl Credentials {
    /// Without an identity yet.
    pub fn new(now: Now) -> Self {
        let inner = Inner {
            current: ArcSwapOption::empty(),
            publishing: Mutex::new(0),
            changed: watch::Sender::new(0),
            now,
        };
        Self(Arc::new(inner))
    }

    /// Validates a new certificate with its key and bundle, builds all that
    /// follows from them, then swaps. Returns the new generation's number.
    ///
    /// # Errors
    /// When anything is wrong with them; the old generation stays.
    pub fn publish(&self, svid: &Svid, key: &PrivateKeyDer<'static>, bundle: Bundle) -> Result<u64, PublishError> {
        self.verify(svid, &bundle)?;
        self.swap(|number| Generation::build(number, svid.clone(), key, bundle, &self.0.now))
    }

    /// Swaps the bundle under the same certificate.
    ///
    /// # Errors
    /// When there is no certificate yet, or the bundle no longer vouches for it:
    /// the old bundle stays.
    pub fn publish_bundle(&self, bundle: Bundle) -> Result<u64, PublishError> {
        self.swap(|number| {
            // Within the swap, so that it is today's certificate that is checked.
            let current = self.current().ok_or(PublishError::NoIdentity)?;
            self.verify(current.svid(), &bundle)?;
            current.with_bundle(number, bundle, &self.0.now)
        })
    }

    /// Checks that a certificate proves its ID on either side of a handshake now.
    ///
    /// # Errors
    /// See [`VerifyError`].
    pub fn verify(&self, svid: &Svid, bundle: &Bundle) -> Result<(), VerifyError> {
        for usage in [Usage::Server, Usage::Client] {
            verify_chain(svid.chain().to_vec(), bundle, usage, self.0.now.get())?;
        }
        Ok(())
    }

    fn swap(&self, build: impl FnOnce(u64) -> Result<Generation, PublishError>) -> Result<u64, PublishError> {
        let mut last = self
            .0
            .publishing
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let number = *last + 1;
        let generation = build(number)?;
        self.0.current.store(Some(Arc::new(generation)));
        *last = number;
        self.0.changed.send_replace(number);
        Ok(number)
    }

    /// The current generation, expired or not; nothing before the first.
    pub fn current(&self) -> Option<Arc<Generation>> {
        self.0.current.load_full()
    }

    /// The current generation, when its certificate is valid now.
    pub fn valid(&self) -> Option<Arc<Generation>> {
        self.current()
            .filter(|generation| self.0.now.get() <= generation.svid().not_after())
    }

    /// Sees each new generation's number.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// To call the control plane as ourselves; nothing before the first
    /// certificate.
    pub fn control_client(&self) -> Option<ControlClient> {
        self.valid()
            .map(|generation| ControlClient::from_config(Arc::clone(&generation.control_client)))
    }

    /// The wall clock that these credentials are judged by.
    pub fn now(&self) -> SystemTime {
        self.0.now.get()
    }
}
