//! Which leaves are X.509-SVIDs: a table of certificates made with rcgen.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
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

fn read_id(id: &str) -> Result<Svid, SvidError> {
    read(|params| params.subject_alt_names = vec![uri(id)])
}

fn long_id(bytes: usize) -> String {
    let start = "spiffe://example.org/";
    format!("{start}{}", "a".repeat(bytes - start.len()))
}

#[test]
fn every_id_of_the_standard_is_read_whatever_else_its_trust_domain_could_be() {
    let longest_domain = format!("spiffe://{}/web", "d".repeat(255));
    let table = [
        "spiffe://example.org/web",
        "spiffe://example.org/Web/a-b_c.d/...",
        "spiffe://10.0.0.1/web",
        "spiffe://under_score/web",
        "spiffe://-/web",
        "spiffe://localhost/web",
        &longest_domain,
    ];
    for id in table {
        assert_eq!(read_id(id).unwrap().id().to_string(), id);
    }
}

#[test]
fn an_id_has_2048_bytes_at_most() {
    assert_eq!(read_id(&long_id(2048)).unwrap().id().to_string(), long_id(2048));
    assert_eq!(read_id(&long_id(2049)).unwrap_err().label(), "not-a-spiffe-id");
}

#[test]
fn what_the_standard_keeps_out_of_an_id_is_refused() {
    let long_domain = format!("spiffe://{}/web", "d".repeat(256));
    let table = [
        // Its scheme and its trust domain.
        ("", "not-a-spiffe-id"),
        ("spiffe:example.org/web", "not-a-spiffe-id"),
        ("spiffes://example.org/web", "not-a-spiffe-id"),
        ("SPIFFE://example.org/web", "spiffe-id-not-canonical"),
        ("spiffe:///web", "not-a-spiffe-id"),
        ("spiffe://eXample.org/web", "spiffe-id-not-canonical"),
        ("spiffe://user@example.org/web", "not-a-spiffe-id"),
        ("spiffe://@example.org/web", "not-a-spiffe-id"),
        ("spiffe://example.org:8080/web", "not-a-spiffe-id"),
        ("spiffe://example.org:/web", "not-a-spiffe-id"),
        ("spiffe://[::1]/web", "not-a-spiffe-id"),
        ("spiffe://%65xample.org/web", "not-a-spiffe-id"),
        ("spiffe://exa+mple.org/web", "not-a-spiffe-id"),
        (&long_domain, "not-a-spiffe-id"),
        // Its path.
        ("spiffe://example.org", "spiffe-id-without-path"),
        ("spiffe://example.org/", "not-a-spiffe-id"),
        ("spiffe://example.org/web/", "not-a-spiffe-id"),
        ("spiffe://example.org//web", "not-a-spiffe-id"),
        ("spiffe://example.org/a//web", "not-a-spiffe-id"),
        ("spiffe://example.org/./web", "not-a-spiffe-id"),
        ("spiffe://example.org/a/..", "not-a-spiffe-id"),
        ("spiffe://example.org/%77eb", "not-a-spiffe-id"),
        ("spiffe://example.org/web%2Fa", "not-a-spiffe-id"),
        ("spiffe://example.org/we b", "not-a-spiffe-id"),
        ("spiffe://example.org/web~", "not-a-spiffe-id"),
        ("spiffe://example.org/web:a", "not-a-spiffe-id"),
        // What follows it.
        ("spiffe://example.org/web?a", "not-a-spiffe-id"),
        ("spiffe://example.org/web?", "not-a-spiffe-id"),
        ("spiffe://example.org/web#a", "not-a-spiffe-id"),
        ("spiffe://example.org/web#", "not-a-spiffe-id"),
    ];
    for (id, expected) in table {
        assert_eq!(read_id(id).unwrap_err().label(), expected, "{id}");
    }
}

#[test]
fn ids_of_two_spellings_of_a_path_are_two_ids() {
    assert_ne!(
        read_id("spiffe://example.org/web").unwrap().id(),
        read_id("spiffe://example.org/Web").unwrap().id()
    );
}

/// CA:false is the default, which DER leaves out (X.690, section 11.5).
#[test]
fn a_leaf_may_leave_out_that_it_is_no_ca() {
    assert!(read(|params| params.is_ca = IsCa::NoCa).is_ok());
}

#[test]
fn a_leaf_may_agree_on_keys_and_encipher_them() {
    let others = [KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::KeyAgreement];
    assert!(read(|params| params.key_usages.extend(others)).is_ok());
}

/// The second of two SANs would be read by some and not by others.
#[test]
fn a_second_extension_with_names_is_refused() {
    let second = read(|params| {
        // A SEQUENCE of one URI, without its SPIFFE ID's rest.
        let der = [&[0x30, 0x0d, 0x86, 0x0b][..], b"spiffe://td"].concat();
        let extension = CustomExtension::from_oid_content(&[2, 5, 29, 17], der);
        params.custom_extensions.push(extension);
    });
    assert!(second.is_err());
}
