//! Peers that each break one rule, with certificates by the mesh's own
//! authority, against sidecars that run: each is refused with a reason of its
//! own in log and metric, in both directions, and nobody else notices.

use std::process::{Child, Stdio};
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};
use watchword_tests::{Mesh, Output};

use crate::apps::{complaint, curl, mesh};
use crate::authority::{Authority, uri, write};
use crate::strangers::{address, counter, in_network, on_the_switch, source_port};

const WEB: &str = "spiffe://example.org/web";
const ORDERS: &str = "spiffe://example.org/orders";
const HOUR: Duration = Duration::from_secs(3600);

#[allow(clippy::disallowed_methods, reason = "a mesh that runs goes by the wall clock")]
fn now() -> SystemTime {
    SystemTime::now()
}

/// What each presents for `id`, with the reason that the other side must give.
fn bad_certificates((authority, root): (&Authority, &Authority), id: &str) -> Vec<(&'static str, String)> {
    let elsewhere = id.replace("example.org", "elsewhere.example");
    let may_not_sign = root.below(|params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature]);
    vec![
        ("untrusted-issuer", Authority::unknown().leaf(id, |_| {})),
        ("unknown-trust-domain", Authority::unknown().leaf(&elsewhere, |_| {})),
        ("unknown-trust-domain", authority.leaf(&elsewhere, |_| {})),
        (
            "expired",
            authority.leaf(id, |params| {
                params.not_before = (now() - 2 * HOUR).into();
                params.not_after = (now() - HOUR).into();
            }),
        ),
        (
            "not-yet-valid",
            authority.leaf(id, |params| params.not_before = (now() + HOUR).into()),
        ),
        ("issuer-may-not-sign", may_not_sign.leaf(id, |_| {})),
        // A workload that signs for others.
        (
            "untrusted-issuer",
            authority
                .below(|params| {
                    params.is_ca = IsCa::ExplicitNoCa;
                    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
                    params.subject_alt_names = vec![uri("spiffe://example.org/lab")];
                })
                .leaf(id, |_| {}),
        ),
        ("chain-too-long", authority.leaf_with_long_chain(id)),
    ]
    .into_iter()
    .chain(bad_leaves(authority, id))
    .collect()
}

/// Leaves that are no X.509-SVIDs.
fn bad_leaves(authority: &Authority, id: &str) -> Vec<(&'static str, String)> {
    let upper = id.replace("example.org", "EXAMPLE.org");
    vec![
        (
            "leaf-is-ca",
            authority.leaf(id, |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        ),
        (
            "several-uri-sans",
            authority.leaf(id, |params| {
                params.subject_alt_names.push(uri("spiffe://example.org/two"))
            }),
        ),
        (
            "no-uri-san",
            authority.leaf(id, |params| params.subject_alt_names.clear()),
        ),
        ("spiffe-id-not-canonical", authority.leaf(&upper, |_| {})),
        ("not-a-spiffe-id", authority.leaf("https://example.org/web", |_| {})),
        ("spiffe-id-without-path", authority.leaf("spiffe://example.org", |_| {})),
        (
            "no-digital-signature",
            authority.leaf(id, |params| params.key_usages = vec![KeyUsagePurpose::KeyAgreement]),
        ),
        (
            "leaf-may-sign",
            authority.leaf(id, |params| params.key_usages.push(KeyUsagePurpose::KeyCertSign)),
        ),
        (
            "extended-key-usage",
            authority.leaf(id, |params| {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning]
            }),
        ),
    ]
}

/// TLS from a port to ADDRESS:PORT with a certificate and a name for ALPN,
/// TLS_VERSION at most, and an OPEN if it comes to that; prints what it got.
const CLIENT: &str = r#"
import socket, ssl, sys
own_port, address, port, alpn, version, certificate = sys.argv[1:7]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
context.maximum_version = ssl.TLSVersion[version]
context.set_alpn_protocols([alpn])
if certificate:
    context.load_cert_chain(certificate)
