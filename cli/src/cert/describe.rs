//! What a certificate says, in words. Pure. Says nothing of who trusts it.

use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use serde::Serialize;
use watchword_identity::Svid;
use x509_parser::oid_registry::OID_SIG_ED25519;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use x509_parser::public_key::PublicKey;
use x509_parser::time::ASN1Time;
use x509_parser::x509::{SubjectPublicKeyInfo, X509Name};

use crate::curve;
use crate::time_left::seconds_left;

/// One certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Described {
    /// Where there is exactly one, in canonical form.
    pub(super) spiffe_id: Option<String>,
    /// Lower-case hexadecimal.
    pub(super) serial: String,
    pub(super) subject: String,
    pub(super) issuer: String,
    /// Unix seconds.
    pub(super) not_before: i64,
    /// Unix seconds.
    pub(super) not_after: i64,
    pub(super) valid_from: String,
    pub(super) valid_to: String,
    pub(super) seconds_left: i64,
    pub(super) is_ca: bool,
    pub(super) key: String,
    /// Everything in its subject alternative name, with its kind.
    pub(super) names: Vec<String>,
    /// Why it can't be an X.509-SVID of a workload; none for those that can,
    /// and for authorities.
    pub(super) no_svid_because: Option<String>,
    /// Whether the next one of the chain has signed it; none for the last.
    pub(super) signed_by_next: Option<bool>,
}

/// All of a chain, leaf first.
pub(super) fn chain(chain: &[CertificateDer<'_>], now: SystemTime) -> Result<Vec<Described>, String> {
    let mut described = Vec::new();
    for (index, der) in chain.iter().enumerate() {
        let number = index + 1;
        let certificate = parse(der).map_err(|problem| format!("certificate {number} can't be read: {problem}"))?;
        let next = chain.get(number).and_then(|next| parse(next).ok());
        let signed_by_next = next.map(|next| is_signed_by(&certificate, &next));
        described.push(describe(der, &certificate, signed_by_next, now));
    }
    Ok(described)
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, String> {
    let (rest, certificate) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
    match rest {
        [] => Ok(certificate),
        _ => Err("bytes follow it".to_owned()),
    }
}

fn is_signed_by(certificate: &X509Certificate<'_>, issuer: &X509Certificate<'_>) -> bool {
    certificate.issuer().as_raw() == issuer.subject().as_raw()
        && certificate.verify_signature(Some(issuer.public_key())).is_ok()
}

fn describe(
    der: &CertificateDer<'_>,
    certificate: &X509Certificate<'_>,
    signed_by_next: Option<bool>,
    now: SystemTime,
) -> Described {
    let validity = certificate.validity();
    let is_ca = certificate.is_ca();
    let svid = Svid::from_chain(vec![der.clone().into_owned()]);
    Described {
        spiffe_id: svid.as_ref().ok().map(|svid| svid.id().to_string()),
        serial: certificate.raw_serial_as_string().replace(':', ""),
        subject: name(certificate.subject()),
        issuer: name(certificate.issuer()),
        not_before: validity.not_before.timestamp(),
        not_after: validity.not_after.timestamp(),
        valid_from: moment(&validity.not_before),
        valid_to: moment(&validity.not_after),
        seconds_left: seconds_left(validity.not_after.timestamp(), now),
        is_ca,
        key: key(certificate.public_key()),
        names: names(certificate),
        no_svid_because: svid.err().filter(|_| !is_ca).map(|error| error.to_string()),
        signed_by_next,
    }
}

fn name(name: &X509Name<'_>) -> String {
    shown(&name.to_string())
}

/// Whoever made the certificate chose it: on a terminal it is a text and no more.
fn shown(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

fn moment(time: &ASN1Time) -> String {
    let at = time.to_datetime();
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    )
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(found)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::URI(uri) => format!("URI {}", shown(uri)),
        GeneralName::DNSName(host) => format!("DNS {}", shown(host)),
        GeneralName::RFC822Name(address) => format!("e-mail {}", shown(address)),
        GeneralName::IPAddress(bytes) => format!("IP {}", ip(bytes)),
        other => shown(&other.to_string()),
    };
    found.value.general_names.iter().map(text).collect()
}

fn ip(bytes: &[u8]) -> String {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        std::net::Ipv4Addr::from(four).to_string()
    } else if let Ok(sixteen) = <[u8; 16]>::try_from(bytes) {
        std::net::Ipv6Addr::from(sixteen).to_string()
    } else {
        format!("of {} bytes", bytes.len())
    }
}

