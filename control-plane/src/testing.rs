//! What the tests of several modules need: keys, requests and a moment.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, Certificate, CertificateParams, DistinguishedName, IsCa, KeyPair, SanType};
use watchword_identity::{SpiffeId, TrustDomain};

use crate::csr::Csr;

/// The tests' moment, with nothing special about it.
pub(crate) fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000)
}

pub(crate) fn domain() -> TrustDomain {
    TrustDomain::new("example.org").unwrap()
}

/// `/web` becomes `spiffe://example.org/web`.
pub(crate) fn id(path: &str) -> SpiffeId {
    SpiffeId::new(format!("spiffe://example.org{path}")).unwrap()
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

pub(crate) fn request(path: &str, key: &KeyPair) -> Csr {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri(&id(path).to_string())];
    Csr::from_der(params.serialize_request(key).unwrap().der()).unwrap()
}

/// A new root.
pub(crate) fn root() -> Certificate {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.self_signed(&key()).unwrap()
}

pub(crate) fn key() -> KeyPair {
    KeyPair::generate().unwrap()
}
