#![allow(clippy::unwrap_used)]

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use tokio_rustls::TlsAcceptor;

use super::*;

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
}

fn authority() -> Authority {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap();
    Authority {
        pem: certificate.pem(),
        der: certificate.der().clone(),
        issuer: Issuer::new(params, key),
    }
}

impl Authority {
    /// In PEM, certificate and key.
    fn leaf(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    fn server(&self, name: &str, clients: Option<&Authority>) -> TlsAcceptor {
        let (certificate, key) = self.leaf(name);
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(clients) => {
                let mut roots = RootCertStore::empty();
                roots.add(clients.der.clone()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let chain = certificates(certificate.as_bytes()).unwrap();
        TlsAcceptor::from(Arc::new(builder.with_single_cert(chain, key).unwrap()))
    }
}

#[tokio::test]
async fn a_look_is_had_at_whatever_a_server_shows() {
    let (authority, other) = (authority(), authority());
    for clients in [None, Some(&other)] {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let server = authority.server("vault.example", clients);
        let (chain, _) = tokio::join!(crate::look_at_server(ours, "another.example"), server.accept(theirs));
        assert_eq!(chain.unwrap().len(), 1);
    }
    let (ours, mut theirs) = tokio::io::duplex(1024);
    let nonsense = async { tokio::io::AsyncWriteExt::write_all(&mut theirs, b"SSH-2.0-nonsense\r\n").await };
    let (chain, _) = tokio::join!(crate::look_at_server(ours, "another.example"), nonsense);
    chain.unwrap_err();
}

/// What the client and the server make of each other.
async fn meet(client: &OutsideClient, host: &str, server: TlsAcceptor) -> (Result<(), HandshakeError>, bool) {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let (ours, theirs) = tokio::join!(client.connect(ours, host), server.accept(theirs));
    (ours.map(|_| ()), theirs.is_ok())
}

#[tokio::test]
async fn a_server_is_known_by_the_pinned_authority_and_its_name_alone() {
    let (pinned, other) = (authority(), authority());
    let client = OutsideClient::new(pinned.pem.as_bytes(), None).unwrap();
    for name in ["vault.example.org", "127.0.0.1", "::1"] {
        let (result, _) = meet(&client, name, pinned.server(name, None)).await;
        assert!(result.is_ok(), "{name}: {result:?}");
        let (result, _) = meet(&client, name, other.server(name, None)).await;
        assert!(matches!(result, Err(HandshakeError::Tls(_))), "{name}: {result:?}");
        let (result, _) = meet(&client, name, pinned.server("other.example.org", None)).await;
        assert!(matches!(result, Err(HandshakeError::Tls(_))), "{name}: {result:?}");
    }
}

#[tokio::test]
async fn a_server_that_asks_for_a_certificate_is_shown_ours() {
    let authority = authority();
    let (chain, key) = authority.leaf("control-plane");
    let shown = ShownCertificate {
        chain: chain.as_bytes(),
        key: key.as_bytes(),
    };
    let with = OutsideClient::new(authority.pem.as_bytes(), Some(&shown)).unwrap();
    let without = OutsideClient::new(authority.pem.as_bytes(), None).unwrap();
    for (client, accepted) in [(with, true), (without, false)] {
        let (_, by_server) = meet(&client, "localhost", authority.server("localhost", Some(&authority))).await;
        assert_eq!(by_server, accepted);
    }
}

#[test]
fn what_is_no_pem_is_refused_and_a_key_is_never_quoted() {
    let authority = authority();
    assert!(matches!(
        OutsideClient::new(b"", None),
        Err(OutsideError::Authorities(_))
    ));
    let (chain, _) = authority.leaf("a");
    let (_, others_key) = authority.leaf("b");
    for key in ["hunter2", &others_key] {
        let shown = ShownCertificate {
            chain: chain.as_bytes(),
            key: key.as_bytes(),
        };
        let error = OutsideClient::new(authority.pem.as_bytes(), Some(&shown)).unwrap_err();
        assert!(matches!(error, OutsideError::Key));
        assert!(!format!("{error} {error:?} {shown:?}").contains(key));
    }
    let broken = "-----BEGIN PRIVATE KEY hunter2";
    let shown = ShownCertificate {
        chain: broken.as_bytes(),
        key: others_key.as_bytes(),
    };
    for error in [
        OutsideClient::new(broken.as_bytes(), None).unwrap_err(),
        OutsideClient::new(authority.pem.as_bytes(), Some(&shown)).unwrap_err(),
    ] {
        let text = format!("{error} {error:?}");
        // Of "hunter2" as a list of numbers.
        assert!(!text.contains("hunter2") && !text.contains("104, 117, 110"), "{text}");
    }
}

#[test]
fn a_host_is_a_name_or_an_address() {
    for (host, good) in [
        ("vault", true),
        ("::1", true),
        ("10.0.0.1", true),
        ("[::1]", false),
        ("a b", false),
    ] {
        assert_eq!(check_host(host).is_ok(), good, "{host}");
    }
}
