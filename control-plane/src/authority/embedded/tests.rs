//! The embedded authority: what stands in its certificates, what it survives
//! and what it refuses to start with.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;

use watchword_identity::{Svid, Usage};
use watchword_mtls::verify_chain;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::*;
use crate::testing::{domain, id, key, now, request};

const HOUR: Duration = Duration::from_secs(3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn state(&self) -> PathBuf {
        self.0.path().join("state")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.state().join(FOLDER).join(name)
    }

    fn open_at(&self, now: SystemTime) -> Result<EmbeddedAuthority, EmbeddedError> {
        EmbeddedAuthority::open(&self.state(), &domain(), now)
    }

    fn refuses(&self) -> String {
        self.open_at(now()).unwrap_err().to_string()
    }
}

async fn sign(authority: &EmbeddedAuthority, ttl: Duration, at: SystemTime) -> Result<Svid, AuthorityError> {
    let csr = request("/web", &key());
    let request = SignRequest {
        csr: &csr,
        id: csr.id(),
        ttl,
        now: at,
    };
    authority
        .sign(request)
        .await
        .map(|chain| Svid::from_chain(chain).unwrap())
}

#[tokio::test]
async fn a_leaf_verifies_to_the_bundle_before_and_after_a_restart() {
    let place = Place::new();
    let first = place.open_at(now()).unwrap();
    let svid = sign(&first, HOUR, now()).await.unwrap();
    let again = place.open_at(now()).unwrap();
    assert_eq!(first.bundle(), again.bundle());
    for usage in [Usage::Client, Usage::Server] {
        verify_chain(svid.chain().to_vec(), &again.bundle(), usage, now()).unwrap();
    }
    assert_eq!(svid.id(), &id("/web"));
    assert_eq!(svid.not_after(), now() + HOUR);
    assert_eq!(svid.not_before(), now() - Duration::from_secs(30));
}

#[tokio::test]
async fn the_certificates_hold_what_the_standard_asks_for() {
    let place = Place::new();
    let authority = place.open_at(now()).unwrap();
    let svid = sign(&authority, HOUR, now()).await.unwrap();
    let root = authority.root.certificate().clone();
    let (_, root) = X509Certificate::from_der(&root).unwrap();
    let (_, intermediate) = X509Certificate::from_der(&svid.chain()[1]).unwrap();
    let (_, leaf) = X509Certificate::from_der(&svid.chain()[0]).unwrap();
    assert_eq!(svid.chain().len(), 2);
    for (ca, path_length) in [(&root, 1), (&intermediate, 0)] {
        let constraints = ca.basic_constraints().unwrap().unwrap();
        assert!(constraints.critical && constraints.value.ca);
        assert_eq!(constraints.value.path_len_constraint, Some(path_length));
        let usage = ca.key_usage().unwrap().unwrap();
        assert!(
            usage.critical && usage.value.flags == 0b110_0000,
            "keyCertSign and cRLSign, no more"
        );
        let names = &ca.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert!(matches!(
            names[..],
            [x509_parser::prelude::GeneralName::URI("spiffe://example.org")]
        ));
    }
    assert_ne!(root.subject().as_raw(), intermediate.subject().as_raw());
    let san = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(san.critical && leaf.subject().iter().next().is_none());
    assert!(!leaf.basic_constraints().unwrap().unwrap().value.ca);
    let usage = leaf.key_usage().unwrap().unwrap();
    assert!(
        usage.critical && usage.value.flags == 1,
        "digitalSignature, and no more"
    );
    let extended = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth);
    let authority_key = |certificate: &X509Certificate<'_>| {
        certificate
            .iter_extensions()
            .find_map(|extension| match extension.parsed_extension() {
                x509_parser::prelude::ParsedExtension::AuthorityKeyIdentifier(found) => {
                    found.key_identifier.as_ref().map(|id| id.0.to_vec())
                }
                _ => None,
            })
    };
    let subject_key = |certificate: &X509Certificate<'_>| {
        certificate
            .iter_extensions()
            .find_map(|extension| match extension.parsed_extension() {
                x509_parser::prelude::ParsedExtension::SubjectKeyIdentifier(found) => Some(found.0.to_vec()),
                _ => None,
            })
    };
    assert_eq!(authority_key(&leaf), subject_key(&intermediate));
    assert_eq!(authority_key(&intermediate), subject_key(&root));
    assert!(subject_key(&root).is_some());
}

#[tokio::test]
async fn serials_are_long_positive_and_never_the_same() {
    let place = Place::new();
    let authority = place.open_at(now()).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..50 {
        let serial = sign(&authority, HOUR, now()).await.unwrap().serial().to_owned();
        assert!(
            serial.len() == 32 && ('4'..='7').contains(&serial.chars().next().unwrap()),
            "{serial}"
        );
        assert!(seen.insert(serial));
    }
}

#[tokio::test]
async fn no_leaf_outlives_the_intermediate_and_an_expired_one_signs_nothing() {
    let place = Place::new();
    let authority = place.open_at(now()).unwrap();
    let end = authority.intermediate.load().not_after;
    let svid = sign(&authority, HOUR, end - Duration::from_secs(60)).await.unwrap();
    assert_eq!(svid.not_after(), end);
    assert!(matches!(
        sign(&authority, HOUR, end).await,
        Err(AuthorityError::Expired(_))
    ));
}

