//! Which certificates are roots, and that each trust domain has its own.
#![allow(clippy::unwrap_used)]

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, SanType};

use super::*;

fn root(change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    params.self_signed(&key).unwrap().der().clone()
}

fn domain(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

/// A root is an SVID by preference only, and may sign CRLs.
#[test]
fn a_ca_that_may_sign_is_a_root_with_a_spiffe_id_or_without() {
    let id = SanType::URI("spiffe://example.org".try_into().unwrap());
    Root::from_der(root(|_| {})).unwrap();
    Root::from_der(root(|params| params.subject_alt_names = vec![id])).unwrap();
    Root::from_der(root(|params| params.key_usages.push(KeyUsagePurpose::CrlSign))).unwrap();
    Root::from_der(root(|params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    }))
    .unwrap();
}

#[test]
fn what_may_not_sign_certificates_is_no_root() {
    let leaf = root(|params| params.is_ca = IsCa::ExplicitNoCa);
    assert!(matches!(Root::from_der(leaf), Err(BundleError::NotACa(_))));
    let unsaid = root(|params| params.is_ca = IsCa::NoCa);
    assert!(matches!(Root::from_der(unsaid), Err(BundleError::NotACa(_))));
    let crls = root(|params| params.key_usages = vec![KeyUsagePurpose::CrlSign]);
    assert!(matches!(Root::from_der(crls), Err(BundleError::MayNotSign(_))));
    let mut longer = root(|_| {}).to_vec();
    longer.push(0);
    assert!(matches!(Root::from_der(longer.into()), Err(BundleError::Malformed(_))));
}

#[test]
fn each_trust_domain_has_its_own_roots_and_an_unknown_one_none() {
    let (ours, theirs) = (root(|_| {}), root(|_| {}));
    let bundle = Bundle::new(domain("example.org"), vec![ours.clone()])
        .unwrap()
        .with(domain("partner.example"), vec![theirs.clone()])
        .unwrap();
    let of = |name| {
        let roots = bundle.roots(&domain(name)).iter();
        roots.map(|root| root.certificate().clone()).collect::<Vec<_>>()
    };
    assert_eq!(of("example.org"), [ours]);
    assert_eq!(of("partner.example"), [theirs]);
    assert!(of("elsewhere.example").is_empty());
    assert!(of("sub.example.org").is_empty() && of("org").is_empty());
}

#[test]
fn a_trust_domain_has_at_least_one_root_and_a_bounded_number() {
    let ours = root(|_| {});
    let new = |count| Bundle::new(domain("example.org"), vec![ours.clone(); count]);
    assert!(matches!(new(0), Err(BundleError::Empty(_))));
    assert!(new(1).is_ok() && new(MAX_ROOTS).is_ok());
    assert!(matches!(new(MAX_ROOTS + 1), Err(BundleError::TooMany(_))));
}
