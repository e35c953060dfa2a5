//! What an authority may get wrong: a table of certificates that are each
//! wrong in one thing.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use time::OffsetDateTime;

use super::*;
use crate::csr::Csr;
use crate::testing::{domain, id, key, now, request, uri};

const HOUR: Duration = Duration::from_secs(3600);

/// A root and an intermediate that sign whatever they are told to.
struct Authority {
    bundle: Bundle,
    intermediate: Issuer<'static, KeyPair>,
    intermediate_der: CertificateDer<'static>,
}

impl Authority {
    fn new(intermediate_ends: SystemTime) -> Self {
        Self::with(intermediate_ends, |_| {})
    }

    fn with(intermediate_ends: SystemTime, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let root_key = key();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.not_after = OffsetDateTime::from(now() + 24 * HOUR);
        let root = params.self_signed(&root_key).unwrap();
        let signer = Issuer::new(params.clone(), root_key);
        let intermediate_key = key();
        params.distinguished_name.push(DnType::CommonName, "intermediate");
        params.not_after = OffsetDateTime::from(intermediate_ends);
        change(&mut params);
        let intermediate_der = params.signed_by(&intermediate_key, &signer).unwrap().der().clone();
        Self {
            bundle: Bundle::new(domain(), vec![root.der().clone()]).unwrap(),
            intermediate: Issuer::new(params, intermediate_key),
            intermediate_der,
        }
    }

    fn sign(&self, csr: &Csr, change: impl FnOnce(&mut CertificateParams)) -> Vec<CertificateDer<'static>> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![uri("spiffe://example.org/web")];
        params.serial_number = Some(SerialNumber::from_slice(&[0x42; 16]));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = OffsetDateTime::from(now() - Duration::from_secs(30));
        params.not_after = OffsetDateTime::from(now() + HOUR);
        change(&mut params);
        let key = SubjectPublicKeyInfo::from_der(csr.public_key()).unwrap();
        let leaf = params.signed_by(&key, &self.intermediate).unwrap();
        vec![leaf.der().clone(), self.intermediate_der.clone()]
    }
}

fn judge(authority: &Authority, chain: Vec<CertificateDer<'static>>, csr: &Csr) -> &'static str {
    let web = id("/web");
    let expected = Expectation {
        id: &web,
        public_key: csr.public_key(),
        ends_by: now() + HOUR,
        now: now(),
    };
    distrust(chain, &expected, &authority.bundle).map_or_else(|error| error.label(), |_| "released")
}

#[test]
fn what_was_asked_for_is_released() {
    let authority = Authority::new(now() + 2 * HOUR);
    let csr = request("/web", &key());
    assert_eq!(judge(&authority, authority.sign(&csr, |_| {}), &csr), "released");
    let with_agreement = authority.sign(&csr, |p| p.key_usages.push(KeyUsagePurpose::KeyAgreement));
    assert_eq!(judge(&authority, with_agreement, &csr), "released");
}

type Change = fn(&mut CertificateParams);

const WRONG: &[(Change, &str)] = &[
    (
        |p| p.subject_alt_names = vec![uri("spiffe://example.org/orders")],
        "signed-other-id",
    ),
    (
        |p| p.subject_alt_names.push(uri("spiffe://example.org/two")),
        "several-uri-sans",
    ),
    (
        |p| p.subject_alt_names = vec![uri("spiffe://other.org/web")],
        "unknown-trust-domain",
    ),
    (
        |p| p.subject_alt_names.push(SanType::DnsName("web".try_into().unwrap())),
        "signed-other-name",
    ),
    (
        |p| p.subject_alt_names.push(SanType::IpAddress([10, 0, 0, 1].into())),
        "signed-other-name",
    ),
    (
        |p| {
            p.subject_alt_names
                .push(SanType::Rfc822Name("a@b.c".try_into().unwrap()))
        },
        "signed-other-name",
    ),
    (
        |p| p.distinguished_name.push(DnType::CommonName, "web.example.org"),
        "signed-subject",
    ),
    (|p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)), "leaf-is-ca"),
    (|p| p.is_ca = IsCa::NoCa, "signed-no-basic-constraints"),
    (|p| p.key_usages.push(KeyUsagePurpose::KeyCertSign), "leaf-may-sign"),
    (|p| p.key_usages.push(KeyUsagePurpose::CrlSign), "leaf-may-sign"),
    (
        |p| p.key_usages = vec![KeyUsagePurpose::KeyEncipherment],
        "no-digital-signature",
    ),
    (
        |p| p.key_usages.push(KeyUsagePurpose::ContentCommitment),
        "signed-key-usage",
    ),
    (|p| p.extended_key_usages.clear(), "signed-extended-key-usage"),
    (
        |p| p.extended_key_usages.push(ExtendedKeyUsagePurpose::CodeSigning),
        "signed-extended-key-usage",
    ),
    (
        |p| p.extended_key_usages.push(ExtendedKeyUsagePurpose::Any),
        "signed-extended-key-usage",
    ),
    (
        |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth],
        "extended-key-usage",
    ),
    (
        |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth],
        "extended-key-usage",
    ),
    (
        |p| p.not_after = OffsetDateTime::from(now() + HOUR + Duration::from_secs(1)),
        "signed-too-long",
    ),
    (
        |p| p.not_after = OffsetDateTime::from(now() - Duration::from_secs(1)),
        "expired",
    ),
    (
        |p| p.not_before = OffsetDateTime::from(now() + Duration::from_secs(5)),
        "not-yet-valid",
    ),
    (
        |p| p.serial_number = Some(SerialNumber::from_slice(&[7, 1])),
        "signed-serial",
    ),
];