#[tokio::test]
async fn the_intermediate_is_replaced_in_time_by_the_same_root() {
    let place = Place::new();
    let authority = place.open_at(now()).unwrap();
    let before = authority.intermediate.load_full();
    authority.maintain(now() + YEAR / 2).await.unwrap();
    assert_eq!(authority.intermediate.load().certificate, before.certificate);
    let later = now() + YEAR - Duration::from_secs(80 * 24 * 3600);
    authority.maintain(later).await.unwrap();
    assert_ne!(authority.intermediate.load().certificate, before.certificate);
    let svid = sign(&authority, HOUR, later).await.unwrap();
    verify_chain(svid.chain().to_vec(), &authority.bundle(), Usage::Client, later).unwrap();
    let reopened = place.open_at(later).unwrap();
    assert_eq!(
        reopened.intermediate.load().certificate,
        authority.intermediate.load().certificate
    );
}

#[tokio::test]
async fn without_the_roots_key_it_signs_on_with_its_old_intermediate() {
    let place = Place::new();
    place.open_at(now()).unwrap();
    fs::remove_file(place.file(ROOT_KEY)).unwrap();
    let later = now() + YEAR - Duration::from_secs(24 * 3600);
    let authority = place.open_at(later).unwrap();
    sign(&authority, HOUR, later).await.unwrap();
}

#[test]
fn keys_are_the_owners_alone() {
    let place = Place::new();
    place.open_at(now()).unwrap();
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(place.state()), 0o700);
    assert_eq!(mode(place.state().join(FOLDER)), 0o700);
    assert_eq!(mode(place.file(ROOT_KEY)), 0o600);
    assert_eq!(mode(place.file(INTERMEDIATE)), 0o600);
    for path in [
        place.file(ROOT_KEY),
        place.file(INTERMEDIATE),
        place.state().join(FOLDER),
        place.state(),
    ] {
        let good = mode(path.clone());
        fs::set_permissions(&path, fs::Permissions::from_mode(good | 0o040)).unwrap();
        let message = place.refuses();
        assert!(
            message.contains("chmod") && message.contains(&path.display().to_string()),
            "{message}"
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(good)).unwrap();
    }
    place.open_at(now()).unwrap();
}

#[test]
fn a_crash_while_founding_leaves_nothing_that_counts() {
    let place = Place::new();
    let unfinished = place.state().join(UNFINISHED_FOLDER);
    fs::create_dir_all(&unfinished).unwrap();
    fs::set_permissions(place.state(), fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(unfinished.join(ROOT_KEY), "half a k").unwrap();
    place.open_at(now()).unwrap();
    assert!(!unfinished.exists());
}

#[test]
fn what_is_incomplete_damaged_or_foreign_is_named() {
    let place = Place::new();
    place.open_at(now()).unwrap();
    let other = Place::new();
    other.open_at(now()).unwrap();
    for name in [ROOT, INTERMEDIATE] {
        let good = fs::read(place.file(name)).unwrap();
        fs::remove_file(place.file(name)).unwrap();
        assert!(place.refuses().contains("incomplete"), "{}", place.refuses());
        let theirs = fs::read(other.file(name)).unwrap();
        let third = &good[..good.len() / 3];
        for (damaged, expected) in [
            (&[][..], "restore"),
            (third, "restore"),
            (&theirs[..], "not signed by the root"),
        ] {
            write_atomic(&place.file(name), damaged, PRIVATE).unwrap();
            let message = place.refuses();
            assert!(message.contains(expected), "{name}: {message}");
        }
        write_atomic(&place.file(name), &good, PRIVATE).unwrap();
    }
    // The certificate of one, the key of another.
    let ours = fs::read_to_string(place.file(INTERMEDIATE)).unwrap();
    let theirs = fs::read_to_string(other.file(INTERMEDIATE)).unwrap();
    let certificate = ours.split_inclusive("-----END CERTIFICATE-----\n").next().unwrap();
    let key = theirs.split_once("-----END CERTIFICATE-----").unwrap().1;
    write_atomic(
        &place.file(INTERMEDIATE),
        format!("{certificate}{key}").as_bytes(),
        PRIVATE,
    )
    .unwrap();
    assert!(
        place.refuses().contains("not that of its certificate"),
        "{}",
        place.refuses()
    );
    write_atomic(&place.file(INTERMEDIATE), ours.as_bytes(), PRIVATE).unwrap();
    let elsewhere = TrustDomain::new("other.org").unwrap();
    let message = EmbeddedAuthority::open(&place.state(), &elsewhere, now())
        .unwrap_err()
        .to_string();
    assert!(message.contains("not that of spiffe://other.org"), "{message}");
    let message = place.open_at(now() + 11 * YEAR).unwrap_err().to_string();
    assert!(message.contains("not valid now"), "{message}");
}

#[test]
fn its_debug_form_shows_no_key() {
    let place = Place::new();
    let shown = format!("{:?}", place.open_at(now()).unwrap());
    assert!(shown.len() < 300 && !shown.contains("KEY"), "{shown}");
}

#[test]
fn a_broken_key_is_not_quoted() {
    let place = Place::new();
    place.open_at(now()).unwrap();
    let file = place.file(INTERMEDIATE);
    let good = std::fs::read_to_string(&file).unwrap();
    // The first two lines of the key as one, which a parser of PEM quotes as a list of numbers.
    let broken = good.replacen("BEGIN PRIVATE KEY-----\n", "BEGIN PRIVATE KEY", 1);
    assert_ne!(broken, good);
    std::fs::write(&file, broken).unwrap();
    let error = place.refuses();
    assert!(error.contains("not the PEM that was written there"), "{error}");
    assert!(!error.contains("66, 69, 71, 73, 78"), "{error}");
}
