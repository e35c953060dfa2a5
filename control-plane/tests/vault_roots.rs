//! Chains of several tiers and new roots, with a real Vault.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[allow(dead_code, reason = "other tests use the rest of it")]
#[path = "serving/harness.rs"]
mod harness;

use std::sync::Arc;
use std::time::{Duration, Instant};

use harness::{Key, Place, id};
use watchword_control_plane::authority::VaultAuthority;
use watchword_control_plane::csr::Csr;
use watchword_control_plane::issuer::{IssueError, Issuer};
use watchword_control_plane::mesh_file::{AuthorityChoice, MeshFile};
use watchword_control_plane::metrics::ControlMetrics;
use watchword_daemon::{Metrics, SystemClock};
use watchword_identity::{Svid, TrustDomain};
use watchword_proto::control::snapshot_update::Resource;
use watchword_proto::control::subscribe_request::Message;
use watchword_proto::control::{Ack, Nack};
use watchword_tests::{OfflineAuthority, Vault, openssl};

fn settings(vault: &Vault) -> AuthorityChoice {
    let token = vault.token_file(&[]).unwrap();
    let authority = vault.authority(&format!("{{tokenFile: {}}}", token.display()));
    let text = format!("trustDomain: example.org\nservices: {{}}\n{authority}\n");
    MeshFile::parse("/mesh.yaml", &text, vault.folder()).unwrap().authority
}

async fn issue(vault: &Vault) -> Result<Svid, IssueError> {
    let AuthorityChoice::Vault(settings) = settings(vault) else {
        panic!("the authority is Vault");
    };
    let authority = VaultAuthority::open(&settings, &TrustDomain::new("example.org").unwrap()).unwrap();
    let metrics = ControlMetrics::new(&Metrics::new().unwrap());
    let issuer = Issuer::new(
        Arc::new(authority),
        Duration::from_secs(3600),
        Arc::new(SystemClock),
        metrics,
    );
    let csr = Csr::from_der(&Key::new().csr("/web")).unwrap();
    issuer.issue(&csr, &id("/web")).await
}

/// Three tiers, whose issuing authority is in Vault. Returns the root; what is
/// above the issuing authority is gone.
fn three_tiers(vault: &Vault, whole_chain: bool) -> String {
    let root = OfflineAuthority::root("offline root").unwrap();
    let intermediate = root.intermediate("offline intermediate").unwrap();
    let issuer = vault.add_issuer("issuing", |request| {
        let above = if whole_chain {
            intermediate.certificate()?
        } else {
            String::new()
        };
        Ok(intermediate.sign(request)? + &above)
    });
    vault.sign_by(&issuer.unwrap()).unwrap();
    root.certificate().unwrap()
}

#[tokio::test]
async fn a_chain_of_three_tiers_verifies_with_the_root_alone() {
    let vault = Vault::start().unwrap();
    let root = three_tiers(&vault, true);
    vault.write("root.pem", &root).unwrap();
    let svid = issue(&vault).await.unwrap();
    assert_eq!(svid.chain().len(), 3, "leaf, issuing and intermediate authority");
    for (number, der) in svid.chain().iter().enumerate() {
        std::fs::write(vault.folder().join(format!("{number}.der")), der).unwrap();
        let words = format!("x509 -inform der -in {number}.der -out {number}.pem");
        openssl(&words, vault.folder()).unwrap();
    }
    let verify = |untrusted: &str| openssl(&format!("verify -CAfile root.pem {untrusted} 0.pem"), vault.folder());
    verify("-untrusted 1.pem -untrusted 2.pem").unwrap();
    verify("-untrusted 1.pem").unwrap_err();
}

#[tokio::test]
async fn what_is_missing_in_a_chain_is_named_with_the_way_to_mend_it() {
    let vault = Vault::start().unwrap();
    let incomplete = three_tiers(&vault, false);
    vault.write("root.pem", &incomplete).unwrap();
    let error = issue(&vault).await.unwrap_err();
    assert_eq!(error.label(), "untrusted-issuer");
    let error = error.to_string();
    for wanted in [
        "\"CN=issuing\"",
        "\"CN=offline intermediate\"",
        "intermediate/set-signed",
        "CN=offline root",
    ] {
        assert!(error.contains(wanted), "{wanted} in {error}");
    }
}

