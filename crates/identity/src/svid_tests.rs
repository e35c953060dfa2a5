//! Which leaves are X.509-SVIDs: a table of certificates made with rcgen.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    SanType,
};

use super::*;

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn good() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = vec![uri("spiffe://example.org/web")];
    params
}

fn read(change: impl FnOnce(&mut CertificateParams)) -> Result<Svid, SvidError> {
    let mut params = good();
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    Svid::from_chain(vec![certificate.der().clone()])
}

#[test]
fn a_leaf_of_ours_is_read() {
    let svid = read(|params| params.serial_number = Some(vec![0xab, 0x01].into())).unwrap();
    assert_eq!(svid.id().to_string(), "spiffe://example.org/web");
    assert_eq!(svid.serial(), "ab01");
    assert!(svid.not_after() > svid.not_before());
    svid.check_usage(Usage::Client).unwrap();
    svid.check_usage(Usage::Server).unwrap();
}

#[test]
fn other_kinds_of_names_are_ignored() {
    let dns = SanType::DnsName("web.example.org".try_into().unwrap());
    assert!(read(|params| params.subject_alt_names.push(dns)).is_ok());
}

#[test]
fn a_leaf_without_extended_key_usage_serves_both_sides() {
    let svid = read(|params| params.extended_key_usages.clear()).unwrap();
    svid.check_usage(Usage::Client).unwrap();
    svid.check_usage(Usage::Server).unwrap();
}

#[test]
fn a_client_only_leaf_is_no_server() {
    let svid = read(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]).unwrap();
    svid.check_usage(Usage::Client).unwrap();
    assert_eq!(
        svid.check_usage(Usage::Server),
        Err(SvidError::ExtendedKeyUsage(Usage::Server))
    );
}

#[test]
fn what_is_no_svid_is_refused_with_a_reason_of_its_own() {
    type Change = fn(&mut CertificateParams);
    let table: &[(Change, &str)] = &[
        (|p| p.subject_alt_names.clear(), "no-uri-san"),
        (
            |p| p.subject_alt_names.push(uri("spiffe://example.org/two")),
            "several-uri-sans",
        ),
        (
            |p| p.subject_alt_names = vec![uri("https://example.org/web")],
            "not-a-spiffe-id",
        ),
        (
            |p| p.subject_alt_names = vec![uri("spiffe://example.org")],
            "spiffe-id-without-path",
        ),
        (
            |p| p.subject_alt_names = vec![uri("spiffe://Example.org/web")],
            "spiffe-id-not-canonical",
        ),
        (
            |p| p.subject_alt_names = vec![uri("spiffe://example.org/a/../b")],
            "not-a-spiffe-id",
        ),
        (|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained), "leaf-is-ca"),
        (|p| p.key_usages.push(KeyUsagePurpose::KeyCertSign), "leaf-may-sign"),
        (|p| p.key_usages.push(KeyUsagePurpose::CrlSign), "leaf-may-sign"),
        (
            |p| p.key_usages = vec![KeyUsagePurpose::KeyAgreement],
            "no-digital-signature",
        ),
        (|p| p.key_usages.clear(), "no-digital-signature"),
    ];
    for (change, expected) in table {
        assert_eq!(read(change).map(|_| ()).unwrap_err().label(), *expected);
    }
}

#[test]
fn garbage_and_nothing_are_refused() {
    assert_eq!(Svid::from_chain(Vec::new()), Err(SvidError::EmptyChain));
    assert_eq!(
        Svid::from_chain(vec![vec![0x30, 0x80, 1].into()]).unwrap_err().label(),
        "malformed-certificate"
    );
}
