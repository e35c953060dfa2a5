//! Handshakes between two ends over a pipe: who is accepted, who is refused,
//! and with which reason.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use watchword_identity::{Bundle, SpiffeId, Svid, TrustDomain, Usage};

use super::*;

mod reading;
mod standard;

/// Noon of some day: all certificates are made around it.
fn noon() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

const HOUR: Duration = Duration::from_secs(3600);

struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

type Leaf = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Authority {
    fn new(name: &str) -> Self {
        Self::with(name, |_| {})
    }

    fn ca_params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = (noon() - HOUR).into();
        params.not_after = (noon() + 24 * HOUR).into();
        params
    }

    fn with(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = Self::ca_params(name);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self {
            certificate,
            issuer: Issuer::new(params, key),
        }
    }

    fn intermediate(&self, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = Self::ca_params("intermediate");
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        Self {
            certificate,
            issuer: Issuer::new(params, key),
        }
    }

    fn leaf(&self, id: &str) -> Leaf {
        self.leaf_with(id, |_| {})
    }

    fn leaf_with(&self, id: &str, change: impl FnOnce(&mut CertificateParams)) -> Leaf {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.not_before = (noon() - HOUR).into();
        params.not_after = (noon() + HOUR).into();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        (
            vec![certificate],
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )
    }

    fn bundle(&self) -> Bundle {
        Bundle::new(domain("example.org"), vec![self.certificate.clone()]).unwrap()
    }
}

fn domain(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

fn id(text: &str) -> SpiffeId {
    SpiffeId::new(text).unwrap()
}

const WEB: &str = "spiffe://example.org/web";
const ORDERS: &str = "spiffe://example.org/orders";

fn now() -> Now {
    Now::new(noon)
}

fn credentials(leaf: &Leaf, bundle: Bundle) -> Credentials {
    let credentials = Credentials::new(now());
    credentials
        .publish(&Svid::from_chain(leaf.0.clone()).unwrap(), &leaf.1, bundle)
        .unwrap();
    credentials
}

/// A peer that presents whatever it likes and accepts everybody.
fn reckless(leaf: &Leaf, trusted: &Authority) -> std::sync::Arc<Generation> {
    // Published under a bundle of its own making, so that our checks at
    // publication do not stand in the way.
    let honest = trusted.leaf(WEB);
    let generation = credentials(&honest, trusted.bundle()).current().unwrap();
    generation.presenting(leaf.0.clone(), &leaf.1).into()
}

type Outcome = Result<(TlsStream<DuplexStream>, Peer), HandshakeError>;

async fn shake(client: &Generation, server: &Generation, expected: &str) -> (Outcome, Outcome) {
    let (near, far) = duplex(64 * 1024);
    let expected = id(expected);
    tokio::join!(connect_tunnel(client, near, &expected), accept_tunnel(server, far))
}

#[tokio::test]
async fn two_workloads_prove_their_identities_and_talk() {
    let authority = Authority::new("root");
    let web = credentials(&authority.leaf(WEB), authority.bundle()).current().unwrap();
    let orders = credentials(&authority.leaf(ORDERS), authority.bundle())
        .current()
        .unwrap();
    let (client, server) = shake(&web, &orders, ORDERS).await;
    let ((mut client, orders_seen), (mut server, web_seen)) = (client.unwrap(), server.unwrap());
    assert_eq!((orders_seen.id(), web_seen.id()), (&id(ORDERS), &id(WEB)));
    client.write_all(b"hello").await.unwrap();
    client.flush().await.unwrap();
    let mut text = [0; 5];
    server.read_exact(&mut text).await.unwrap();
    assert_eq!(&text, b"hello");
}

#[tokio::test]
async fn a_chain_with_an_intermediate_is_accepted() {
    let root = Authority::new("root");
    let intermediate = root.intermediate(|_| {});
    let mut web = intermediate.leaf(WEB);
    web.0.push(intermediate.certificate.clone());
    let web = credentials(&web, root.bundle()).current().unwrap();
    let orders = credentials(&root.leaf(ORDERS), root.bundle()).current().unwrap();
    let (client, server) = shake(&web, &orders, ORDERS).await;
    assert!(client.is_ok() && server.is_ok());
}

#[tokio::test]
async fn a_client_sends_nothing_to_a_server_that_is_somebody_else() {
    let authority = Authority::new("root");
    let web = credentials(&authority.leaf(WEB), authority.bundle()).current().unwrap();
    let lab = credentials(&authority.leaf("spiffe://example.org/lab"), authority.bundle())
        .current()
        .unwrap();
    let (client, _) = shake(&web, &lab, ORDERS).await;
    let error = client.map(|_| ()).unwrap_err();
    assert_eq!(error.label(), "unexpected-peer");
    assert_eq!(
        error.to_string(),
        format!("expected {ORDERS}, but spiffe://example.org/lab answered")
    );
}

/// Peers that each break one rule, with the reason that the other side gives.
fn bad_peers(authority: &Authority) -> Vec<(&'static str, Leaf)> {
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    let stranger = Authority::new("root");
    let may_not_sign = authority.intermediate(|params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature]);
    let mut by_one_who_may_not = may_not_sign.leaf(WEB);
    by_one_who_may_not.0.push(may_not_sign.certificate);
    let mut long = authority.leaf(WEB);
    long.0.extend(std::iter::repeat_n(authority.certificate.clone(), 50));
    vec![
        ("untrusted-issuer", stranger.leaf(WEB)),
        ("unknown-trust-domain", authority.leaf("spiffe://other.example/web")),
        (
            "expired",
            authority.leaf_with(WEB, |params| {
                params.not_after = (noon() - Duration::from_secs(1)).into()
            }),
        ),
        (
            "not-yet-valid",
            authority.leaf_with(WEB, |params| params.not_before = (noon() + HOUR / 2).into()),
        ),
        (
            "several-uri-sans",
            authority.leaf_with(WEB, |params| params.subject_alt_names.push(uri(ORDERS))),
        ),
        (
            "no-uri-san",
            authority.leaf_with(WEB, |params| params.subject_alt_names.clear()),
        ),
        ("spiffe-id-not-canonical", authority.leaf("spiffe://EXAMPLE.org/web")),
        (
            "leaf-is-ca",
            authority.leaf_with(WEB, |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        ),
        (
            "leaf-may-sign",
            authority.leaf_with(WEB, |params| params.key_usages.push(KeyUsagePurpose::KeyCertSign)),
        ),
        (
            "extended-key-usage",
            authority.leaf_with(WEB, |params| {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning]
            }),
        ),
        ("issuer-may-not-sign", by_one_who_may_not),
        ("chain-too-long", long),
    ]
}

