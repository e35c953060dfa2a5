//! The certificates that the embedded authority makes: what stands in them,
//! and whether one that is read back is such a one (SPIFFE X.509-SVID,
//! sections 3 and 4; RFC 5280).

use std::time::{Duration, SystemTime};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use watchword_identity::TrustDomain;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use zeroize::Zeroizing;

use crate::authority::SignRequest;

const ROOT_LIFETIME: Duration = Duration::from_secs(3650 * 24 * 3600);
const INTERMEDIATE_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);
/// notBefore lies so much back, for peers whose clock is behind.
const BACKDATED: Duration = Duration::from_secs(30);

/// A new root in PEM, with its key.
pub(super) fn make_root(domain: &TrustDomain, now: SystemTime) -> Result<(String, KeyPair), rcgen::Error> {
    let key = KeyPair::generate()?;
    let params = ca_params(domain, "root", 1, (now - BACKDATED, now + ROOT_LIFETIME))?;
    Ok((params.self_signed(&key)?.pem(), key))
}

/// A new intermediate: certificate and key, PEM in one text. It does not
/// outlive the root.
pub(super) fn make_intermediate(
    domain: &TrustDomain,
    root: &Issuer<'_, KeyPair>,
    now: SystemTime,
    root_ends: SystemTime,
) -> Result<Zeroizing<String>, rcgen::Error> {
    let key = KeyPair::generate()?;
    let not_after = root_ends.min(now + INTERMEDIATE_LIFETIME);
    let params = ca_params(domain, "intermediate", 0, (now - BACKDATED, not_after))?;
    let certificate = params.signed_by(&key, root)?.pem();
    let key = Zeroizing::new(key.serialize_pem());
    // With room for both, so that no copy of the key stays behind.
    let mut text = Zeroizing::new(String::with_capacity(certificate.len() + key.len()));
    text.push_str(&certificate);
    text.push_str(&key);
    Ok(text)
}

/// An X.509-SVID for the request's key and ID. The subject is empty, which
/// makes the SAN critical.
pub(super) fn issue_leaf(
    request: &SignRequest<'_>,
    not_after: SystemTime,
    signer: &Issuer<'_, KeyPair>,
) -> Result<CertificateDer<'static>, rcgen::Error> {
    let key = SubjectPublicKeyInfo::from_der(request.csr.public_key())?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serial_number = Some(random_serial()?);
    params.not_before = OffsetDateTime::from(request.now - BACKDATED);
    params.not_after = OffsetDateTime::from(not_after);
    params.subject_alt_names = vec![SanType::URI(request.id.to_string().try_into()?)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params.signed_by(&key, signer)?.into())
}

fn ca_params(
    domain: &TrustDomain,
    role: &str,
    path_length: u8,
    validity: (SystemTime, SystemTime),
) -> Result<CertificateParams, rcgen::Error> {
    let serial = random_serial()?;
    // Two generations of one role must not share a name: path building goes by it.
    let mark: String = serial
        .to_bytes()
        .iter()
        .take(4)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Watchword");
    params
        .distinguished_name
        .push(DnType::CommonName, format!("{role} {mark}"));
    params.serial_number = Some(serial);
    params.not_before = OffsetDateTime::from(validity.0);
    params.not_after = OffsetDateTime::from(validity.1);
    params.subject_alt_names = vec![SanType::URI(domain_uri(domain).try_into()?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// 128 random bits, positive and never short: the first is 0, the second 1.
fn random_serial() -> Result<SerialNumber, rcgen::Error> {
    let mut serial = [0; 16];
    SystemRandom::new()
        .fill(&mut serial)
        .map_err(|_| rcgen::Error::RingUnspecified)?;
    serial[0] = serial[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&serial))
}

fn domain_uri(domain: &TrustDomain) -> String {
    format!("spiffe://{domain}")
}

/// Whether a certificate is a CA of the trust domain, signed by `issuer`. The
/// error says what is wrong and what to do.
pub(super) fn check_ca(
    certificate: &CertificateDer<'_>,
    issuer: &CertificateDer<'_>,
    domain: &TrustDomain,
) -> Result<(), String> {
    let unreadable = |error: String| format!("the certificate can't be read ({error}): restore it from a backup");
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| unreadable(error.to_string()))?;
    let (_, issuer) = X509Certificate::from_der(issuer).map_err(|error| unreadable(error.to_string()))?;
    let names = parsed
        .subject_alternative_name()
        .map_err(|error| unreadable(error.to_string()))?;
    let expected = domain_uri(domain);
    let of_domain = names.is_some_and(|names| match names.value.general_names[..] {
        [GeneralName::URI(uri)] => uri == expected,
        _ => false,
    });
    if !of_domain {
        return Err(format!(
            "this authority is not that of {expected}: give another stateDir, or set trustDomain back"
        ));
    }
    parsed
        .verify_signature(Some(issuer.public_key()))
        .map_err(|_| "not signed by the root beside it: restore both from one backup".to_owned())
}

/// Whether a key is the one in the certificate.
pub(super) fn check_key(certificate: &CertificateDer<'_>, key: &KeyPair) -> Result<(), String> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
    if parsed.public_key().raw == key.subject_public_key_info() {
        Ok(())
    } else {
        Err("the private key is not that of its certificate: restore both from one backup".into())
    }
}
