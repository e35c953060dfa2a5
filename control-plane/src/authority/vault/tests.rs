//! Answers that a real Vault can't be made to give, from a server of our own;
//! the true path is in `tests/vault.rs`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex as Lock;

use rcgen::{BasicConstraints, CertificateParams, IsCa};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use watchword_daemon::{Clock, SystemClock};

use super::*;
use crate::mesh_file::{VaultAddress, VaultAuth};
use crate::testing::{domain, id, key, request};

const TOKEN: &str = "hvs.the-token-that-nobody-may-see";
const SECRET_ID: &str = "the-secret-id-that-nobody-may-see";

/// What the server does with a request.
#[derive(Clone)]
enum Step {
    /// Status, more headers, body.
    Answer(u16, &'static str, String),
    /// The head of an answer and a part of its body, then the end.
    Half,
    /// The end, at once.
    Reset,
    /// Nothing.
    Silence,
}

type Seen = Arc<Lock<Vec<String>>>;

/// A server on loopback and the requests that it saw, whole.
async fn server(script: impl Fn(&str) -> Step + Send + Sync + 'static) -> (VaultAddress, Seen) {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Seen::default();
    let (script, record) = (Arc::new(script), Arc::clone(&seen));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, Arc::clone(&script), Arc::clone(&record)));
        }
    });
    let address = VaultAddress {
        tls: false,
        host: "127.0.0.1".into(),
        port,
    };
    (address, seen)
}

async fn serve(mut stream: TcpStream, script: Arc<impl Fn(&str) -> Step>, seen: Seen) -> io::Result<()> {
    while let Some(request) = read_request(&mut stream).await? {
        let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
        seen.lock().unwrap().push(request);
        match script(&path) {
            Step::Answer(status, headers, body) => {
                let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n{headers}\r\n", body.len());
                stream.write_all((head + &body).as_bytes()).await?;
            }
            Step::Half => {
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{\"data\":")
                    .await?;
                return Ok(());
            }
            Step::Reset => return Ok(()),
            Step::Silence => std::future::pending().await,
        }
    }
    Ok(())
}

async fn read_request(stream: &mut TcpStream) -> io::Result<Option<String>> {
    let mut text = String::new();
    loop {
        let mut bytes = [0; 4096];
        let count = stream.read(&mut bytes).await?;
        if count == 0 {
            return Ok(None);
        }
        text.push_str(&String::from_utf8_lossy(&bytes[..count]));
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
            return Ok(Some(text));
        }
    }
}

fn errors(status: u16, text: &str) -> Step {
    Step::Answer(status, "", json!({"errors": [text]}).to_string())
}

fn logged_in() -> Step {
    let auth = json!({"auth": {"client_token": TOKEN, "lease_duration": 3600, "renewable": true}});
    Step::Answer(200, "", auth.to_string())
}

fn certificate() -> String {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.self_signed(&key()).unwrap().pem()
}

fn signed() -> Step {
    Step::Answer(200, "", json!({"data": {"certificate": certificate()}}).to_string())
}

/// An authority with AppRole whose files are in the folder.
fn authority(addresses: Vec<VaultAddress>) -> (VaultAuthority, tempfile::TempDir) {
    authority_with(addresses, |folder| VaultAuth::AppRole {
        mount: "approle".into(),
        role_id_file: written(folder, "role-id", "the-role"),
        secret_id_file: written(folder, "secret-id", SECRET_ID),
        secret_id_wrapped: false,
    })
}

fn written(folder: &Path, name: &str, text: &str) -> PathBuf {
    std::fs::write(folder.join(name), text).unwrap();
    folder.join(name)
}

fn authority_with(
    addresses: Vec<VaultAddress>,
    auth: impl FnOnce(&Path) -> VaultAuth,
) -> (VaultAuthority, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let settings = VaultSettings {
        addresses,
        ca_file: None,
        client_certificate: None,
        namespace: Some("org/team".into()),
        mount: "a/pki".into(),
        role: "mesh".into(),
        root_file: written(folder.path(), "root.pem", &certificate()),
        auth: auth(folder.path()),
    };
    (VaultAuthority::open(&settings, &domain()).unwrap(), folder)
}

#[allow(clippy::disallowed_methods, reason = "nothing depends on the time")]
async fn sign(authority: &VaultAuthority) -> Result<usize, AuthorityError> {
    let csr = request("/web", &key());
    let request = SignRequest {
        csr: &csr,
        id: &id("/web"),
        ttl: Duration::from_secs(60),
        now: SystemClock.now(),
    };
    authority.sign(request).await.map(|chain| chain.len())
}