#[tokio::test]
async fn a_bad_client_is_refused_with_the_reason() {
    let authority = Authority::new("root");
    let orders = credentials(&authority.leaf(ORDERS), authority.bundle())
        .current()
        .unwrap();
    for (reason, leaf) in bad_peers(&authority) {
        let (_, server) = shake(&reckless(&leaf, &authority), &orders, ORDERS).await;
        assert_eq!(server.map(|_| ()).unwrap_err().label(), reason);
    }
}

#[tokio::test]
async fn a_bad_server_is_refused_with_the_reason() {
    let authority = Authority::new("root");
    let web = credentials(&authority.leaf(WEB), authority.bundle()).current().unwrap();
    for (reason, leaf) in bad_peers(&authority) {
        let (client, _) = shake(&web, &reckless(&leaf, &authority), WEB).await;
        assert_eq!(client.map(|_| ()).unwrap_err().label(), reason);
    }
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused_by_a_sidecar_and_let_in_by_the_control_plane() {
    let authority = Authority::new("root");
    let orders = credentials(&authority.leaf(ORDERS), authority.bundle())
        .current()
        .unwrap();
    let anonymous = ControlClient::anonymous(authority.bundle(), now()).unwrap();
    let orders_id = id(ORDERS);

    let (near, far) = duplex(64 * 1024);
    let (_, server) = tokio::join!(anonymous.connect(near, &orders_id), accept_control(&orders, far));
    assert!(server.unwrap().1.is_none());

    let (near, far) = duplex(64 * 1024);
    let (_, server) = tokio::join!(anonymous.connect(near, &orders_id), accept_tunnel(&orders, far));
    // It offers h2 alone, as a foreign peer may, but not without a certificate.
    assert_eq!(server.map(|_| ()).unwrap_err().label(), "no-certificate");

    let no_certificate = orders.without_certificate().unwrap();
    let (_, server) = shake(&no_certificate, &orders, ORDERS).await;
    assert_eq!(server.map(|_| ()).unwrap_err().label(), "no-certificate");
}

/// A foreign client that offers these protocols.
async fn call_as_foreign(
    client: &Generation,
    offers: &[&[u8]],
    (server, port): (&Generation, ForeignProtocol),
) -> (
    Result<TlsStream<DuplexStream>, HandshakeError>,
    Result<Accepted<DuplexStream>, HandshakeError>,
) {
    let mut config = (**client.foreign_client(ForeignProtocol::Any)).clone();
    config.alpn_protocols = offers.iter().map(|name| name.to_vec()).collect();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let (near, far) = duplex(64 * 1024);
    tokio::join!(handshake::connect(connector, near), accept(server, far, port))
}

const TUNNEL: &[u8] = TUNNEL_ALPN;
const LANES: &[u8] = LANES_ALPN;
const H1: &[u8] = b"http/1.1";
const H2: &[u8] = b"h2";
const ODD: &[u8] = b"spdy/3";

#[tokio::test]
async fn what_a_client_offers_tells_tunnels_from_foreign_peers_and_what_is_spoken() {
    use ForeignProtocol::{Any, Http1, Http2};
    let authority = Authority::new("root");
    let web = credentials(&authority.leaf(WEB), authority.bundle()).current().unwrap();
    let orders = credentials(&authority.leaf(ORDERS), authority.bundle())
        .current()
        .unwrap();
    type Case<'a> = (
        &'a [&'a [u8]],
        ForeignProtocol,
        Result<(bool, Option<&'a [u8]>), &'a str>,
    );
    let tunnel = Ok((true, Some(TUNNEL)));
    let foreign = |spoken| Ok((false, spoken));
    let lanes = Ok((true, Some(LANES)));
    let table: [Case<'_>; 22] = [
        (&[TUNNEL], Any, tunnel),
        (&[TUNNEL], Http1, tunnel),
        (&[TUNNEL], Http2, tunnel),
        // Whoever can, speaks it.
        (&[H2, TUNNEL], Any, tunnel),
        (&[H1, H2, TUNNEL], Http1, tunnel),
        // A server that knows lanes prefers them.
        (&[LANES, TUNNEL], Any, lanes),
        (&[H1, TUNNEL, LANES], Http1, lanes),
        (&[LANES], Http2, lanes),
        // Nothing is said of what follows, or nothing is offered.
        (&[], Any, foreign(None)),
        (&[], Http1, foreign(None)),
        (&[], Http2, foreign(None)),
        (&[H1], Any, foreign(None)),
        (&[H2, H1], Any, foreign(None)),
        (&[ODD], Any, foreign(None)),
        // The port decides for those that speak both.
        (&[H2, H1], Http1, foreign(Some(H1))),
        (&[H1, H2], Http2, foreign(Some(H2))),
        (&[H2], Http1, foreign(Some(H2))),
        (&[H1], Http2, foreign(Some(H1))),
        (&[ODD, H1], Http1, foreign(Some(H1))),
        (&[ODD, H2], Http1, foreign(Some(H2))),
        // RFC 7301, section 3.2.
        (&[ODD], Http1, Err("tls")),
        (&[ODD], Http2, Err("tls")),
    ];
    for (offers, port, expected) in table {
        let (client, server) = call_as_foreign(&web, offers, (&orders, port)).await;
        let found = server.as_ref().map(|accepted| match accepted {
            Accepted::Tunnel(stream, peer) => {
                assert_eq!(peer.id(), &id(WEB));
                (true, stream.alpn())
            }
            Accepted::Foreign(stream, peer) => {
                assert_eq!(peer.id(), &id(WEB));
                (false, stream.alpn())
            }
        });
        let found = found.map_err(HandshakeError::label);
        assert_eq!(found, expected, "{offers:?} on a port of {port:?}");
        match expected {
            Ok((_, spoken)) => assert_eq!(client.unwrap().alpn(), spoken),
            Err(_) => assert_eq!(client.map(|_| ()).unwrap_err().label(), "refused-by-peer"),
        }
    }
}