#[test]
fn each_thing_that_is_wrong_has_a_reason_of_its_own() {
    let authority = Authority::new(now() + 2 * HOUR);
    let csr = request("/web", &key());
    for (row, (change, expected)) in WRONG.iter().enumerate() {
        assert_eq!(
            judge(&authority, authority.sign(&csr, change), &csr),
            *expected,
            "row {row}"
        );
    }
}

#[test]
fn a_certificate_for_another_key_is_withheld() {
    let authority = Authority::new(now() + 2 * HOUR);
    let (ours, theirs) = (request("/web", &key()), request("/web", &key()));
    assert_eq!(
        judge(&authority, authority.sign(&theirs, |_| {}), &ours),
        "signed-other-key"
    );
}

#[test]
fn a_certificate_of_another_authority_is_withheld() {
    let (ours, theirs) = (Authority::new(now() + 2 * HOUR), Authority::new(now() + 2 * HOUR));
    let csr = request("/web", &key());
    assert_eq!(judge(&ours, theirs.sign(&csr, |_| {}), &csr), "untrusted-issuer");
}

#[test]
fn a_leaf_that_outlives_its_issuer_is_withheld() {
    let authority = Authority::new(now() + HOUR - Duration::from_secs(1));
    let csr = request("/web", &key());
    assert_eq!(
        judge(&authority, authority.sign(&csr, |_| {}), &csr),
        "signed-outlives-issuer"
    );
}

#[test]
fn a_chain_whose_issuer_has_the_id_of_a_workload_is_withheld() {
    let csr = request("/web", &key());
    let table = [
        ("spiffe://example.org", "released"),
        ("spiffe://upstream.example", "released"),
        ("https://ca.example.org/issuer", "released"),
        ("spiffe://example.org/lab", "signed-by-workload"),
        ("spiffe://upstream.example/lab", "signed-by-workload"),
    ];
    for (name, expected) in table {
        let authority = Authority::with(now() + 2 * HOUR, |p| p.subject_alt_names = vec![uri(name)]);
        assert_eq!(
            judge(&authority, authority.sign(&csr, |_| {}), &csr),
            expected,
            "{name}"
        );
    }
}

/// rcgen marks both as critical, so they are made by hand.
#[test]
fn a_leaf_that_some_could_overlook_the_uses_or_the_name_of_is_withheld() {
    let authority = Authority::new(now() + 2 * HOUR);
    let csr = request("/web", &key());
    let judge_with = |is_critical: bool, oid: &[u64], der: &[u8], change: Change| {
        let chain = authority.sign(&csr, |params| {
            change(params);
            let mut extension = CustomExtension::from_oid_content(oid, der.to_vec());
            extension.set_criticality(is_critical);
            params.custom_extensions.push(extension);
        });
        judge(&authority, chain, &csr)
    };
    let id = b"spiffe://example.org/web";
    let names = [&[0x30, 26, 0x86, 24][..], id].concat();
    for (is_critical, expected) in [(true, "released"), (false, "signed-not-critical")] {
        // digitalSignature alone.
        let usage = judge_with(is_critical, &[2, 5, 29, 15], &[3, 2, 7, 0x80], |p| p.key_usages.clear());
        assert_eq!(usage, expected);
        let names = judge_with(is_critical, &[2, 5, 29, 17], &names, |p| p.subject_alt_names.clear());
        assert_eq!(names, expected);
    }
}

#[test]
fn nothing_and_garbage_are_withheld() {
    let authority = Authority::new(now() + 2 * HOUR);
    let csr = request("/web", &key());
    assert_eq!(judge(&authority, Vec::new(), &csr), "no-certificate");
    assert_eq!(
        judge(&authority, vec![vec![0x30, 3, 1].into()], &csr),
        "malformed-certificate"
    );
    let mut without_issuer = authority.sign(&csr, |_| {});
    without_issuer.truncate(1);
    assert_eq!(judge(&authority, without_issuer, &csr), "untrusted-issuer");
}