fn count(seen: &Seen, path: &str) -> usize {
    seen.lock()
        .unwrap()
        .iter()
        .filter(|request| request.contains(path))
        .count()
}

#[tokio::test]
async fn an_unwell_address_is_named_with_its_reason_and_the_next_one_signs() {
    let text = |status| errors(status, "a reason");
    let cases = [
        (text(503), "503: a reason"),
        (text(500), "500: a reason"),
        (text(429), "429: a reason"),
        (text(412), "412: a reason"),
        (text(472), "472: a reason"),
        (text(473), "473: a reason"),
        (
            Step::Answer(307, "location: https://evil.example/v1/x\r\n", String::new()),
            "redirects to https://evil.example",
        ),
        (Step::Answer(200, "", "<html>".into()), "not Vault's"),
        (Step::Answer(200, "", "{\"data\":{}}".into()), "not Vault's"),
        (Step::Answer(200, "", "x".repeat(MAX_TEST_BODY)), "half an answer"),
        (Step::Half, "half an answer"),
        (Step::Reset, "the connection broke"),
        (Step::Silence, "no answer within 3 s"),
    ];
    for (step, reason) in cases {
        let bad = move |path: &str| {
            if path.ends_with("/login") {
                logged_in()
            } else {
                step.clone()
            }
        };
        let (unwell, seen) = server(bad).await;
        let (alone, _folder) = authority(vec![unwell.clone()]);
        let error = sign(&alone).await.unwrap_err();
        assert_eq!(error.label(), "authority-unavailable", "{error}");
        assert!(error.to_string().contains(reason), "{error}\nexpected {reason}");
        // It rests now: nothing is sent, and the reason is still told.
        let before = seen.lock().unwrap().len();
        let error = sign(&alone).await.unwrap_err();
        assert!(error.to_string().contains("not asked again for"), "{error}");
        assert_eq!(seen.lock().unwrap().len(), before, "{reason}");

        let (well, _) = server(|path| {
            if path.ends_with("/login") {
                logged_in()
            } else {
                signed()
            }
        })
        .await;
        let (both, _folder) = authority(vec![unwell, well]);
        assert_eq!(sign(&both).await.unwrap(), 1, "{reason}");
    }
}

const MAX_TEST_BODY: usize = endpoint::MAX_BODY + 1;

#[tokio::test]
async fn a_crowd_does_not_fall_upon_vault_all_at_once() {
    const CROWD: usize = 200;
    let (address, seen) = server(|path| {
        if path.ends_with("/login") {
            logged_in()
        } else {
            Step::Silence
        }
    })
    .await;
    let (authority, _folder) = authority(vec![address]);
    let authority = Arc::new(authority);
    let crowd: Vec<_> = (0..CROWD)
        .map(|_| {
            let authority = Arc::clone(&authority);
            tokio::spawn(async move { sign(&authority).await })
        })
        .collect();
    for one in crowd {
        one.await.unwrap().unwrap_err();
    }
    // Those whose turn comes after the first have failed find an address that rests.
    let asked = count(&seen, "/sign/");
    assert!((1..=endpoint::MAX_AT_ONCE + 2).contains(&asked), "{asked}");
}

#[tokio::test]
async fn an_address_rests_for_as_long_as_it_asks() {
    let (address, _) = server(|path| {
        let body = json!({"errors": ["rate limit"]}).to_string();
        if path.ends_with("/login") {
            logged_in()
        } else {
            Step::Answer(429, "retry-after: 40\r\n", body)
        }
    })
    .await;
    let (authority, _folder) = authority(vec![address]);
    sign(&authority).await.unwrap_err();
    let error = sign(&authority).await.unwrap_err().to_string();
    let rests = ["3", "4"].map(|digit| format!("not asked again for {digit}"));
    // 40 s and a little, while the first rest would be half a second.
    assert!(rests.iter().any(|rest| error.contains(rest)), "{error}");
}

#[tokio::test]
async fn a_refusal_is_final_and_tried_nowhere_else() {
    let (first, _) = server(|path| {
        if path.ends_with("/login") {
            logged_in()
        } else {
            errors(400, "unknown role: mesh")
        }
    })
    .await;
    let (second, seen) = server(|_| signed()).await;
    let (authority, _folder) = authority(vec![first, second]);
    let error = sign(&authority).await.unwrap_err();
    assert_eq!(error.label(), "authority-refused");
    assert!(error.to_string().contains("400: unknown role: mesh"), "{error}");
    assert_eq!(count(&seen, ""), 0);
}

