//! Certificate signing requests (PKCS#10, RFC 2986), read with suspicion.
//!
//! Invariants: a [`Csr`] was signed by its own key, has an ECDSA key on P-256
//! or P-384, asks for one SPIFFE ID in canonical form and for no other name,
//! and does not ask to be a CA.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PublicKeyData, SubjectPublicKeyInfo};
use thiserror::Error;
use watchword_identity::SpiffeId;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension};

/// The longest request that is looked at, in bytes.
pub const MAX_CSR_BYTES: usize = 8 * 1024;

/// Why a request is refused. Closed: each has a label.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CsrError {
    /// More than [`MAX_CSR_BYTES`].
    #[error("the request has {0} bytes: {MAX_CSR_BYTES} at most")]
    TooLong(usize),
    /// Not a PKCS#10 request in DER.
    #[error("the request is not PKCS#10 in DER: {0}")]
    Malformed(String),
    /// The sender does not have the key.
    #[error("the request is not signed by its own key")]
    BadSignature,
    /// Another kind of key.
    #[error("the request's key is not ECDSA on P-256 or P-384")]
    KeyType,
    /// Exactly one ID must be asked for.
    #[error("the request has {0} URI SANs: exactly one is needed, the SPIFFE ID")]
    UriCount(usize),
    /// A DNS name, an address, or whatever else.
    #[error("the request asks for a name that is no URI: only a SPIFFE ID is issued")]
    OtherName,
    /// The URI is no SPIFFE ID in canonical form.
    #[error("the request's URI SAN is not a SPIFFE ID of a workload in canonical form")]
    NotASpiffeId,
    /// It wants to sign certificates.
    #[error("the request asks for a CA certificate")]
    WantsCa,
}

impl CsrError {
    /// A label for logs and metrics: kebab-case, from a closed set.
    pub fn label(&self) -> &'static str {
        match self {
            Self::TooLong(_) => "csr-too-long",
            Self::Malformed(_) => "csr-malformed",
            Self::BadSignature => "csr-bad-signature",
            Self::KeyType => "csr-key-type",
            Self::UriCount(_) => "csr-uri-count",
            Self::OtherName => "csr-other-name",
            Self::NotASpiffeId => "csr-not-a-spiffe-id",
            Self::WantsCa => "csr-wants-ca",
        }
    }
}

/// SHA-256 of a public key, in lower-case hexadecimal.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct KeyDigest(String);

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A request that was checked.
#[derive(Debug, Clone)]
pub struct Csr {
    der: Vec<u8>,
    id: SpiffeId,
    public_key: Vec<u8>,
}

impl Csr {
    /// Reads and checks a request.
    ///
    /// # Errors
    /// See [`CsrError`].
    pub fn from_der(der: &[u8]) -> Result<Self, CsrError> {
        if der.len() > MAX_CSR_BYTES {
            return Err(CsrError::TooLong(der.len()));
        }
        let (rest, request) =
            X509CertificationRequest::from_der(der).map_err(|error| CsrError::Malformed(error.to_string()))?;
        if !rest.is_empty() {
            return Err(CsrError::Malformed("bytes follow the request".into()));
        }
        let public_key = request.certification_request_info.subject_pki.raw;
        check_key_type(public_key)?;
        request.verify_signature().map_err(|_| CsrError::BadSignature)?;
        let id = requested_id(&request)?;
        Ok(Self {
            der: der.to_vec(),
            id,
            public_key: public_key.to_vec(),
        })
    }

