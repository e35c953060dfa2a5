//! X.509-SVIDs: the rules that a leaf certificate must keep to be one
//! (SPIFFE X.509-SVID, sections 2 to 5; the checks webpki does not do).

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::CertificateDer;
use spiffe::SpiffeId;
use thiserror::Error;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use x509_parser::time::ASN1Time;

/// Longest SPIFFE ID, in bytes (SPIFFE-ID, section 2.3).
const MAX_ID_BYTES: usize = 2048;

/// What a certificate is used for in a handshake (RFC 5280, section 4.2.1.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// It authenticates the side that connects.
    Client,
    /// It authenticates the side that accepts.
    Server,
}

/// Why a certificate is not an X.509-SVID. Closed: each has a label.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SvidError {
    /// No certificate at all.
    #[error("the certificate chain is empty")]
    EmptyChain,
    /// Not DER, or not an X.509 v3 certificate.
    #[error("the leaf certificate is not valid DER: {0}")]
    Malformed(String),
    /// A SPIFFE ID must be there, and be the only one.
    #[error("the leaf has {0} URI SANs: an X.509-SVID has exactly one")]
    UriSanCount(usize),
    /// A subject alternative name that does not parse.
    #[error("the leaf has a subject alternative name that cannot be read")]
    InvalidSan,
    /// The URI is no SPIFFE ID.
    #[error("the leaf's URI SAN is not a SPIFFE ID: {0}")]
    NotASpiffeId(String),
    /// A SPIFFE ID, but not in the form it is compared in.
    #[error("the leaf's SPIFFE ID is not in canonical form: expected {expected}")]
    NotCanonical {
        /// The canonical form.
        expected: String,
    },
    /// The ID names a trust domain, not a workload.
    #[error("the leaf's SPIFFE ID {0} has no path, so it names no workload")]
    NoPath(String),
    /// A CA certificate can't be a leaf.
    #[error("the leaf is a CA certificate")]
    IsCa,
    /// keyUsage is missing, or lacks digitalSignature.
    #[error("the leaf's keyUsage lacks digitalSignature")]
    NoDigitalSignature,
    /// keyCertSign or cRLSign.
    #[error("the leaf's keyUsage allows signing certificates or CRLs")]
    SigningKeyUsage,
    /// extendedKeyUsage is there and lacks what this side of the handshake needs.
    #[error("the leaf's extendedKeyUsage does not allow it as a {0:?} certificate")]
    ExtendedKeyUsage(Usage),
}

impl SvidError {
    /// A label for logs and metrics: kebab-case, from a closed set.
    pub fn label(&self) -> &'static str {
        match self {
            Self::EmptyChain => "no-certificate",
            Self::Malformed(_) => "malformed-certificate",
            Self::UriSanCount(0) => "no-uri-san",
            Self::UriSanCount(_) => "several-uri-sans",
            Self::InvalidSan => "invalid-san",
            Self::NotASpiffeId(_) => "not-a-spiffe-id",
            Self::NotCanonical { .. } => "spiffe-id-not-canonical",
            Self::NoPath(_) => "spiffe-id-without-path",
            Self::IsCa => "leaf-is-ca",
            Self::NoDigitalSignature => "no-digital-signature",
            Self::SigningKeyUsage => "leaf-may-sign",
            Self::ExtendedKeyUsage(_) => "extended-key-usage",
        }
    }
}

/// A certificate chain whose leaf keeps the rules of an X.509-SVID. Says
/// nothing about who signed it.
#[derive(Clone, PartialEq, Eq)]
pub struct Svid {
    id: SpiffeId,
    chain: Vec<CertificateDer<'static>>,
    serial: String,
    issuer: Vec<u8>,
    not_before: SystemTime,
    not_after: SystemTime,
    public_key: Vec<u8>,
    usages: Option<(bool, bool)>,
}

impl Svid {
    /// Reads a chain, leaf first, and checks the leaf.
    ///
    /// # Errors
    /// The first rule of the X.509-SVID standard that the leaf breaks.
    pub fn from_chain(chain: Vec<CertificateDer<'static>>) -> Result<Self, SvidError> {
        let leaf = chain.first().ok_or(SvidError::EmptyChain)?;
        let (rest, certificate) =
            X509Certificate::from_der(leaf).map_err(|error| SvidError::Malformed(error.to_string()))?;
        if !rest.is_empty() {
            return Err(SvidError::Malformed("bytes follow the certificate".into()));
        }
        let id = spiffe_id(&certificate)?;
        check_constraints(&certificate)?;
        let usages = extended_usages(&certificate)?;
        Ok(Self {
            id,
            serial: hex(certificate.raw_serial()),
            issuer: certificate.issuer().as_raw().to_vec(),
            not_before: system_time(certificate.validity().not_before),
            not_after: system_time(certificate.validity().not_after),
            public_key: certificate.public_key().raw.to_vec(),
            usages,
            chain,
        })
    }