#[tokio::test]
async fn who_wants_lanes_is_content_with_a_server_that_knows_none() {
    let authority = Authority::new("root");
    let web = credentials(&authority.leaf(WEB), authority.bundle()).current().unwrap();
    let orders = || {
        credentials(&authority.leaf(ORDERS), authority.bundle())
            .current()
            .unwrap()
    };
    let mut old = orders().without_certificate().unwrap();
    let mut config = (*old.tunnel_server).clone();
    config.alpn_protocols = vec![TUNNEL.to_vec()];
    old.tunnel_server = std::sync::Arc::new(config);
    for (server, expected) in [(&*orders(), true), (&old, false)] {
        let (near, far) = duplex(64 * 1024);
        let expects = id(ORDERS);
        let (client, server) = tokio::join!(connect_lanes(&web, near, &expects), accept_tunnel(server, far));
        assert_eq!(client.unwrap().0.has_lanes(), expected);
        assert_eq!(server.unwrap().0.has_lanes(), expected);
    }
    let (near, far) = duplex(64 * 1024);
    let (expects, other) = (id(WEB), orders());
    let (client, _) = tokio::join!(connect_lanes(&web, near, &expects), accept_tunnel(&other, far));
    assert_eq!(client.map(|_| ()).unwrap_err().label(), "unexpected-peer");
}

