//! What the tests of several modules need: roots, certificates and a moment.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use watchword_daemon::Clock;
use watchword_identity::{Bundle, SpiffeId, Svid, TrustDomain};
use watchword_mtls::{Credentials, Now};
use zeroize::Zeroizing;

use crate::workloads::{Held, Material};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// The tests' moment, with nothing special about it.
pub(crate) fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000)
}

pub(crate) fn domain(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

/// `/web` becomes `spiffe://example.org/web`.
pub(crate) fn id(path: &str) -> SpiffeId {
    SpiffeId::new(format!("spiffe://example.org{path}")).unwrap()
}

/// A root, valid at any time.
pub(crate) struct Root {
    pub(crate) der: CertificateDer<'static>,
    signer: Issuer<'static, KeyPair>,
}

impl Root {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let der = params.self_signed(&key).unwrap().der().clone();
        let signer = Issuer::new(params, key);
        Self { der, signer }
    }

    /// With a key of its own, valid at any time.
    pub(crate) fn leaf(&self, id: &SpiffeId) -> (Svid, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        (self.sign(id, &key, None), PrivateKeyDer::from(key))
    }

    /// Valid from ever; without an end, for ever.
    pub(crate) fn sign(&self, id: &SpiffeId, key: &KeyPair, not_after: Option<SystemTime>) -> Svid {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.to_string().as_str().try_into().unwrap())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        if let Some(not_after) = not_after {
            params.not_after = not_after.into();
        }
        let leaf = params.signed_by(key, &self.signer).unwrap();
        Svid::from_chain(vec![leaf.der().clone()]).unwrap()
    }
}

/// Roots of `example.org`.
pub(crate) fn bundle(roots: &[&Root]) -> Bundle {
    Bundle::default().with(domain("example.org"), ders(roots)).unwrap()
}

pub(crate) fn ders(roots: &[&Root]) -> Vec<CertificateDer<'static>> {
    roots.iter().map(|root| root.der.clone()).collect()
}

/// Of `id`, under this bundle.
pub(crate) fn credentials(root: &Root, id: &SpiffeId, bundle: Bundle, clock: &Arc<dyn Clock>) -> Credentials {
    let clock = Arc::clone(clock);
    let credentials = Credentials::new(Now::new(move || clock.now()));
    let (svid, key) = root.leaf(id);
    credentials.publish(&svid, &key, bundle).unwrap();
    credentials
}

/// What a workload has of one ID.
pub(crate) fn held(root: &Root, id: &SpiffeId) -> Arc<Held> {
    let (svid, key) = root.leaf(id);
    let key = Zeroizing::new(key.secret_der().to_vec());
    Arc::new(Held { svid, key })
}

pub(crate) fn material(svids: &[&Arc<Held>], bundle: Bundle) -> Material {
    Material {
        svids: svids.iter().map(|held| Arc::clone(held)).collect(),
        bundle: Arc::new(bundle),
    }
}
