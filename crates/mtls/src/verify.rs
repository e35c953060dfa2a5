//! Whether a chain proves a SPIFFE ID: the leaf's rules, a path to a root of
//! that ID's own trust domain, and limits before anything costly is done.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use thiserror::Error;
use watchword_identity::{Bundle, Svid, SvidError, Usage};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath, anchor_from_trusted_cert};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Limits on what a peer may have us look at: webpki alone would check up to
/// a hundred signatures.
const MAX_CHAIN: usize = 4;
const MAX_CHAIN_BYTES: usize = 16 * 1024;

/// Reads the wall clock. Given, so that tests choose the time.
#[derive(Clone)]
pub struct Now(Arc<dyn Fn() -> SystemTime + Send + Sync>);

impl Now {
    /// Calls `read` whenever the time is needed.
    pub fn new(read: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// The wall time.
    pub fn get(&self) -> SystemTime {
        (self.0)()
    }
}

impl fmt::Debug for Now {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Now")
    }
}

/// Why a chain does not prove an identity. Closed: each has a label.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum VerifyError {
    /// More certificates than we look at.
    #[error("the chain has {0} certificates: {MAX_CHAIN} at most")]
    ChainTooLong(usize),
    /// More bytes than we look at.
    #[error("the chain has {0} bytes: {MAX_CHAIN_BYTES} at most")]
    ChainTooLarge(usize),
    /// The leaf breaks a rule of X.509-SVIDs.
    #[error(transparent)]
    Svid(#[from] SvidError),
    /// Nothing is known of the ID's trust domain, or all its roots are over.
    #[error("no valid root is known for the trust domain {0}")]
    UnknownTrustDomain(String),
    /// A certificate of the path is over.
    #[error("a certificate of the chain of {0} has expired")]
    Expired(String),
    /// A certificate of the path is not valid yet: a clock is wrong.
    #[error("a certificate of the chain of {0} is not valid yet: compare both clocks")]
    NotYetValid(String),
    /// No path to a root of the ID's trust domain.
    #[error("the chain of {id} leads to no root of its trust domain: {problem}")]
    UntrustedIssuer {
        /// The claimed ID.
        id: String,
        /// webpki's word for it.
        problem: String,
    },
    /// An issuer in the path lacks keyCertSign.
    #[error("an issuer in the chain of {0} may not sign certificates")]
    IssuerMayNotSign(String),
}

impl VerifyError {
    /// A label for logs and metrics: kebab-case, from a closed set.
    pub fn label(&self) -> &'static str {
        match self {
            Self::ChainTooLong(_) | Self::ChainTooLarge(_) => "chain-too-long",
            Self::Svid(error) => error.label(),
            Self::UnknownTrustDomain(_) => "unknown-trust-domain",
            Self::Expired(_) => "expired",
            Self::NotYetValid(_) => "not-yet-valid",
            Self::UntrustedIssuer { .. } => "untrusted-issuer",
            Self::IssuerMayNotSign(_) => "issuer-may-not-sign",
        }
    }
}

/// Checks that `chain` (DER, leaf first) proves a SPIFFE ID at `now`.
///
/// # Errors
/// See [`VerifyError`].
pub fn verify_chain(
    chain: Vec<CertificateDer<'static>>,
    bundle: &Bundle,
    usage: Usage,
    now: SystemTime,
) -> Result<Svid, VerifyError> {
    let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
    verify(chain, bundle, usage, now, &algorithms)
}