#[tokio::test]
async fn a_foreign_client_must_prove_an_identity_as_everybody_else() {
    let authority = Authority::new("root");
    let orders = credentials(&authority.leaf(ORDERS), authority.bundle())
        .current()
        .unwrap();
    let refused = async |client: &Generation| {
        let (_, server) = call_as_foreign(client, &[], (&orders, ForeignProtocol::Any)).await;
        server.map(|_| ()).unwrap_err().label()
    };
    for (reason, leaf) in bad_peers(&authority) {
        assert_eq!(refused(&reckless(&leaf, &authority)).await, reason);
    }
    assert_eq!(refused(&orders.without_certificate().unwrap()).await, "no-certificate");
}

#[tokio::test]
async fn a_place_for_tunnels_alone_refuses_a_foreign_peer() {
    let authority = Authority::new("root");
    let web = credentials(&authority.leaf(WEB), authority.bundle()).current().unwrap();
    let orders = credentials(&authority.leaf(ORDERS), authority.bundle())
        .current()
        .unwrap();
    let (near, far) = duplex(64 * 1024);
    let (expected, protocol) = (id(ORDERS), ForeignProtocol::Http2);
    let (_, server) = tokio::join!(
        connect_foreign(&web, near, (&expected, protocol)),
        accept_tunnel(&orders, far)
    );
    assert_eq!(server.map(|_| ()).unwrap_err().label(), "not-a-tunnel");
}

#[tokio::test]
async fn a_foreign_server_must_be_whom_the_directory_expects() {
    use ForeignProtocol::{Any, Http1, Http2};
    let authority = Authority::new("root");
    let web = credentials(&authority.leaf(WEB), authority.bundle()).current().unwrap();
    let orders = credentials(&authority.leaf(ORDERS), authority.bundle())
        .current()
        .unwrap();
    let call = async |server: &Generation, expected: &str, protocol| {
        let (near, far) = duplex(64 * 1024);
        let expected = id(expected);
        let (client, _) = tokio::join!(
            connect_foreign(&web, near, (&expected, protocol)),
            accept(server, far, protocol)
        );
        client
    };
    for (protocol, spoken) in [(Any, None), (Http1, Some(H1)), (Http2, Some(H2))] {
        let (stream, peer) = call(&orders, ORDERS, protocol).await.unwrap();
        assert_eq!((peer.id(), stream.alpn()), (&id(ORDERS), spoken));
        let error = call(&orders, WEB, protocol).await.map(|_| ()).unwrap_err();
        assert_eq!(error.label(), "unexpected-peer");
        assert_eq!(error.to_string(), format!("expected {WEB}, but {ORDERS} answered"));
    }
    for (reason, leaf) in bad_peers(&authority) {
        let error = call(&reckless(&leaf, &authority), WEB, Any).await.map(|_| ());
        assert_eq!(error.unwrap_err().label(), reason);
    }
}

#[tokio::test(start_paused = true)]
async fn garbage_and_silence_end_within_the_deadline() {
    let authority = Authority::new("root");
    let orders = credentials(&authority.leaf(ORDERS), authority.bundle())
        .current()
        .unwrap();
    let (mut near, far) = duplex(1024);
    near.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert_eq!(
        accept_tunnel(&orders, far).await.map(|_| ()).unwrap_err().label(),
        "tls"
    );

    let (_silent, far) = duplex(1024);
    let began = tokio::time::Instant::now();
    assert_eq!(
        accept_tunnel(&orders, far).await.map(|_| ()).unwrap_err().label(),
        "timeout"
    );
    assert_eq!(began.elapsed(), Duration::from_secs(5));
}

