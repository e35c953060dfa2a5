//! Issuance by a real Vault.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    missing_docs
)]

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, SanType};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use watchword_control_plane::authority::VaultAuthority;
use watchword_control_plane::csr::Csr;
use watchword_control_plane::issuer::{Distrust, Expectation, IssueError, Issuer, distrust};
use watchword_control_plane::mesh_file::{AuthorityChoice, MeshFile};
use watchword_control_plane::metrics::ControlMetrics;
use watchword_daemon::{Clock, ManualClock, Metrics, SystemClock};
use watchword_identity::{SpiffeId, Svid, TrustDomain};
use watchword_tests::{MOUNT, Vault};

const TTL: Duration = Duration::from_secs(3600);

fn id(path: &str) -> SpiffeId {
    SpiffeId::new(format!("spiffe://example.org{path}")).unwrap()
}

fn request(uris: &[&str]) -> (KeyPair, rcgen::CertificateSigningRequest) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let uris = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap()));
    params.subject_alt_names = uris.collect();
    let request = params.serialize_request(&key).unwrap();
    (key, request)
}

fn csr(uri: &str) -> Csr {
    Csr::from_der(request(&[uri]).1.der()).unwrap()
}

/// As a mesh file sets it up.
fn issuer(vault: &Vault, role: &str, auth: &str) -> Issuer {
    let authority = vault
        .authority(auth)
        .replacen("role: mesh", &format!("role: {role}"), 1);
    issuer_of(&authority, vault.folder())
}

fn issuer_of(authority: &str, folder: &Path) -> Issuer {
    issuer_by(Arc::new(SystemClock), authority, folder)
}

fn issuer_by(clock: Arc<dyn Clock>, authority: &str, folder: &Path) -> Issuer {
    let text = format!("trustDomain: example.org\nservices: {{}}\n{authority}\n");
    let mesh = MeshFile::parse("/mesh.yaml", &text, folder).unwrap();
    let AuthorityChoice::Vault(settings) = mesh.authority else {
        panic!("{text}");
    };
    let authority = VaultAuthority::open(&settings, &TrustDomain::new("example.org").unwrap()).unwrap();
    let metrics = ControlMetrics::new(&Metrics::new().unwrap());
    Issuer::new(Arc::new(authority), TTL, clock, metrics)
}

async fn issue(issuer: &Issuer) -> Result<Svid, IssueError> {
    issuer.issue(&csr("spiffe://example.org/web"), &id("/web")).await
}