    /// The whole request, for an authority that wants it.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The ID that is asked for.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// SubjectPublicKeyInfo, DER.
    pub fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    /// A short name of the key.
    pub fn key_digest(&self) -> KeyDigest {
        let hash = digest(&SHA256, &self.public_key);
        KeyDigest(hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

fn check_key_type(public_key: &[u8]) -> Result<(), CsrError> {
    let key = SubjectPublicKeyInfo::from_der(public_key).map_err(|_| CsrError::KeyType)?;
    let algorithm = key.algorithm();
    if *algorithm == PKCS_ECDSA_P256_SHA256 || *algorithm == PKCS_ECDSA_P384_SHA384 {
        Ok(())
    } else {
        Err(CsrError::KeyType)
    }
}

fn requested_id(request: &X509CertificationRequest<'_>) -> Result<SpiffeId, CsrError> {
    let mut uris = Vec::new();
    for attribute in request.certification_request_info.iter_attributes() {
        // Others, such as a challenge password, ask for nothing that is issued.
        let ParsedCriAttribute::ExtensionRequest(requested) = attribute.parsed_attribute() else {
            continue;
        };
        for extension in &requested.extensions {
            match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(names) => {
                    for name in &names.general_names {
                        let GeneralName::URI(uri) = name else {
                            return Err(CsrError::OtherName);
                        };
                        uris.push(*uri);
                    }
                }
                ParsedExtension::BasicConstraints(constraints) if constraints.ca => return Err(CsrError::WantsCa),
                ParsedExtension::KeyUsage(usage) if usage.key_cert_sign() || usage.crl_sign() => {
                    return Err(CsrError::WantsCa);
                }
                ParsedExtension::ParseError { error } => return Err(CsrError::Malformed(error.to_string())),
                _ => {}
            }
        }
    }
    let [uri] = uris[..] else {
        return Err(CsrError::UriCount(uris.len()));
    };
    let id = SpiffeId::new(uri).map_err(|_| CsrError::NotASpiffeId)?;
    if id.to_string() == uri && !id.path().is_empty() {
        Ok(id)
    } else {
        Err(CsrError::NotASpiffeId)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rcgen::{
        BasicConstraints, CertificateParams, DistinguishedName, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P521_SHA512,
        PKCS_ED25519, SanType, SignatureAlgorithm,
    };

    use super::*;

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    fn request(algorithm: &'static SignatureAlgorithm, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![uri("spiffe://example.org/web")];
        change(&mut params);
        let key = KeyPair::generate_for(algorithm).unwrap();
        params.serialize_request(&key).unwrap().der().to_vec()
    }

    #[test]
    fn a_request_for_one_id_by_either_curve_is_read() {
        for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384] {
            let der = request(algorithm, |_| {});
            let csr = Csr::from_der(&der).unwrap();
            assert_eq!(csr.id().to_string(), "spiffe://example.org/web");
            assert_eq!(csr.der(), der);
            assert_eq!(csr.key_digest(), Csr::from_der(&der).unwrap().key_digest());
        }
    }

    #[test]
    fn what_asks_for_more_or_else_is_refused_with_a_reason_of_its_own() {
        type Change = fn(&mut CertificateParams);
        let table: &[(Change, &str)] = &[
            (|p| p.subject_alt_names.clear(), "csr-uri-count"),
            (
                |p| p.subject_alt_names.push(uri("spiffe://example.org/two")),
                "csr-uri-count",
            ),
            (
                |p| p.subject_alt_names.push(uri("spiffe://example.org/web")),
                "csr-uri-count",
            ),
            (
                |p| p.subject_alt_names.push(SanType::DnsName("web".try_into().unwrap())),
                "csr-other-name",
            ),
            (
                |p| p.subject_alt_names.push(SanType::IpAddress([10, 0, 0, 1].into())),
                "csr-other-name",
            ),
            (
                |p| {
                    p.subject_alt_names
                        .push(SanType::Rfc822Name("a@b.c".try_into().unwrap()))
                },
                "csr-other-name",
            ),
            (
                |p| p.subject_alt_names = vec![uri("spiffe://Example.org/web")],
                "csr-not-a-spiffe-id",
            ),
            (
                |p| p.subject_alt_names = vec![uri("spiffe://example.org")],
                "csr-not-a-spiffe-id",
            ),
            (
                |p| p.subject_alt_names = vec![uri("https://example.org/web")],
                "csr-not-a-spiffe-id",
            ),
            (|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained), "csr-wants-ca"),
            (|p| p.key_usages = vec![KeyUsagePurpose::KeyCertSign], "csr-wants-ca"),
            (|p| p.key_usages = vec![KeyUsagePurpose::CrlSign], "csr-wants-ca"),
        ];
        for (row, (change, expected)) in table.iter().enumerate() {
            let error = Csr::from_der(&request(&PKCS_ECDSA_P256_SHA256, change)).unwrap_err();
            assert_eq!(error.label(), *expected, "row {row}");
        }
    }

    #[test]
    fn other_kinds_of_keys_are_refused() {
        for algorithm in [&PKCS_ED25519, &PKCS_ECDSA_P521_SHA512] {
            assert_eq!(
                Csr::from_der(&request(algorithm, |_| {})).unwrap_err(),
                CsrError::KeyType
            );
        }
    }

    #[test]
    fn a_request_for_somebody_elses_key_is_refused() {
        let mut der = request(&PKCS_ECDSA_P256_SHA256, |_| {});
        let position = der.windows(8).position(|bytes| bytes == b"spiffe:/").unwrap();
        der[position + 21] ^= 1;
        assert_eq!(Csr::from_der(&der).unwrap_err(), CsrError::BadSignature);
    }

    #[test]
    fn garbage_is_refused() {
        assert_eq!(Csr::from_der(&[]).unwrap_err().label(), "csr-malformed");
        assert_eq!(Csr::from_der(&[0x30; 100]).unwrap_err().label(), "csr-malformed");
        assert_eq!(
            Csr::from_der(&vec![0; MAX_CSR_BYTES + 1]).unwrap_err().label(),
            "csr-too-long"
        );
        let mut longer = request(&PKCS_ECDSA_P256_SHA256, |_| {});
        longer.push(0);
        assert_eq!(Csr::from_der(&longer).unwrap_err().label(), "csr-malformed");
    }
}
