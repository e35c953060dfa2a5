//! Logins to a real Vault with service accounts of a real Kubernetes API
//! server. Not among the ordinary tests, since building that takes ten minutes:
//! `scripts/test-kubernetes` runs it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use watchword_control_plane::authority::VaultAuthority;
use watchword_control_plane::csr::Csr;
use watchword_control_plane::issuer::{IssueError, Issuer};
use watchword_control_plane::mesh_file::{AuthorityChoice, MeshFile};
use watchword_control_plane::metrics::ControlMetrics;
use watchword_daemon::{Clock, Metrics, SystemClock};
use watchword_identity::{SpiffeId, Svid, TrustDomain};
use watchword_tests::{Kubernetes, Vault};

const LOGIN: &str = "auth/kubernetes/login";
const ACCOUNT: &str = "control-plane";

/// With the token file `token` beside Vault's own files.
fn issuer(vault: &Vault) -> Issuer {
    let token = vault.folder().join("token");
    let authority = vault.authority(&format!(
        "{{kubernetes: {{role: mesh, tokenFile: {}}}}}",
        token.display()
    ));
    let text = format!("trustDomain: example.org\nservices: {{}}\n{authority}\n");
    let mesh = MeshFile::parse("/mesh.yaml", &text, vault.folder()).unwrap();
    let AuthorityChoice::Vault(settings) = mesh.authority else {
        panic!("{text}");
    };
    let authority = VaultAuthority::open(&settings, &TrustDomain::new("example.org").unwrap()).unwrap();
    let metrics = ControlMetrics::new(&Metrics::new().unwrap());
    let ttl = Duration::from_secs(3600);
    Issuer::new(Arc::new(authority), ttl, Arc::new(SystemClock), metrics)
}

async fn issue(issuer: &Issuer) -> Result<Svid, IssueError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI("spiffe://example.org/web".try_into().unwrap())];
    let request = params.serialize_request(&KeyPair::generate().unwrap()).unwrap();
    let id = SpiffeId::new("spiffe://example.org/web").unwrap();
    issuer.issue(&Csr::from_der(request.der()).unwrap(), &id).await
}

fn revoke(vault: &Vault) {
    vault.run(&["lease", "revoke", "-force", "-prefix", LOGIN]).unwrap();
}

/// Why there is no certificate; without a word of the token.
async fn refusal(issuer: &Issuer, token: &str) -> String {
    let error = issue(issuer).await.unwrap_err();
    assert_eq!(error.label(), "authority-unavailable");
    let shown = format!("{error} {error:?} {issuer:?}");
    for part in token.split('.') {
        assert!(!shown.contains(part), "{shown}");
    }
    error.to_string()
}

#[tokio::test]
async fn a_service_account_logs_in_and_the_next_login_is_with_the_token_that_replaced_the_first() {
    let kubernetes = Kubernetes::start().unwrap();
    kubernetes.service_account(ACCOUNT).unwrap();
    kubernetes.secret("first").unwrap();
    let vault = kubernetes.vault().unwrap();
    let logins = || vault.answers(LOGIN).unwrap();
    let first = kubernetes.token(ACCOUNT, "vault", Some("first")).unwrap();
    vault.write("token", &first).unwrap();
    let issuer = issuer(&vault);
    let svid = issue(&issuer).await.unwrap();
    assert_eq!(vault.signed().unwrap(), [svid.serial()]);

    let second = kubernetes.token(ACCOUNT, "vault", None).unwrap();
    vault.write("token", &second).unwrap();
    for _ in 0..3 {
        issue(&issuer).await.unwrap();
    }
    assert_eq!(logins(), 1, "a change of the file alone leads to no login");

    // Takes the first token with it; that would log in no more.
    kubernetes.delete_secret("first").unwrap();
    kubernetes.wait_until_refused(&first).unwrap();
    revoke(&vault);
    issue(&issuer).await.unwrap();
    assert_eq!(logins(), 2);
    vault.write("token", &first).unwrap();
    revoke(&vault);
    refusal(&issuer, &first).await;
}

#[tokio::test]
async fn a_token_of_another_audience_or_account_is_refused_with_the_reason() {
    let kubernetes = Kubernetes::start().unwrap();
    kubernetes.service_account(ACCOUNT).unwrap();
    kubernetes.service_account("somebody").unwrap();
    let vault = kubernetes.vault().unwrap();
    for (account, audience, reason) in [
        (ACCOUNT, "another", "audience"),
        ("somebody", "vault", "service account name not authorized"),
    ] {
        let token = kubernetes.token(account, audience, None).unwrap();
        let file = vault.write("token", &token).unwrap();
        let error = refusal(&issuer(&vault), &token).await;
        let file = file.display().to_string();
        for part in [
            "can't log in to Vault by Kubernetes: ",
            reason,
            &file,
            "auth/kubernetes",
        ] {
            assert!(error.contains(part), "{error}\nexpected {part}");
        }
    }
}

#[tokio::test]
async fn a_deleted_service_account_can_not_log_in_and_takes_nothing_back() {
    let kubernetes = Kubernetes::start().unwrap();
    kubernetes.service_account(ACCOUNT).unwrap();
    let vault = kubernetes.vault().unwrap();
    let token = kubernetes.token(ACCOUNT, "vault", None).unwrap();
    vault.write("token", &token).unwrap();
    let issuer = issuer(&vault);
    let svid = issue(&issuer).await.unwrap();
    kubernetes.delete_service_account(ACCOUNT).unwrap();
    // Vault's token is good until its end, or until somebody revokes it.
    issue(&issuer).await.unwrap();
    kubernetes.wait_until_refused(&token).unwrap();
    revoke(&vault);
    let error = refusal(&issuer, &token).await;
    assert!(error.contains("can't log in to Vault by Kubernetes: "), "{error}");
    let now: SystemTime = SystemClock.now();
    assert!(svid.not_after() > now, "what was signed is good for as long as it says");

    kubernetes.service_account(ACCOUNT).unwrap();
    let token = kubernetes.token(ACCOUNT, "vault", None).unwrap();
    vault.write("token", &token).unwrap();
    let began = Instant::now();
    while let Err(error) = issue(&issuer).await {
        assert!(began.elapsed() < Duration::from_secs(90), "{error}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