/// Until it succeeds, as callers do.
async fn issue_in_the_end(issuer: &Issuer) -> Svid {
    let began = Instant::now();
    loop {
        match issue(issuer).await {
            Ok(svid) => return svid,
            Err(error) => assert!(began.elapsed() < Duration::from_secs(90), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn pem(chain: &[CertificateDer<'_>]) -> String {
    let encode = |der: &CertificateDer<'_>| {
        use base64::Engine;
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
    };
    chain.iter().map(encode).collect()
}

#[tokio::test]
async fn a_leaf_comes_from_vault_and_stands_in_its_audit_log() {
    let vault = Vault::start().unwrap();
    let token = vault.token_file(&[]).unwrap();
    let issuer = issuer(&vault, "mesh", &format!("{{tokenFile: {}}}", token.display()));
    let svid = issue(&issuer).await.unwrap();
    assert_eq!(svid.chain().len(), 2, "leaf and intermediate, without the root");
    assert_eq!(vault.signed().unwrap(), [svid.serial()]);
    let chain = vault.write("chain.pem", &pem(svid.chain())).unwrap();
    vault.verify_by_openssl(&chain).unwrap();
    let left = svid.not_after().duration_since(SystemClock.now()).unwrap();
    assert!(left <= TTL && left > TTL / 2, "{left:?}");
}

#[tokio::test]
async fn what_a_widened_role_signs_is_withheld() {
    let vault = Vault::start().unwrap();
    let token = vault.token_file(&[]).unwrap();
    let cases: [(&str, &[&str], &str); 7] = [
        ("names-a-unit", &["ou=ops"], "signed-subject"),
        // Vault itself does not take a lifetime then.
        (
            "ends-when-it-likes",
            &["not_after=2035-01-01T00:00:00Z"],
            "authority-refused",
        ),
        ("signs-code", &["code_signing_flag=true"], "signed-extended-key-usage"),
        (
            "signs-certificates",
            &["key_usage=DigitalSignature,CertSign"],
            "leaf-may-sign",
        ),
        (
            "is-no-leaf",
            &["basic_constraints_valid_for_non_ca=false"],
            "signed-no-basic-constraints",
        ),
        // The request, not the decision, says who it is for.
        ("believes-requests", &["use_csr_sans=true"], "signed-other-id"),
        (
            "signs-for-strangers",
            &["use_csr_sans=true", "allowed_uri_sans=*"],
            "unknown-trust-domain",
        ),
    ];
    for (role, changes, label) in cases {
        vault.role(role, changes).unwrap();
        let issuer = issuer(&vault, role, &format!("{{tokenFile: {}}}", token.display()));
        let asked = csr(match role {
            "signs-for-strangers" => "spiffe://example.com/web",
            _ => "spiffe://example.org/admin",
        });
        let error = issuer.issue(&asked, &id("/web")).await.unwrap_err();
        assert_eq!(error.label(), label, "{role}: {error}");
    }
    // Vault signed all but the one that has an end of its own.
    assert_eq!(vault.signed().unwrap().len(), cases.len() - 1);
}

#[tokio::test]
async fn two_names_that_vault_signs_for_one_request_are_withheld() {
    let vault = Vault::start().unwrap();
    vault.role("wide", &["use_csr_sans=true"]).unwrap();
    let (key, two) = request(&["spiffe://example.org/web", "spiffe://example.org/admin"]);
    let csr = format!("csr={}", two.pem().unwrap());
    let signed = vault
        .run(&["write", "-field=certificate", &format!("{MOUNT}/sign/wide"), &csr])
        .unwrap();
    let token = vault.token_file(&[]).unwrap();
    let issuer = issuer(&vault, "wide", &format!("{{tokenFile: {}}}", token.display()));
    let leaf = CertificateDer::from_pem_slice(signed.as_bytes()).unwrap();
    let intermediate = issue(&issuer).await.unwrap().chain()[1].clone();
    let now = SystemClock.now();
    let expected = Expectation {
        id: &id("/web"),
        public_key: &rcgen::PublicKeyData::subject_public_key_info(&key),
        ends_by: now + 1000 * TTL,
        now,
    };
    let error = distrust(vec![leaf, intermediate], &expected, &issuer.bundle()).unwrap_err();
    assert!(matches!(error, Distrust::Verify(_)), "{error}");
    assert!(error.label().contains("uri"), "{}", error.label());
}

#[tokio::test]
async fn an_app_role_logs_in_again_when_its_token_is_revoked() {
    let vault = Vault::start().unwrap();
    let (role_id, _) = vault.app_role(&[]).unwrap();
    let generate = [
        "write",
        "-f",
        "-wrap-ttl=120s",
        "-field=wrapping_token",
        "auth/approle/role/mesh/secret-id",
    ];
    let wrapped = vault.write("wrapped", &vault.run(&generate).unwrap()).unwrap();
    let auth = format!(
        "{{appRole: {{roleIdFile: {}, secretIdFile: {}, secretIdWrapped: true}}}}",
        role_id.display(),
        wrapped.display()
    );
    let issuer = issuer(&vault, "mesh", &auth);
    issue(&issuer).await.unwrap();
    vault
        .run(&["lease", "revoke", "-force", "-prefix", "auth/approle/login"])
        .unwrap();
    issue(&issuer).await.unwrap();
    // The wrapping opened once: the secret ID is still known.
    assert_eq!(vault.signed().unwrap().len(), 2);
    let again = self::issuer(&vault, "mesh", &auth);
    let error = issue(&again).await.unwrap_err().to_string();
    assert!(error.contains("can't be unwrapped"), "{error}");
    assert!(
        !error.contains(std::fs::read_to_string(&wrapped).unwrap().trim()),
        "{error}"
    );
}

#[tokio::test]
async fn tokens_are_renewed_and_replaced_at_their_maximum() {
    let vault = Vault::start().unwrap();
    let (role_id, secret_id) = vault.app_role(&["token_ttl=4s", "token_max_ttl=9s"]).unwrap();
    let auth = format!(
        "{{appRole: {{roleIdFile: {}, secretIdFile: {}}}}}",
        role_id.display(),
        secret_id.display()
    );
    let issuer = issuer(&vault, "mesh", &auth);
    issue(&issuer).await.unwrap();
    let audit = || std::fs::read_to_string(vault.folder().join("audit.log")).unwrap();
    let count = |path: &str| {
        let path = format!("\"path\":\"{path}\"");
        audit()
            .lines()
            .filter(|line| line.contains("\"type\":\"response\"") && line.contains(&path))
            .count()
    };
    let began = Instant::now();
    while count("auth/token/renew-self") < 1 || count("auth/approle/login") < 2 {
        assert!(began.elapsed() < Duration::from_secs(90), "{}", audit());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    issue(&issuer).await.unwrap();
}

#[tokio::test]
async fn a_new_token_file_is_taken_without_a_restart() {
    let vault = Vault::start().unwrap();
    let token = vault.token_file(&[]).unwrap();
    let first = std::fs::read_to_string(&token).unwrap();
    let issuer = issuer(&vault, "mesh", &format!("{{tokenFile: {}}}", token.display()));
    issue(&issuer).await.unwrap();
    vault.run(&["token", "revoke", first.trim()]).unwrap();
    let error = issue(&issuer).await.unwrap_err();
    assert_eq!(error.label(), "authority-unavailable");
    assert!(
        !format!("{error} {error:?} {issuer:?}").contains(first.trim()),
        "{error:?}"
    );
    vault.token_file(&[]).unwrap();
    issue(&issuer).await.unwrap();
}

#[tokio::test]
async fn a_sealed_vault_is_named_as_the_reason_and_serves_again_when_unsealed() {
    let vault = Vault::start().unwrap();
    let token = vault.token_file(&[]).unwrap();
    let issuer = issuer(&vault, "mesh", &format!("{{tokenFile: {}}}", token.display()));
    issue(&issuer).await.unwrap();
    vault.seal().unwrap();
    for _ in 0..20 {
        let error = issue(&issuer).await.unwrap_err();
        assert_eq!(error.label(), "authority-unavailable");
        assert!(error.to_string().contains("503: Vault is sealed"), "{error}");
    }
    vault.unseal().unwrap();
    issue_in_the_end(&issuer).await;
    assert_eq!(issuer.authority().name(), "vault");
}

/// No other authority vouches for Vault than the one in `caFile`.
#[tokio::test]
async fn a_vault_with_a_certificate_of_another_authority_gets_no_token() {
    let vault = Vault::start().unwrap();
    let token = vault.token_file(&[]).unwrap();
    let mut other = CertificateParams::default();
    other.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let other = other.self_signed(&KeyPair::generate().unwrap());
    let other = vault.write("other-ca.pem", &other.unwrap().pem()).unwrap();
    let text = vault.authority(&format!("{{tokenFile: {}}}", token.display()));
    let text = text.replace(&vault.ca_file().display().to_string(), &other.display().to_string());
    let issuer = issuer_of(&text, vault.folder());
    let error = issue(&issuer).await.unwrap_err();
    assert_eq!(error.label(), "authority-unavailable");
    let text = error.to_string();
    assert!(
        text.contains(&vault.address()) && text.contains("UnknownIssuer"),
        "{text}"
    );
    let audit = std::fs::read_to_string(vault.folder().join("audit.log")).unwrap();
    assert!(!audit.contains("auth/token/lookup-self"), "the token left");
}

/// Makes certificates to log in with.
struct Clients {
    pem: String,
    issuer: rcgen::Issuer<'static, KeyPair>,
}

impl Clients {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "clients");
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = rcgen::Issuer::new(params, key);
        Self { pem, issuer }
    }

    fn certificate(&self, name: &str) -> (String, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![
            rcgen::ExtendedKeyUsagePurpose::ClientAuth,
            rcgen::ExtendedKeyUsagePurpose::ServerAuth,
        ];
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key)
    }

    /// Writes a certificate and its key; what goes into the mesh file for them.
    fn write(&self, vault: &Vault, name: &str) -> String {
        let (certificate, key) = self.certificate(name);
        let certificate = vault.write("client.pem", &certificate).unwrap();
        let key = write_key(vault, &key);
        format!("certFile: {}, keyFile: {}", certificate.display(), key.display())
    }
}

fn write_key(vault: &Vault, key: &KeyPair) -> PathBuf {
    let path = vault.write("client.key", &key.serialize_pem()).unwrap();
    set_mode(&path, 0o600);
    path
}

fn set_mode(path: &std::path::Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

const CERTIFICATE_LOGIN: &str = "auth/cert/login";

#[tokio::test]
async fn a_certificate_logs_in_and_once_more_when_its_token_is_revoked() {
    let (vault, clients) = (Vault::start().unwrap(), Clients::new());
    vault.certificate_login(&clients.pem, &[]).unwrap();
    let files = clients.write(&vault, "control-plane");
    for auth in ["{certificate: {role: mesh}}", "{certificate: {}}"] {
        let before = vault.answers(CERTIFICATE_LOGIN).unwrap();
        let issuer = issuer(&vault, "mesh", &format!("{auth}, {files}"));
        issue(&issuer).await.unwrap();
        issue(&issuer).await.unwrap();
        assert_eq!(vault.answers(CERTIFICATE_LOGIN).unwrap() - before, 1);
        vault
            .run(&["lease", "revoke", "-force", "-prefix", CERTIFICATE_LOGIN])
            .unwrap();
        issue(&issuer).await.unwrap();
        issue(&issuer).await.unwrap();
        assert_eq!(vault.answers(CERTIFICATE_LOGIN).unwrap() - before, 2);
    }
}

#[tokio::test]
async fn a_certificate_that_vault_does_not_know_is_refused_with_the_reason_and_its_file() {
    let (vault, clients, strangers) = (Vault::start().unwrap(), Clients::new(), Clients::new());
    vault
        .certificate_login(&clients.pem, &["allowed_common_names=control-plane"])
        .unwrap();
    for (from, name) in [(&strangers, "control-plane"), (&clients, "somebody-else")] {
        let files = from.write(&vault, name);
        let issuer = issuer(&vault, "mesh", &format!("{{certificate: {{role: mesh}}}}, {files}"));
        let error = issue(&issuer).await.unwrap_err();
        assert_eq!(error.label(), "authority-unavailable");
        let key = std::fs::read_to_string(vault.folder().join("client.key")).unwrap();
        assert!(!quotes(&format!("{error} {error:?} {issuer:?}"), &key), "{error:?}");
        for part in [
            "can't log in to Vault by certificate: Vault says 40",
            "client.pem",
            "auth/cert",
        ] {
            assert!(error.to_string().contains(part), "{error}\nexpected {part}");
        }
    }
}

#[tokio::test]
async fn the_next_login_shows_the_certificate_that_replaced_the_first() {
    let (vault, clients) = (Vault::start().unwrap(), Clients::new());
    let role = &["allowed_common_names=first,second", "token_ttl=4s", "token_max_ttl=5s"];
    vault.certificate_login(&clients.pem, role).unwrap();
    let files = clients.write(&vault, "first");
    let issuer = issuer(&vault, "mesh", &format!("{{certificate: {{role: mesh}}}}, {files}"));
    issue(&issuer).await.unwrap();
    let logins = |name: &str| {
        let audit = std::fs::read_to_string(vault.folder().join("audit.log")).unwrap();
        let name = format!("\"cert_name\":\"mesh\",\"common_name\":\"{name}\"");
        let is_login = |line: &&str| {
            let parts = ["\"type\":\"response\"", "\"path\":\"auth/cert/login\"", &name];
            parts.iter().all(|part| line.contains(part))
        };
        audit.lines().filter(is_login).count()
    };
    assert!(logins("first") > 0);
    assert_eq!(logins("second"), 0);
    clients.write(&vault, "second");
    let began = Instant::now();
    while logins("second") == 0 {
        assert!(began.elapsed() < Duration::from_secs(90), "no login with the second");
        issue_in_the_end(&issuer).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let firsts = logins("first");
    issue_in_the_end(&issuer).await;
    let seconds = logins("second");
    while logins("second") == seconds {
        assert!(
            began.elapsed() < Duration::from_secs(90),
            "no second login with the second"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(logins("first"), firsts, "the first is shown no more");
}

/// Whether a text holds some of a key, as it is or as a list of numbers.
fn quotes(text: &str, key: &str) -> bool {
    let line = key.lines().nth(1).unwrap();
    let numbers = format!("{:?}", &line.as_bytes()[..16]);
    text.contains(line) || text.contains(numbers.trim_matches(['[', ']']))
}

/// Its first two lines as one: no beginning of a section.
fn broken(key: &str) -> String {
    key.replacen("-----\n", "", 1)
}

#[tokio::test]
async fn files_of_a_certificate_that_are_of_no_use_are_named_and_those_before_them_serve_on() {
    let (vault, clients) = (Vault::start().unwrap(), Clients::new());
    vault.certificate_login(&clients.pem, &[]).unwrap();
    let files = clients.write(&vault, "control-plane");
    let auth = format!("{{certificate: {{role: mesh}}}}, {files}");
    let key = vault.folder().join("client.key");
    let good = std::fs::read_to_string(&key).unwrap();
    let serving = issuer(&vault, "mesh", &auth);
    issue(&serving).await.unwrap();

    let told = async |expected: &str| {
        let error = issue(&issuer(&vault, "mesh", &auth)).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}\nexpected {expected}");
        assert!(!quotes(&error, &good), "{error}");
        vault
            .run(&["lease", "revoke", "-force", "-prefix", CERTIFICATE_LOGIN])
            .unwrap();
        issue(&serving).await.unwrap();
    };
    set_mode(&key, 0o644);
    told("client.key: its mode is 0644").await;
    write_key(&vault, &KeyPair::generate().unwrap());
    told("client.key: no private key in PEM that goes with the certificate in ").await;
    std::fs::remove_file(&key).unwrap();
    told("client.key: No such file").await;
    // The key in the certificate's place, cut off in its first line, which the parser of PEM quotes.
    vault.write("client.key", &good).unwrap();
    set_mode(&key, 0o640);
    vault.write("client.pem", &broken(&good)).unwrap();
    told("client.pem: no certificate in PEM").await;
}

/// A listener of its own that turns everybody away who shows no certificate.
#[tokio::test]
async fn a_listener_that_demands_a_certificate_is_shown_one_whatever_the_login() {
    let clients = Clients::new();
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).unwrap();
        folder.path().join(name).display().to_string()
    };
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (certificate, key) = clients.certificate("127.0.0.1");
    let ca = write("ca.pem", &clients.pem);
    let config = format!(
        "listener \"tcp\" {{\n address = \"127.0.0.1:{port}\"\n tls_cert_file = \"{}\"\n tls_key_file = \"{}\"\n \
         tls_require_and_verify_client_cert = true\n tls_client_ca_file = \"{ca}\"\n}}\n",
        write("server.pem", &certificate),
        write("server.key", &key.serialize_pem()),
    );
    let vault = Vault::start_with(&[&format!("-config={}", write("vault.hcl", &config))]).unwrap();
    let token = vault.token_file(&[]).unwrap();
    let auth = |more: &str| format!("{{tokenFile: {}}}{more}", token.display());
    let issuer = |more: &str| {
        let authority = vault.authority(&auth(more));
        let authority = authority.replace(&vault.address(), &format!("https://127.0.0.1:{port}"));
        issuer_of(
            &authority.replace(&vault.ca_file().display().to_string(), &ca),
            vault.folder(),
        )
    };
    let error = issue(&issuer("")).await.unwrap_err().to_string();
    assert!(error.contains("CertificateRequired"), "{error}");
    let error = issue(&issuer(&format!(", {}", Clients::new().write(&vault, "stranger"))))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("the connection broke: "), "{error}");
    let files = clients.write(&vault, "control-plane");
    issue(&issuer(&format!(", {files}"))).await.unwrap();
}

#[tokio::test]
async fn what_is_revoked_in_vault_is_known_here_and_a_list_that_is_away_stops_nothing() {
    let vault = Vault::start().unwrap();
    let token = vault.token_file(&[]).unwrap();
    let issuer = issuer(&vault, "mesh", &format!("{{tokenFile: {}}}", token.display()));
    let (one, other) = (issue(&issuer).await.unwrap(), issue(&issuer).await.unwrap());
    let authority = issuer.authority();
    authority.maintain(SystemClock.now()).await.unwrap();
    assert!(!authority.has_revoked(one.serial()));
    // The role keeps no certificates, so Vault must be shown the one to revoke.
    let leaf = vault.write("leaf.pem", &pem(&one.chain()[..1])).unwrap();
    let revoke = format!("{MOUNT}/revoke");
    vault
        .run(&["write", &revoke, &format!("certificate=@{}", leaf.display())])
        .unwrap();
    authority.maintain(SystemClock.now()).await.unwrap();
    assert!(authority.has_revoked(one.serial()));
    assert!(!authority.has_revoked(other.serial()));
    vault.seal().unwrap();
    authority.maintain(SystemClock.now()).await.unwrap_err();
    assert!(authority.has_revoked(one.serial()), "the list before stays");
}

#[tokio::test]
async fn clocks_may_differ_by_half_a_minute_and_more_is_named() {
    let vault = Vault::start().unwrap();
    let token = vault.token_file(&[]).unwrap();
    // By default Vault dates leaves back by half a minute.
    vault.role("undated", &["not_before_duration=1s"]).unwrap();
    let usual = vault.authority(&format!("{{tokenFile: {}}}", token.display()));
    let undated = usual.replacen("role: mesh", "role: undated", 1);
    let (now, second) = (SystemClock.now(), Duration::from_secs(1));
    // Vault's clock is ahead of ours by less than its roots are old, or behind it.
    for (ours, authority, expected) in [
        (now - 15 * second, &usual, Ok(())),
        (now - 15 * second, &undated, Err("not-yet-valid")),
        (now + 300 * second, &undated, Ok(())),
    ] {
        let issuer = issuer_by(Arc::new(ManualClock::new(ours)), authority, vault.folder());
        let issued = issue(&issuer).await;
        if let Err(error) = &issued {
            assert!(error.to_string().contains("compare both clocks"), "{error}");
        }
        assert_eq!(issued.map(|_| ()).map_err(|error| error.label()), expected);
    }
}

#[tokio::test]
async fn a_new_secret_id_is_tried_at_once_however_often_the_old_one_failed() {
    let vault = Vault::start().unwrap();
    let (role_id, secret_id) = vault.app_role(&[]).unwrap();
    let auth = format!(
        "{{appRole: {{roleIdFile: {}, secretIdFile: {}}}}}",
        role_id.display(),
        secret_id.display()
    );
    let issuer = issuer(&vault, "mesh", &auth);
    let good = std::fs::read_to_string(&secret_id).unwrap();
    std::fs::write(&secret_id, "none of Vault's").unwrap();
    // Each failed login doubles the pause before the next one.
    let failures = || {
        let audit = std::fs::read_to_string(vault.folder().join("audit.log")).unwrap();
        let is_login = |line: &&str| line.contains("\"type\":\"response\"") && line.contains("auth/approle/login");
        audit.lines().filter(is_login).count()
    };
    let began = Instant::now();
    while failures() < 4 {
        assert!(began.elapsed() < Duration::from_secs(90));
        issue(&issuer).await.unwrap_err();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // At least two seconds by now: too long for one more call to be lucky.
    let error = issue(&issuer).await.unwrap_err().to_string();
    assert!(error.contains("the next login is in"), "{error}");
    vault.write("secret-id", &good).unwrap();
    issue(&issuer).await.unwrap();
}