#[tokio::test]
async fn a_root_that_root_file_lacks_is_named() {
    let vault = Vault::start().unwrap();
    three_tiers(&vault, true);
    let error = issue(&vault).await.unwrap_err();
    assert_eq!(error.label(), "untrusted-issuer");
    let error = error.to_string();
    for wanted in ["\"CN=offline root\"", "`rootFile`", "[\"CN=root\"]"] {
        assert!(error.contains(wanted), "{wanted} in {error}");
    }
}

/// The next version of the bundle that a proxy is told, with its nonce.
async fn next_bundle(subscriber: &mut harness::Subscriber) -> (u64, String, usize) {
    loop {
        let update = subscriber.next().await;
        if let Some(Resource::Bundle(bundle)) = update.resource {
            return (update.version, update.nonce, bundle.trust_domains[0].roots.len());
        }
    }
}

#[tokio::test]
async fn a_leaf_of_a_new_root_waits_until_proxies_know_the_root() {
    let vault = Vault::start().unwrap();
    let place = Place::with_authority(settings(&vault));
    let plane = place.start(Vec::new()).await.unwrap();
    let workload = plane.workload("/web").await;
    let mut subscriber = plane.subscribe(&workload).await.unwrap();
    subscriber.hello().await;
    let (_, nonce, roots) = next_bundle(&mut subscriber).await;
    assert_eq!(roots, 1);
    subscriber.send(Message::Ack(Ack { nonce })).await;

    let new = three_tiers(&vault, true);
    let old = std::fs::read_to_string(vault.root_file()).unwrap();
    vault.write("root.pem", &[old.as_str(), "\n", &new].concat()).unwrap();
    let (version, nonce, roots) = next_bundle(&mut subscriber).await;
    assert_eq!((version, roots), (2, 2));
    let began = Instant::now();
    while plane.bundle() == workload.bundle() {
        assert!(began.elapsed() < Duration::from_secs(60), "bundle.pem is not rewritten");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    let key = Key::new();
    let mut renewal = Box::pin(plane.renew(&workload, key.csr("/web")));
    // A leaf that were not withheld would be there within milliseconds.
    let early = tokio::time::timeout(Duration::from_secs(2), &mut renewal).await;
    assert!(early.is_err(), "given out before the proxy knew its root");
    assert_eq!(
        vault.signed().unwrap().len(),
        3,
        "the control plane's, the first one, and the withheld one"
    );
    subscriber.send(Message::Ack(Ack { nonce })).await;
    let answer = (&mut renewal).await.unwrap();
    drop(renewal);
    assert!(began.elapsed() < Duration::from_secs(9), "it was the acknowledgement");
    assert_eq!((answer.bundle_epoch, answer.bundle_version), (1, 2));
    assert_eq!(answer.chain.len(), 3);
    plane.stop().await;
}

#[tokio::test]
async fn a_proxy_that_refuses_the_bundle_delays_a_leaf_by_ten_seconds_and_no_call_by_its_deadline() {
    let vault = Vault::start().unwrap();
    let place = Place::with_authority(settings(&vault));
    let plane = place.start(Vec::new()).await.unwrap();
    let workload = plane.workload("/web").await;
    let mut subscriber = plane.subscribe(&workload).await.unwrap();
    subscriber.hello().await;
    let (_, nonce, _) = next_bundle(&mut subscriber).await;
    subscriber.send(Message::Ack(Ack { nonce })).await;
    let new = three_tiers(&vault, true);
    let old = std::fs::read_to_string(vault.root_file()).unwrap();
    vault.write("root.pem", &[old.as_str(), "\n", &new].concat()).unwrap();
    let (_, nonce, _) = next_bundle(&mut subscriber).await;
    let reason = "not to my taste".into();
    subscriber.send(Message::Nack(Nack { nonce, reason })).await;
    let began = Instant::now();
    let answer = plane.renew(&workload, Key::new().csr("/web")).await.unwrap();
    assert_eq!(answer.chain.len(), 3);
    assert!(began.elapsed() > Duration::from_secs(5), "{:?}", began.elapsed());
    plane.stop().await;
}
