//! Attestation and renewal.

use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyUsagePurpose, SanType};
use tonic::Code;
use watchword_identity::Usage;
use watchword_mtls::verify_chain;

use crate::harness::{HOUR, Key, Place, id, reason};

#[tokio::test]
async fn a_token_gives_an_svid_that_verifies_and_renews() {
    let place = Place::new();
    let plane = place.start(Vec::new()).await.unwrap();
    let mut workload = plane.workload("/web").await;
    assert_eq!(workload.svid.id(), &id("/web"));
    for _ in 0..3 {
        // Not so far that the control plane itself has to renew in between.
        place.clock.advance(HOUR / 8);
        let key = Key::new();
        let answer = plane.renew(&workload, key.csr("/web")).await.unwrap();
        let next = plane.hold(key, answer);
        assert_ne!(next.svid.serial(), workload.svid.serial());
        let now = next.credentials.now();
        verify_chain(next.svid.chain().to_vec(), &plane.bundle(), Usage::Server, now).unwrap();
        assert_eq!(next.svid.not_after(), now + HOUR);
        workload = next;
    }
    let status = plane.status().await;
    assert_eq!(
        (status.trust_domain.as_str(), status.authority.as_str()),
        ("example.org", "embedded")
    );
    assert_eq!(status.lineages.len(), 1);
    assert!(!status.lineages[0].frozen);
    plane.stop().await;
}

#[tokio::test]
async fn lost_answers_are_given_again() {
    let place = Place::new();
    let plane = place.start(Vec::new()).await.unwrap();
    let token = plane.token("/web").await.unwrap();
    let key = Key::new();
    let lost = plane.attest(key.csr("/web"), &token).await.unwrap();
    let again = plane.attest(key.csr("/web"), &token).await.unwrap();
    assert_eq!(lost.chain, again.chain);
    let workload = plane.hold(key, again);
    let key = Key::new();
    let lost = plane.renew(&workload, key.csr("/web")).await.unwrap();
    let again = plane.renew(&workload, key.csr("/web")).await.unwrap();
    assert_eq!(lost.chain, again.chain);
    let workload = plane.hold(key, again);
    plane.renew(&workload, Key::new().csr("/web")).await.unwrap();
    assert!(!plane.status().await.lineages[0].frozen);
}

#[tokio::test]
async fn a_stolen_old_svid_freezes_its_lineage_and_raises_an_alarm() {
    let place = Place::new();
    let plane = place.start(Vec::new()).await.unwrap();
    let stolen = plane.workload("/web").await;
    let other_replica = plane.workload("/web").await;
    let key = Key::new();
    let answer = plane.renew(&stolen, key.csr("/web")).await.unwrap();
    let honest = plane.hold(key, answer);
    plane.subscribe(&honest).await.unwrap();
    let refused = plane.renew(&stolen, Key::new().csr("/web")).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::PermissionDenied, "serial-retired")
    );
    let refused = plane.renew(&honest, Key::new().csr("/web")).await.unwrap_err();
    assert_eq!(reason(&refused), "lineage-frozen");
    plane.renew(&other_replica, Key::new().csr("/web")).await.unwrap();
    let frozen: Vec<_> = plane
        .status()
        .await
        .lineages
        .iter()
        .map(|lineage| lineage.frozen)
        .collect();
    assert_eq!(frozen, [true, false]);
    let metrics = plane.metrics();
    assert!(
        metrics.contains("watchword_alarms_total{alarm=\"serial-retired\"} 1"),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_retired_svid_may_not_subscribe_either() {
    let place = Place::new();
    let plane = place.start(Vec::new()).await.unwrap();
    let old = plane.workload("/web").await;
    let key = Key::new();
    let answer = plane.renew(&old, key.csr("/web")).await.unwrap();
    plane.subscribe(&plane.hold(key, answer)).await.unwrap();
    let refused = plane.subscribe(&old).await.err().unwrap();
    assert_eq!(reason(&refused), "serial-retired");
}

#[tokio::test]
async fn tokens_are_for_one_key_one_id_and_ten_minutes() {
    let place = Place::new();
    let plane = place.start(Vec::new()).await.unwrap();
    let (token, late) = (plane.token("/web").await.unwrap(), plane.token("/web").await.unwrap());
    let key = Key::new();
    let refused = plane.attest(key.csr("/orders"), &token).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::PermissionDenied, "token-for-other-id")
    );
    let answer = plane.attest(key.csr("/web"), &token).await.unwrap();
    let refused = plane.attest(Key::new().csr("/web"), &token).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::PermissionDenied, "token-used-by-other-key")
    );
    assert!(
        plane
            .metrics()
            .contains("watchword_alarms_total{alarm=\"token-used-by-other-key\"} 1")
    );
    let csr = key.csr("/web");
    plane.subscribe(&plane.hold(key, answer)).await.unwrap();
    let refused = plane.attest(csr, &token).await.unwrap_err();
    assert_eq!(reason(&refused), "token-spent");
    place.clock.advance(Duration::from_secs(600));
    let refused = plane.attest(Key::new().csr("/web"), &late).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::Unauthenticated, "token-expired")
    );
    let unknown = "wwjt-AAAAAAAAAAAAAAAAAAAAAA:spiffe://example.org/web";
    let refused = plane.attest(Key::new().csr("/web"), unknown).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::Unauthenticated, "token-unknown")
    );
}