fn verify(
    chain: Vec<CertificateDer<'static>>,
    bundle: &Bundle,
    usage: Usage,
    now: SystemTime,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<Svid, VerifyError> {
    if chain.len() > MAX_CHAIN {
        return Err(VerifyError::ChainTooLong(chain.len()));
    }
    let bytes = chain.iter().map(|certificate| certificate.len()).sum();
    if bytes > MAX_CHAIN_BYTES {
        return Err(VerifyError::ChainTooLarge(bytes));
    }
    let svid = Svid::from_chain(chain)?;
    svid.check_usage(usage)?;
    check_path(&svid, bundle, usage, now, algorithms)?;
    Ok(svid)
}

/// Roots of the leaf's own trust domain alone, never of the union of all.
fn check_path(
    svid: &Svid,
    bundle: &Bundle,
    usage: Usage,
    now: SystemTime,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<(), VerifyError> {
    let id = || svid.id().to_string();
    let untrusted = |problem: webpki::Error| VerifyError::UntrustedIssuer {
        id: id(),
        problem: problem.to_string(),
    };
    let domain = svid.id().trust_domain();
    let anchors: Vec<_> = bundle
        .roots(domain)
        .iter()
        .filter(|root| root.is_valid_at(now))
        .filter_map(|root| anchor_from_trusted_cert(root.certificate()).ok())
        .collect();
    if anchors.is_empty() {
        return Err(VerifyError::UnknownTrustDomain(domain.to_string()));
    }
    let Some((leaf, intermediates)) = svid.chain().split_first() else {
        return Err(SvidError::EmptyChain.into());
    };
    let end_entity = EndEntityCert::try_from(leaf).map_err(untrusted)?;
    let key_usage = match usage {
        Usage::Client => KeyUsage::client_auth(),
        Usage::Server => KeyUsage::server_auth(),
    };
    let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let time = UnixTime::since_unix_epoch(since_epoch);
    let path = end_entity
        .verify_for_usage(algorithms.all, &anchors, intermediates, time, key_usage, None, None)
        .map_err(|error| match error {
            webpki::Error::CertExpired { .. } => VerifyError::Expired(id()),
            webpki::Error::CertNotValidYet { .. } => VerifyError::NotYetValid(id()),
            other => untrusted(other),
        })?;
    if issuers_may_sign(&path) {
        Ok(())
    } else {
        Err(VerifyError::IssuerMayNotSign(id()))
    }
}

/// webpki does not look at the keyUsage of issuers.
fn issuers_may_sign(path: &VerifiedPath<'_>) -> bool {
    path.intermediate_certificates().all(|issuer| {
        let der = issuer.der();
        X509Certificate::from_der(&der)
            .ok()
            .and_then(|(_, issuer)| {
                issuer
                    .key_usage()
                    .ok()
                    .map(|usage| usage.is_none_or(|usage| usage.value.key_cert_sign()))
            })
            .unwrap_or(false)
    })
}

/// The verifier of both directions, for one generation's bundle.
#[derive(Debug)]
pub(crate) struct SpiffeVerifier {
    bundle: Arc<Bundle>,
    algorithms: WebPkiSupportedAlgorithms,
    client_certificate_mandatory: bool,
    now: Now,
}

impl SpiffeVerifier {
    pub(crate) fn new(bundle: Arc<Bundle>, provider: &CryptoProvider, now: Now) -> Self {
        let algorithms = provider.signature_verification_algorithms;
        Self {
            bundle,
            algorithms,
            client_certificate_mandatory: true,
            now,
        }
    }

    /// For the control plane, whose one method that attests is called by
    /// those who have no certificate yet.
    pub(crate) fn client_certificate_optional(mut self) -> Self {
        self.client_certificate_mandatory = false;
        self
    }

    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: Usage,
    ) -> Result<(), rustls::Error> {
        // Counted before they are copied.
        if intermediates.len() >= MAX_CHAIN {
            return Err(rustls_error(VerifyError::ChainTooLong(intermediates.len() + 1)));
        }
        let chain = std::iter::once(leaf)
            .chain(intermediates)
            .map(|certificate| certificate.clone().into_owned())
            .collect();
        verify(chain, &self.bundle, usage, self.now.get(), &self.algorithms)
            .map(|_| ())
            .map_err(rustls_error)
    }

    fn signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }
}

/// Carries our reason through rustls, which hands it back as the handshake's error.
fn rustls_error(error: VerifyError) -> rustls::Error {
    rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

fn no_tls12() -> rustls::Error {
    rustls::Error::General("TLS 1.2 is not spoken".into())
}

impl ServerCertVerifier for SpiffeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(end_entity, intermediates, Usage::Server)
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for SpiffeVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        self.client_certificate_mandatory
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(end_entity, intermediates, Usage::Client)
            .map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