fn key(info: &SubjectPublicKeyInfo<'_>) -> String {
    match info.parsed() {
        Ok(PublicKey::RSA(key)) => format!("RSA {}", key.key_size()),
        Ok(PublicKey::EC(point)) => match curve::name(info) {
            Some(curve) => format!("ECDSA {curve}"),
            None => format!("ECDSA, {} bits", point.key_size()),
        },
        _ if info.algorithm.algorithm == OID_SIG_ED25519 => "Ed25519".to_owned(),
        _ => format!("of algorithm {}", info.algorithm.algorithm),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use std::time::{Duration, UNIX_EPOCH};

    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};

    use super::*;

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = rcgen::date_time_ymd(2026, 1, 2);
        params.not_after = rcgen::date_time_ymd(2026, 2, 3);
        params
    }

    /// A leaf of an authority, and the authority.
    fn issued(sans: Vec<SanType>) -> Vec<CertificateDer<'static>> {
        let (root_key, leaf_key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let mut root = params("the root");
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root_der = root.self_signed(&root_key).unwrap().der().clone();
        let mut leaf = params("a leaf");
        leaf.is_ca = IsCa::ExplicitNoCa;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.subject_alt_names = sans;
        leaf.serial_number = Some(vec![0x0a, 0xff].into());
        let leaf = leaf.signed_by(&leaf_key, &Issuer::new(root, root_key)).unwrap();
        vec![leaf.der().clone(), root_der]
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    #[test]
    fn a_chain_is_told_as_it_is() {
        let now = UNIX_EPOCH + Duration::from_secs(1_770_076_795);
        let told = chain(&issued(vec![uri("spiffe://example.org/orders")]), now).unwrap();
        let leaf = &told[0];
        assert_eq!(leaf.spiffe_id.as_deref(), Some("spiffe://example.org/orders"));
        assert_eq!((leaf.serial.as_str(), leaf.key.as_str()), ("0aff", "ECDSA P-256"));
        assert_eq!(
            (leaf.subject.as_str(), leaf.issuer.as_str()),
            ("CN=a leaf", "CN=the root")
        );
        assert_eq!(
            (leaf.valid_from.as_str(), leaf.seconds_left),
            ("2026-01-02T00:00:00Z", 5)
        );
        assert_eq!((leaf.is_ca, leaf.signed_by_next), (false, Some(true)));
        assert_eq!(leaf.no_svid_because, None);
        assert_eq!((told[1].is_ca, told[1].signed_by_next), (true, None));
        assert_eq!(told[1].no_svid_because, None, "an authority is not meant to be one");
    }

    #[test]
    fn what_is_wrong_with_it_is_told() {
        let two = issued(vec![uri("spiffe://example.org/a"), uri("spiffe://example.org/b")]);
        let told = chain(&two, UNIX_EPOCH).unwrap();
        assert!(told[0].no_svid_because.as_deref().unwrap().contains("2 URI SANs"));
        assert_eq!(
            told[0].names,
            ["URI spiffe://example.org/a", "URI spiffe://example.org/b"]
        );
        let strangers = [two[0].clone(), issued(Vec::new())[1].clone()];
        let told = chain(&strangers, UNIX_EPOCH).unwrap();
        assert_eq!(told[0].signed_by_next, Some(false), "of the same name, but another key");
        let broken = chain(&[CertificateDer::from(vec![1, 2, 3])], UNIX_EPOCH).unwrap_err();
        assert!(broken.starts_with("certificate 1 can't be read"), "{broken}");
    }

    #[test]
    fn names_do_not_move_the_cursor() {
        let dns = SanType::DnsName("orders.example".try_into().unwrap());
        let address = SanType::IpAddress([192, 0, 2, 7].into());
        let told = chain(&issued(vec![dns, address]), UNIX_EPOCH).unwrap();
        assert_eq!(told[0].names, ["DNS orders.example", "IP 192.0.2.7"]);
        assert_eq!(shown("a\u{1b}[2Jb"), "a\u{fffd}[2Jb");
    }
}