with socket.create_connection((address, int(port)), 20, ("", int(own_port))) as plain:
    try:
        with context.wrap_socket(plain) as stream:
            stream.sendall(b"\x01\x00\x00\x00\x00\x00\x00\x01")
            answer = stream.recv(100)
            print("ANSWERED" if answer else "REFUSED closed", answer)
    except (ssl.SSLError, ConnectionError) as error:
        print("REFUSED", error)
"#;

struct Attack<'a> {
    reason: &'a str,
    certificate: String,
    alpn: &'a str,
    version: &'a str,
}

fn attack(mesh: &Mesh, target: &str, attack: &Attack<'_>) {
    let reason = attack.reason;
    let handshakes = || {
        let wanted = [
            "watchword_tunnel_handshakes_total",
            "result=\"failed\"",
            &format!("reason=\"{reason}\""),
        ];
        counter(mesh, "orders-1", &wanted)
    };
    let before = handshakes();
    let port = source_port().to_string();
    let client = [
        "python3",
        "-c",
        CLIENT,
        &port,
        target,
        "8080",
        attack.alpn,
        attack.version,
        &attack.certificate,
    ];
    let printed = watchword_tests::run(&mut on_the_switch(mesh, &client)).unwrap();
    assert!(printed.starts_with("REFUSED"), "{reason}: {printed}");
    let (from, wanted) = (format!(":{port} "), format!("reason={reason} "));
    mesh.output()
        .wait_for(&format!("the line of the one with {reason}"), |line| {
            line.contains(&from) && line.contains(&wanted) && line.contains("direction=inbound")
        })
        .unwrap();
    assert_eq!(handshakes(), before + 1, "{reason} is counted once");
}

#[test]
fn each_bad_client_is_refused_with_a_reason_of_its_own_in_log_and_metric() {
    let mesh = mesh();
    let authority = Authority::of(&mesh);
    let target = address(&mesh, "orders-1", 0);
    let present = |pem: &str| write(&mesh, "client.pem", pem);
    for (reason, pem) in bad_certificates((&authority, &Authority::root_of(&mesh)), WEB) {
        // As a sidecar, and as a program that does its own TLS.
        for alpn in ["watchword/1", "http/1.1"] {
            let attacker = Attack {
                reason,
                certificate: present(&pem),
                alpn,
                version: "TLSv1_3",
            };
            attack(&mesh, &target, &attacker);
        }
    }
    // Whom nothing is wrong with, but for the way it speaks.
    let good = present(&authority.leaf(WEB, |_| {}));
    let table = [
        ("no-certificate", "", "watchword/1", "TLSv1_3"),
        ("tls", good.as_str(), "gopher/1", "TLSv1_3"),
        ("tls", good.as_str(), "watchword/1", "TLSv1_2"),
    ];
    for (reason, certificate, alpn, version) in table {
        let certificate = certificate.to_owned();
        attack(
            &mesh,
            &target,
            &Attack {
                reason,
                certificate,
                alpn,
                version,
            },
        );
    }
    // The same client with nothing wrong is let in, so each row was refused for its own fault.
    let client = [
        "python3",
        "-c",
        CLIENT,
        &source_port().to_string(),
        &target,
        "8080",
        "watchword/1",
        "TLSv1_3",
        &good,
    ];
    let printed = watchword_tests::run(&mut on_the_switch(&mesh, &client)).unwrap();
    assert!(printed.contains("ANSWERED b'\\x02"), "{printed}");
    mesh.exec_ok("web", &curl(&["http://orders:8080/"])).unwrap();
}