#[tokio::test]
async fn ids_that_are_not_registered_or_reserved_get_no_token() {
    let place = Place::new();
    let plane = place.start(Vec::new()).await.unwrap();
    plane.token("/batch").await.unwrap();
    let table = [
        ("/nobody", "id-not-registered"),
        ("/watchword/control-plane", "id-reserved"),
    ];
    for (path, expected) in table {
        let refused = plane.token(path).await.unwrap_err();
        assert_eq!(
            (refused.code(), reason(&refused).as_str()),
            (Code::PermissionDenied, expected)
        );
    }
}

#[tokio::test]
async fn requests_for_more_than_an_svid_are_refused_at_attestation_and_at_renewal() {
    let place = Place::new();
    let plane = place.start(Vec::new()).await.unwrap();
    let token = plane.token("/web").await.unwrap();
    let workload = plane.workload("/orders").await;
    type Change = fn(&mut CertificateParams);
    let table: [(Change, &str, &str); 4] = [
        (
            |p| p.subject_alt_names.push(SanType::DnsName("web".try_into().unwrap())),
            "csr-other-name",
            "only a SPIFFE ID is issued",
        ),
        (
            |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
            "csr-wants-ca",
            "asks for a CA certificate",
        ),
        (
            |p| p.key_usages = vec![KeyUsagePurpose::KeyCertSign],
            "csr-wants-ca",
            "asks for a CA certificate",
        ),
        (
            |p| p.subject_alt_names.push(p.subject_alt_names[0].clone()),
            "csr-uri-count",
            "2 URI SANs",
        ),
    ];
    for (change, expected, says) in table {
        let attested = plane.attest(Key::new().csr_with("/web", change), &token).await;
        let renewed = plane.renew(&workload, Key::new().csr_with("/orders", change)).await;
        for refused in [attested.unwrap_err(), renewed.unwrap_err()] {
            assert_eq!(
                (refused.code(), reason(&refused).as_str()),
                (Code::InvalidArgument, expected)
            );
            assert!(refused.message().contains(says), "{}", refused.message());
        }
    }
    let metrics = plane.metrics();
    let refusals = |reason: &str| format!("watchword_attestation_refusals_total{{reason=\"{reason}\"}}");
    assert!(
        metrics.contains(&format!("{} 2", refusals("csr-other-name"))),
        "{metrics}"
    );
    assert!(
        metrics.contains(&format!("{} 4", refusals("csr-wants-ca"))),
        "{metrics}"
    );
    // None of it has cost the token or the lineage anything.
    plane.attest(Key::new().csr("/web"), &token).await.unwrap();
    plane.renew(&workload, Key::new().csr("/orders")).await.unwrap();
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused() {
    let place = Place::new();
    let plane = place.start(Vec::new()).await.unwrap();
    let token = plane.token("/web").await.unwrap();
    let refused = plane.attest(vec![0x30; 40], &token).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::InvalidArgument, "csr-malformed")
    );
    let refused = plane.attest(vec![0; 9000], &token).await.unwrap_err();
    assert_eq!(reason(&refused), "csr-too-long");
    assert_eq!(
        plane.attest(vec![0; 60_000], &token).await.unwrap_err().code(),
        Code::OutOfRange
    );
    let refused = plane.attest(Key::new().csr("/web"), "a secret").await.unwrap_err();
    assert_eq!(reason(&refused), "token-malformed");
    // None of it has cost the token anything.
    plane.attest(Key::new().csr("/web"), &token).await.unwrap();
    let workload = plane.workload("/orders").await;
    let refused = plane.renew(&workload, Key::new().csr("/web")).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::PermissionDenied, "svid-for-other-id")
    );
}

#[tokio::test]
async fn lineages_and_roots_outlive_a_restart_and_the_epoch_grows() {
    let place = Place::new();
    let plane = place.start(Vec::new()).await.unwrap();
    let workload = plane.workload("/web").await;
    let (bundle, epoch) = (plane.bundle(), plane.status().await.epoch);
    plane.stop().await;
    let plane = place.start(Vec::new()).await.unwrap();
    assert_eq!(plane.bundle(), bundle);
    assert_eq!(plane.status().await.epoch, epoch + 1);
    plane.renew(&workload, Key::new().csr("/web")).await.unwrap();
}

#[tokio::test]
async fn issuance_is_counted() {
    let place = Place::new();
    let plane = place.start(Vec::new()).await.unwrap();
    plane.workload("/web").await;
    let metrics = plane.metrics();
    for expected in [
        "watchword_issuance_total{authority=\"embedded\",reason=\"\",result=\"issued\"} 2",
        "watchword_issuance_duration_seconds_count{authority=\"embedded\"} 2",
        "watchword_snapshot_version{kind=\"policies\"} 1",
        "watchword_control_handshakes_total{reason=\"\",result=\"ok\"} 1",
    ] {
        assert!(metrics.contains(expected), "{expected} is missing in\n{metrics}");
    }
}