#[test]
fn a_bad_certificate_never_replaces_a_good_one() {
    let authority = Authority::new("root");
    let good = authority.leaf(WEB);
    let credentials = credentials(&good, authority.bundle());
    let stranger = Authority::new("root").leaf(WEB);
    let svid = Svid::from_chain(stranger.0.clone()).unwrap();
    assert!(credentials.publish(&svid, &stranger.1, authority.bundle()).is_err());
    // Another key than the certificate's.
    let svid = Svid::from_chain(good.0.clone()).unwrap();
    assert!(credentials.publish(&svid, &stranger.1, authority.bundle()).is_err());
    assert!(credentials.publish_bundle(Authority::new("root").bundle()).is_err());
    assert_eq!(credentials.current().unwrap().number(), 1);
    assert_eq!(credentials.publish(&svid, &good.1, authority.bundle()).unwrap(), 2);
}

/// Material that does not fit: what is wrong, a certificate with its key, and
/// the bundle that comes with it.
fn unfit(authority: &Authority, good: &Leaf) -> Vec<(&'static str, Leaf, Bundle)> {
    let second = Duration::from_secs(1);
    let expired = authority.leaf_with(WEB, |params| params.not_after = (noon() - second).into());
    let early = authority.leaf_with(WEB, |params| params.not_before = (noon() + second).into());
    let elsewhere = Authority::new("elsewhere");
    let other_domain = Bundle::new(domain("other.example"), vec![authority.certificate.clone()]).unwrap();
    let mixed = (good.0.clone(), authority.leaf(WEB).1);
    vec![
        ("expired", expired, authority.bundle()),
        ("not-yet-valid", early, authority.bundle()),
        (
            "unknown-trust-domain",
            authority.leaf("spiffe://other.example/web"),
            authority.bundle(),
        ),
        ("unknown-trust-domain", authority.leaf(WEB), other_domain),
        ("untrusted-issuer", elsewhere.leaf(WEB), authority.bundle()),
        ("untrusted-issuer", authority.leaf(WEB), elsewhere.bundle()),
        ("the key of another certificate", mixed, authority.bundle()),
    ]
}

#[tokio::test]
async fn material_that_does_not_fit_leaves_a_working_identity_in_force() {
    let authority = Authority::new("root");
    let good = authority.leaf(WEB);
    let web = credentials(&good, authority.bundle());
    let changes = web.changes();
    for (wrong, leaf, bundle) in unfit(&authority, &good) {
        let svid = Svid::from_chain(leaf.0).unwrap();
        let error = web.publish(&svid, &leaf.1, bundle).unwrap_err();
        match error {
            PublishError::Verify(error) => assert_eq!(error.label(), wrong),
            PublishError::Tls(_) => assert_eq!(wrong, "the key of another certificate"),
            PublishError::NoIdentity => panic!("{wrong}"),
        }
    }
    // A bundle that no longer vouches for our own certificate.
    let elsewhere = Authority::new("elsewhere").bundle();
    let other_domain = Bundle::new(domain("other.example"), vec![authority.certificate.clone()]).unwrap();
    for bundle in [elsewhere, other_domain] {
        assert!(matches!(web.publish_bundle(bundle), Err(PublishError::Verify(_))));
    }
    assert!(!changes.has_changed().unwrap());
    let generation = web.current().unwrap();
    assert_eq!((generation.number(), generation.svid().chain()), (1, &good.0[..]));
    let orders = credentials(&authority.leaf(ORDERS), authority.bundle())
        .current()
        .unwrap();
    let (client, server) = shake(&generation, &orders, ORDERS).await;
    assert!(client.is_ok() && server.is_ok());
}

#[test]
fn an_expired_root_vouches_for_nobody() {
    let root = Authority::with("root", |params| {
        params.not_after = (noon() - Duration::from_secs(1)).into()
    });
    let (chain, _) = root.leaf(WEB);
    let error = verify_chain(chain, &root.bundle(), Usage::Server, noon()).unwrap_err();
    assert_eq!(error.label(), "unknown-trust-domain");
}