/// A TLS server that asks for nothing; says when it listens and what it got.
const SERVER: &str = r#"
import socket, ssl, sys
address, port, alpn, certificate = sys.argv[1:5]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate)
context.set_alpn_protocols([alpn])
with socket.create_server((address, int(port))) as listener:
    print("listening", flush=True)
    while True:
        plain, _ = listener.accept()
        plain.settimeout(20)
        try:
            with context.wrap_socket(plain, server_side=True) as stream:
                got = stream.recv(100)
                print("GOT" if got else "nothing", got, flush=True)
        except OSError as error:
            print("nothing", error, flush=True)
"#;

/// Ends with the test.
struct Impostor(Child, Output);

impl Impostor {
    fn start(mesh: &Mesh, address: &str, alpn: &str, certificate: &str) -> Self {
        let server = ["python3", "-c", SERVER, address, "8080", alpn, certificate];
        let mut child = on_the_switch(mesh, &server).stdout(Stdio::piped()).spawn().unwrap();
        let output = Output::of(&mut child);
        let this = Self(child, output);
        this.1.wait_for("the impostor", |line| line == "listening").unwrap();
        this
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn each_bad_server_is_refused_with_a_reason_of_its_own_and_the_app_is_reset() {
    let mesh = mesh();
    let authority = Authority::of(&mesh);
    let orders = address(&mesh, "orders-1", 0);
    // Somebody on the network takes the address of orders.
    let owned = format!("{orders}/16");
    let taken = format!("{orders}/32");
    in_network(&mesh, "orders-1", &["ip", "address", "del", &owned, "dev", "eth0"]);
    watchword_tests::run(&mut on_the_switch(
        &mesh,
        &["ip", "address", "add", &taken, "dev", "mesh"],
    ))
    .unwrap();
    in_network(&mesh, "web-1", &["ip", "neigh", "flush", "dev", "eth0"]);

    let mut table = bad_certificates((&authority, &Authority::root_of(&mesh)), ORDERS);
    table.push(("unexpected-peer", authority.leaf("spiffe://example.org/lab", |_| {})));
    table.push((
        "extended-key-usage",
        authority.leaf(ORDERS, |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]
        }),
    ));
    for (reason, pem) in table {
        call_impostor(&mesh, &orders, reason, ("watchword/1", &pem));
    }
    let honest = authority.leaf(ORDERS, |_| {});
    call_impostor(&mesh, &orders, "not-a-tunnel", ("h2", &honest));
}

fn call_impostor(mesh: &Mesh, address: &str, reason: &str, (alpn, pem): (&str, &str)) {
    let failed = |metric: &str| {
        counter(
            mesh,
            "web-1",
            &[metric, "result=\"failed\"", &format!("reason=\"{reason}\"")],
        )
    };
    let counted = || {
        (
            failed("watchword_tunnel_handshakes_total"),
            failed("watchword_connections_total"),
        )
    };
    let before = counted();
    let lines = mesh.output().text().matches(&format!("reason={reason} ")).count();
    let impostor = Impostor::start(mesh, address, alpn, &write(mesh, "server.pem", pem));
    let app = format!(
        "import socket; s = socket.create_connection(('{address}', 8080), timeout=20); \
         s.sendall(b'a secret'); print(s.recv(1))"
    );
    let said = complaint(&mesh.exec("web", &["python3", "-c", &app]).unwrap());
    assert!(said.contains("ConnectionResetError"), "{reason}: {said}");
    let got = impostor
        .1
        .wait_for("its end", |line| line.starts_with("nothing") || line.starts_with("GOT"));
    assert!(got.as_ref().unwrap().starts_with("nothing"), "{reason}: {got:?}");
    assert_eq!(counted(), (before.0 + 1, before.1 + 1), "{reason} is counted once");
    watchword_tests::wait_until(&format!("the line of the one with {reason}"), || {
        let text = mesh.output().text();
        let of_reason = |line: &&str| line.contains(&format!("reason={reason} "));
        text.lines().filter(of_reason).count() == lines + 1
            && text
                .lines()
                .filter(of_reason)
                .all(|line| line.contains("direction=outbound"))
    })
    .unwrap();
}