    /// Whether the leaf may authenticate this side of a handshake: an absent
    /// extendedKeyUsage allows both.
    ///
    /// # Errors
    /// [`SvidError::ExtendedKeyUsage`].
    pub fn check_usage(&self, usage: Usage) -> Result<(), SvidError> {
        match (self.usages, usage) {
            (None, _) | (Some((true, _)), Usage::Client) | (Some((_, true)), Usage::Server) => Ok(()),
            _ => Err(SvidError::ExtendedKeyUsage(usage)),
        }
    }

    /// The workload's SPIFFE ID.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// DER, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// Lower-case hexadecimal, without separators.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// The issuer's distinguished name, DER.
    pub fn issuer(&self) -> &[u8] {
        &self.issuer
    }

    /// Of the leaf.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// Of the leaf.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The leaf's SubjectPublicKeyInfo, DER.
    pub fn public_key(&self) -> &[u8] {
        &self.public_key
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid")
            .field("id", &self.id.to_string())
            .field("serial", &self.serial)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// The one URI SAN, which must be a workload's SPIFFE ID in canonical form.
/// Other kinds of SAN are ignored.
fn spiffe_id(certificate: &X509Certificate<'_>) -> Result<SpiffeId, SvidError> {
    let san = certificate
        .subject_alternative_name()
        .map_err(|_| SvidError::InvalidSan)?
        .ok_or(SvidError::UriSanCount(0))?;
    let mut uris = Vec::new();
    for name in &san.value.general_names {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            GeneralName::Invalid(..) => return Err(SvidError::InvalidSan),
            _ => {}
        }
    }
    let [uri] = uris[..] else {
        return Err(SvidError::UriSanCount(uris.len()));
    };
    if uri.len() > MAX_ID_BYTES {
        return Err(SvidError::NotASpiffeId(format!("longer than {MAX_ID_BYTES} bytes")));
    }
    let id = SpiffeId::new(uri).map_err(|error| SvidError::NotASpiffeId(error.to_string()))?;
    let canonical = id.to_string();
    if canonical != uri {
        return Err(SvidError::NotCanonical { expected: canonical });
    }
    if id.path().is_empty() {
        return Err(SvidError::NoPath(canonical));
    }
    Ok(id)
}

fn check_constraints(certificate: &X509Certificate<'_>) -> Result<(), SvidError> {
    let malformed = |error: x509_parser::error::X509Error| SvidError::Malformed(error.to_string());
    if certificate
        .basic_constraints()
        .map_err(malformed)?
        .is_some_and(|constraints| constraints.value.ca)
    {
        return Err(SvidError::IsCa);
    }
    let usage = certificate
        .key_usage()
        .map_err(malformed)?
        .ok_or(SvidError::NoDigitalSignature)?
        .value;
    if usage.key_cert_sign() || usage.crl_sign() {
        return Err(SvidError::SigningKeyUsage);
    }
    if !usage.digital_signature() {
        return Err(SvidError::NoDigitalSignature);
    }
    Ok(())
}

/// (client, server), or nothing where the extension is absent.
fn extended_usages(certificate: &X509Certificate<'_>) -> Result<Option<(bool, bool)>, SvidError> {
    let extension = certificate
        .extended_key_usage()
        .map_err(|error| SvidError::Malformed(error.to_string()))?;
    Ok(extension.map(|extension| {
        let usage = extension.value;
        (usage.any || usage.client_auth, usage.any || usage.server_auth)
    }))
}

fn hex(serial: &[u8]) -> String {
    let significant = match serial {
        // DER puts a zero before a first byte that would read as negative.
        [0, rest @ ..] if !rest.is_empty() => rest,
        all => all,
    };
    significant.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn system_time(time: ASN1Time) -> SystemTime {
    let seconds = time.timestamp();
    // Before 1970 only matters as "long ago".
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

#[cfg(test)]
#[path = "svid_tests.rs"]
mod tests;