#[tokio::test]
async fn a_403_leads_to_one_new_login_and_then_to_a_pause() {
    let (address, seen) = server(|path| {
        if path.ends_with("/login") {
            logged_in()
        } else {
            errors(403, "permission denied")
        }
    })
    .await;
    let (authority, _folder) = authority(vec![address]);
    let error = sign(&authority).await.unwrap_err();
    assert!(error.to_string().contains("403: permission denied"), "{error}");
    assert_eq!((count(&seen, "/login"), count(&seen, "/sign/")), (2, 2));
    for _ in 0..20 {
        let error = sign(&authority).await.unwrap_err();
        assert_eq!(error.label(), "authority-unavailable");
    }
    // The first pause is of half a second at least, which a slow machine may take for the twenty.
    assert!(count(&seen, "/login") <= 4, "{}", count(&seen, "/login"));
}

#[tokio::test]
async fn calls_carry_the_namespace_and_secrets_are_never_quoted() {
    let leak = format!("{TOKEN} {SECRET_ID}\u{7}");
    let login_fails = leak.clone();
    let (address, seen) = server(move |path| {
        if path.ends_with("/login") {
            logged_in()
        } else {
            errors(400, &leak)
        }
    })
    .await;
    let (first, _folder) = authority(vec![address]);
    let error = sign(&first).await.unwrap_err();
    let (address, _) = server(move |_| errors(400, &login_fails)).await;
    let (second, _folder) = authority(vec![address]);
    let no_login = sign(&second).await.unwrap_err();
    assert!(error.to_string().contains("[secret]"), "{error}");
    assert!(!format!("{error}{error:?}{first:?}").contains(TOKEN), "{error}");
    assert!(
        !format!("{no_login}{no_login:?}{second:?}").contains(SECRET_ID),
        "{no_login}"
    );
    assert!(!error.to_string().contains('\u{7}'));

    let seen = seen.lock().unwrap();
    for request in seen.iter() {
        assert!(request.contains("x-vault-namespace: org/team"), "{request}");
    }
    let signing = seen
        .iter()
        .find(|request| request.starts_with("POST /v1/a/pki/sign/mesh "))
        .unwrap();
    assert!(signing.contains(&format!("x-vault-token: {TOKEN}")), "{signing}");
    assert!(
        signing.contains(r#""uri_sans":"spiffe://example.org/web""#),
        "{signing}"
    );
    assert!(signing.contains(r#""ttl":"60s""#), "{signing}");
}

#[tokio::test]
async fn a_service_accounts_token_is_sent_with_its_role_and_never_quoted() {
    const JWT: &str = "eyJ.the-token-of-a-service-account.sig";
    let (address, seen) = server(|_| errors(403, &format!("bad token {JWT}"))).await;
    let (authority, _folder) = authority_with(vec![address], |folder| VaultAuth::Kubernetes {
        mount: "k8s/eu".into(),
        role: "the-role".into(),
        token_file: written(folder, "token", &format!("{JWT}\n")),
    });
    let error = sign(&authority).await.unwrap_err();
    assert!(error.to_string().contains("bad token [secret]"), "{error}");
    assert!(!format!("{error}{error:?}{authority:?}").contains(JWT), "{error}");
    let seen = seen.lock().unwrap();
    assert!(seen[0].starts_with("POST /v1/auth/k8s/eu/login "), "{}", seen[0]);
    let body = format!("{{\"jwt\":\"{JWT}\",\"role\":\"the-role\"}}");
    assert!(seen[0].ends_with(&body), "{}", seen[0]);
}

#[tokio::test]
async fn one_connection_serves_many_calls() {
    let (address, seen) = server(|path| {
        if path.ends_with("/login") {
            logged_in()
        } else {
            signed()
        }
    })
    .await;
    let (authority, _folder) = authority(vec![address]);
    for _ in 0..5 {
        sign(&authority).await.unwrap();
    }
    assert_eq!((count(&seen, "/login"), count(&seen, "/sign/")), (1, 5));
}

#[test]
fn a_chain_has_neither_roots_nor_anything_twice() {
    let (root, issuer, leaf) = (certificate(), certificate(), certificate());
    let bundle = Bundle::from_pem(domain(), root.as_bytes()).unwrap();
    let data = SignedData {
        certificate: leaf.clone(),
        issuing_ca: Some(issuer.clone()),
        ca_chain: Some(vec![issuer.clone(), root]),
    };
    let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    assert_eq!(chain(&data, &bundle).unwrap(), [der(&leaf), der(&issuer)]);
}
