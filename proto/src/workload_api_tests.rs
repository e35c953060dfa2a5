//! What stands in which field (SPIFFE Workload API, sections 4.6, 5.1 and 8).
#![allow(clippy::unwrap_used)]

use prost::Message as _;
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls_pki_types::CertificateDer;

use super::*;

const WEB: &str = "spiffe://example.org/web";

/// A root, and an intermediate that it signed.
struct Authority {
    root: CertificateDer<'static>,
    intermediate: CertificateDer<'static>,
    signer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let (key, root_key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let root = params.self_signed(&root_key).unwrap().der().clone();
        let issuer = Issuer::new(params.clone(), root_key);
        Self {
            root,
            intermediate: params.signed_by(&key, &issuer).unwrap().der().clone(),
            signer: Issuer::new(params, key),
        }
    }

    fn svid(&self, id: &str) -> (Svid, Vec<u8>) {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.signer).unwrap().der().clone();
        let chain = vec![leaf, self.intermediate.clone()];
        (Svid::from_chain(chain).unwrap(), key.serialize_der())
    }
}

fn domain(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

/// Of the mesh, with two roots, and of a partner.
fn bundle(ours: &[&Authority], partner: &Authority) -> Bundle {
    let roots = ours.iter().map(|authority| authority.root.clone()).collect();
    Bundle::new(domain("example.org"), roots)
        .unwrap()
        .with(domain("partner.example"), vec![partner.root.clone()])
        .unwrap()
}

#[test]
fn an_svid_has_its_chain_leaf_first_its_own_key_and_the_roots_of_its_trust_domain() {
    let (old, new, partner) = (Authority::new(), Authority::new(), Authority::new());
    let (svid, key) = old.svid(WEB);
    let response = x509_svid_response([(&svid, &key[..])], &bundle(&[&old, &new], &partner));
    let [told] = &response.svids[..] else {
        panic!("{} SVIDs", response.svids.len())
    };
    assert_eq!(told.spiffe_id, WEB);
    assert_eq!(
        told.x509_svid,
        [svid.chain()[0].as_ref(), old.intermediate.as_ref()].concat()
    );
    assert_eq!(told.bundle, [old.root.as_ref(), new.root.as_ref()].concat());
    assert_eq!(told.hint, "");
    // PKCS#8 (RFC 5208), not encrypted: the key of the leaf comes out of it.
    let read = KeyPair::try_from(&told.x509_svid_key[..]).unwrap();
    assert_eq!(rcgen::PublicKeyData::subject_public_key_info(&read), svid.public_key());
}

#[test]
fn foreign_bundles_stand_under_the_id_of_their_trust_domain_and_the_own_one_is_not_among_them() {
    let (ours, partner) = (Authority::new(), Authority::new());
    let (svid, key) = ours.svid(WEB);
    let told = x509_svid_response([(&svid, &key[..])], &bundle(&[&ours], &partner));
    let foreign: Vec<_> = told.federated_bundles.into_iter().collect();
    assert_eq!(
        foreign,
        [("spiffe://partner.example".to_owned(), partner.root.to_vec())]
    );
}

/// A trust domain whose name only begins as the own one is foreign.
#[test]
fn a_trust_domain_of_a_longer_name_is_foreign() {
    let (ours, other) = (Authority::new(), Authority::new());
    let (svid, key) = ours.svid(WEB);
    let bundle = Bundle::new(domain("example.org"), vec![ours.root.clone()])
        .unwrap()
        .with(domain("example.org.evil.example"), vec![other.root.clone()])
        .unwrap()
        .with(domain("example.or"), vec![other.root.clone()])
        .unwrap();
    let told = x509_svid_response([(&svid, &key[..])], &bundle);
    assert_eq!(told.svids[0].bundle, ours.root.to_vec());
    let mut foreign: Vec<_> = told.federated_bundles.into_keys().collect();
    foreign.sort();
    assert_eq!(foreign, ["spiffe://example.or", "spiffe://example.org.evil.example"]);
}

#[test]
fn the_first_svid_is_the_one_that_was_first() {
    let (ours, partner) = (Authority::new(), Authority::new());
    let made: Vec<_> = ["/z", "/a", "/m"]
        .iter()
        .map(|path| ours.svid(&format!("spiffe://example.org{path}")))
        .collect();
    let told = x509_svid_response(
        made.iter().map(|(svid, key)| (svid, &key[..])),
        &bundle(&[&ours], &partner),
    );
    let ids: Vec<_> = told.svids.iter().map(|svid| &svid.spiffe_id[..]).collect();
    assert_eq!(
        ids,
        [
            "spiffe://example.org/z",
            "spiffe://example.org/a",
            "spiffe://example.org/m"
        ]
    );
}

#[test]
fn bundles_are_told_by_the_id_of_each_trust_domain_the_own_one_among_them() {
    let (old, new, partner) = (Authority::new(), Authority::new(), Authority::new());
    let told = x509_bundles_response(&bundle(&[&old, &new], &partner));
    let expected = HashMap::from([
        (
            "spiffe://example.org".to_owned(),
            [old.root.as_ref(), new.root.as_ref()].concat(),
        ),
        ("spiffe://partner.example".to_owned(), partner.root.to_vec()),
    ]);
    assert_eq!(told.bundles, expected);
}

/// Nothing is revoked by list: an empty one would say that nothing is revoked.
#[test]
fn no_list_of_revoked_certificates_is_told() {
    let (ours, partner) = (Authority::new(), Authority::new());
    let (svid, key) = ours.svid(WEB);
    let bundle = bundle(&[&ours], &partner);
    assert!(x509_svid_response([(&svid, &key[..])], &bundle).crl.is_empty());
    assert!(x509_bundles_response(&bundle).crl.is_empty());
}

/// The name and the field numbers of the standard's definition
/// (workloadapi.proto): a client knows nothing else of us.
#[test]
fn messages_are_on_the_wire_as_the_standard_numbers_their_fields() {
    assert_eq!(
        crate::generated::spiffe_workload_api_server::SERVICE_NAME,
        "SpiffeWorkloadAPI"
    );
    let svid = X509svid {
        spiffe_id: "i".to_owned(),
        x509_svid: vec![1],
        x509_svid_key: vec![2],
        bundle: vec![3],
        hint: "h".to_owned(),
    };
    let foreign = || HashMap::from([("d".to_owned(), vec![5])]);
    let entry = [0x0a, 1, b'd', 0x12, 1, 5];
    let told = X509svidResponse {
        svids: vec![svid],
        crl: vec![vec![4]],
        federated_bundles: foreign(),
    };
    let of_svid = [0x0a, 1, b'i', 0x12, 1, 1, 0x1a, 1, 2, 0x22, 1, 3, 0x2a, 1, b'h'];
    assert_eq!(
        told.encode_to_vec(),
        [&[0x0a, 15][..], &of_svid, &[0x12, 1, 4, 0x1a, 6], &entry].concat()
    );
    let told = X509BundlesResponse {
        crl: vec![vec![4]],
        bundles: foreign(),
    };
    assert_eq!(told.encode_to_vec(), [&[0x0a, 1, 4, 0x12, 6][..], &entry].concat());
}
