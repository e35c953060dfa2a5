//! The identity, by X509Source, and its rotations.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use spiffe::X509Source;
use watchword_identity::{Bundle, Svid};
use watchword_mtls::{Credentials, Now};

/// Who we are at this moment.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) credentials: Credentials,
    rotations: Arc<AtomicU64>,
}

impl Identity {
    /// From the socket that SPIFFE_ENDPOINT_SOCKET names; followed from then on.
    pub(crate) async fn from_environment() -> Result<Self> {
        let source = X509Source::new().await.context("no identity by the Workload API")?;
        let identity = Self {
            credentials: Credentials::new(now()),
            rotations: Arc::default(),
        };
        identity.take(&source)?;
        let following = identity.clone();
        tokio::spawn(async move {
            let mut updates = source.updated();
            while updates.changed().await.is_ok() {
                if let Err(error) = following.take(&source) {
                    println!("an update can't be used: {error:#}");
                }
            }
        });
        Ok(identity)
    }

    /// How often the certificate was replaced.
    pub(crate) fn rotations(&self) -> u64 {
        self.rotations.load(Ordering::Relaxed)
    }

    fn take(&self, source: &X509Source) -> Result<()> {
        let svid = source.svid()?;
        let chain = svid
            .cert_chain()
            .iter()
            .map(|one| CertificateDer::from(one.as_bytes().to_vec()));
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(svid.private_key().as_bytes().to_vec()));
        let mut bundle = Bundle::default();
        for (domain, of_domain) in source.bundle_set()?.iter() {
            let roots = of_domain
                .authorities()
                .iter()
                .map(|one| CertificateDer::from(one.as_bytes().to_vec()));
            bundle = bundle.with(domain.clone(), roots.collect())?;
        }
        let svid = Svid::from_chain(chain.collect())?;
        let before = self
            .credentials
            .current()
            .map(|current| current.svid().serial().to_owned());
        let is_rotation = before.is_some_and(|before| before != svid.serial());
        self.credentials.publish(&svid, &key, bundle)?;
        self.rotations.fetch_add(u64::from(is_rotation), Ordering::Relaxed);
        Ok(())
    }
}

#[allow(clippy::disallowed_methods, reason = "a program of its own, on the machine's clock")]
fn now() -> Now {
    Now::new(std::time::SystemTime::now)
}
