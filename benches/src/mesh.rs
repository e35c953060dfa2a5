//! A trust domain in memory: its authority, and workloads with certificates of
//! the shape that the embedded authority issues (P-256, one URI SAN).
//!
//! Invariant: everything is valid at [`noon`], and nothing reads a clock.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use watchword_identity::{Bundle, SpiffeId, Svid, TrustDomain};
use watchword_mtls::{Credentials, Generation, Now};

/// The trust domain of all benchmarks.
pub const DOMAIN: &str = "example.org";
/// The workload that calls.
pub const WEB: &str = "spiffe://example.org/web";
/// The workload that is called.
pub const ORDERS: &str = "spiffe://example.org/orders";

const HOUR: Duration = Duration::from_secs(3600);

/// When everything is judged.
#[must_use]
pub fn noon() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// A SPIFFE ID from its text.
///
/// # Panics
/// It is none.
#[must_use]
pub fn id(text: &str) -> SpiffeId {
    SpiffeId::new(text).expect("a SPIFFE ID")
}

/// What signs: a root, or an intermediate below one.
pub struct Authority {
    /// Without the root.
    chain: Vec<CertificateDer<'static>>,
    root: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A workload's certificate with its key.
pub struct Leaf {
    /// DER, leaf first, without the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// PKCS#8.
    pub key: PrivateKeyDer<'static>,
}

impl Authority {
    /// A new root. Path building goes by name: each root that shares one is
    /// tried in turn.
    #[must_use]
    pub fn root(name: &str) -> Self {
        let params = ca_params(name);
        let key = new_key();
        let root = params.self_signed(&key).expect("a root").der().clone();
        Self {
            chain: Vec::new(),
            root,
            issuer: Issuer::new(params, key),
        }
    }

    /// A new intermediate that this authority signs.
    #[must_use]
    pub fn intermediate(&self) -> Self {
        let params = ca_params("intermediate");
        let key = new_key();
        let signed = params.signed_by(&key, &self.issuer).expect("an intermediate");
        let mut chain = vec![signed.der().clone()];
        chain.extend_from_slice(&self.chain);
        Self {
            chain,
            root: self.root.clone(),
            issuer: Issuer::new(params, key),
        }
    }

    /// A certificate for a workload.
    #[must_use]
    pub fn leaf(&self, id: &str) -> Leaf {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![SanType::URI(id.try_into().expect("an ASCII text"))];
        params.use_authority_key_identifier_extension = true;
        params.not_before = (noon() - HOUR).into();
        params.not_after = (noon() + HOUR).into();
        let key = new_key();
        let signed = params.signed_by(&key, &self.issuer).expect("a leaf");
        let mut chain = vec![signed.der().clone()];
        chain.extend_from_slice(&self.chain);
        Leaf {
            chain,
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        }
    }

    /// The root that everything here leads to.
    #[must_use]
    pub fn root_certificate(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// What trusts this authority alone.
    #[must_use]
    pub fn bundle(&self) -> Bundle {
        bundle(DOMAIN, vec![self.root.clone()])
    }

    /// A workload of this authority, ready for handshakes.
    #[must_use]
    pub fn generation(&self, id: &str) -> Arc<Generation> {
        let credentials = Credentials::new(Now::new(noon));
        publish(&credentials, &self.leaf(id), self.bundle());
        credentials.current().expect("a generation was published")
    }
}

/// What trusts `roots` (DER) for the IDs of `domain`.
///
/// # Panics
/// They are no bundle.
#[must_use]
pub fn bundle(domain: &str, roots: Vec<CertificateDer<'static>>) -> Bundle {
    let domain = TrustDomain::new(domain).expect("a trust domain");
    Bundle::new(domain, roots).expect("a bundle")
}

/// Puts a certificate into force: validation, and every TLS configuration.
///
/// # Panics
/// The certificate is not of the bundle.
pub fn publish(credentials: &Credentials, leaf: &Leaf, bundle: Bundle) {
    let svid = Svid::from_chain(leaf.chain.clone()).expect("an SVID");
    credentials
        .publish(&svid, &leaf.key, bundle)
        .expect("a certificate of the bundle");
}

fn new_key() -> KeyPair {
    KeyPair::generate().expect("a P-256 key")
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = (noon() - HOUR).into();
    params.not_after = (noon() + 24 * HOUR).into();
    params
}
