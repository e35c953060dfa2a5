//! Attackers on the mesh's own network, and what they get: nothing, with a
//! reason in the log, and nobody else suffers.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use watchword_tests::Mesh;

use crate::apps::{curl, mesh};

/// TLS to ADDRESS:PORT with or without a certificate and a name for ALPN;
/// prints what came of it.
pub(crate) const TLS_CLIENT: &str = r#"
import socket, ssl, sys
address, port, alpn, certificate = sys.argv[1:5]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
if alpn:
    context.set_alpn_protocols([alpn])
if certificate:
    context.load_cert_chain(certificate)
try:
    with context.wrap_socket(socket.create_connection((address, int(port)), timeout=20)) as stream:
        stream.sendall(b"\x01\x00\x00\x00\x00\x00\x00\x01")
        print("ANSWER", stream.recv(100))
except (ssl.SSLError, ConnectionError) as error:
    print("REFUSED", error)
"#;

/// A certificate with its key, as PEM in one file, by an authority that the
/// mesh does not know.
fn forged(folder: &Path, id: &str) -> String {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let issuer = Issuer::new(authority, KeyPair::generate().unwrap());
    let mut leaf = CertificateParams::default();
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
    let key = KeyPair::generate().unwrap();
    let certificate = leaf.signed_by(&key, &issuer).unwrap();
    let path = folder.join("forged.pem");
    std::fs::write(&path, format!("{}{}", certificate.pem(), key.serialize_pem())).unwrap();
    path.to_str().unwrap().to_owned()
}

pub(crate) fn replica(mesh: &Mesh, name: &str) -> serde_json::Value {
    let record = mesh.record().unwrap();
    let replicas = record["replicas"].as_array().unwrap();
    replicas.iter().find(|replica| replica["name"] == name).unwrap().clone()
}

pub(crate) fn address(mesh: &Mesh, name: &str, family: usize) -> String {
    replica(mesh, name)["addresses"][family].as_str().unwrap().to_owned()
}

pub(crate) fn on_the_switch(mesh: &Mesh, command: &[&str]) -> Command {
    with_ip(mesh.in_network_of(mesh.record().unwrap()["switchPid"].as_i64().unwrap(), command))
}

/// A port for who calls from the switch and is told by it in a log. The kernel
/// gives none of these away by itself: where a call that was redirected lately,
/// that of the canary say, came from the same address and port, the next one's
/// port is another for who accepts it.
pub(crate) fn source_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    let port = NEXT.fetch_add(1, Ordering::Relaxed);
    assert!(port < 32_768, "ports from here on may be anybody's");
    port
}

/// Runs a command in a replica's network, with every right there.
pub(crate) fn in_network(mesh: &Mesh, name: &str, command: &[&str]) -> String {
    let holder = replica(mesh, name)["holderPid"].as_i64().unwrap();
    watchword_tests::run(&mut with_ip(mesh.in_network_of(holder, command))).unwrap()
}

/// `ip` is where an ordinary user's PATH does not lead.
fn with_ip(mut command: Command) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command
}

/// The sum of a sidecar's series whose lines hold all of `wanted`.
pub(crate) fn counter(mesh: &Mesh, name: &str, wanted: &[&str]) -> u64 {
    // By IPv6, since tests take IPv4 addresses away.
    let page = format!("http://[{}]:15020/metrics", address(mesh, name, 1));
    let text = watchword_tests::run(&mut on_the_switch(mesh, &curl(&[&page]))).unwrap();
    text.lines()
        .filter(|line| !line.starts_with('#') && wanted.iter().all(|wanted| line.contains(wanted)))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

fn attack(mesh: &Mesh, alpn: &str, certificate: &str, reason: &str) {
    for family in [0, 1] {
        let target = address(mesh, "orders-1", family);
        let client = ["python3", "-c", TLS_CLIENT, &target, "8080", alpn, certificate];
        let printed = watchword_tests::run(&mut on_the_switch(mesh, &client)).unwrap();
        assert!(
            printed.starts_with("REFUSED") || printed.starts_with("ANSWER b''"),
            "{printed}"
        );
    }
    let wanted = format!("reason={reason}");
    mesh.output()
        .wait_for(&wanted, |line| {
            line.contains(&wanted) && line.contains("direction=inbound")
        })
        .unwrap();
    mesh.exec_ok("web", &curl(&["http://orders:8080/"])).unwrap();
}

#[test]
fn a_peer_with_a_certificate_of_another_authority_is_refused() {
    let mesh = mesh();
    let certificate = forged(mesh.file().folder(), "spiffe://example.org/web");
    attack(&mesh, "watchword/1", &certificate, "untrusted-issuer");
}

#[test]
fn a_peer_of_an_unknown_trust_domain_is_refused() {
    let mesh = mesh();
    let certificate = forged(mesh.file().folder(), "spiffe://elsewhere.example/web");
    attack(&mesh, "watchword/1", &certificate, "unknown-trust-domain");
}

#[test]
fn a_peer_without_a_certificate_is_refused() {
    attack(&mesh(), "watchword/1", "", "no-certificate");
}

#[test]
fn a_peer_that_does_not_speak_the_tunnel_protocol_has_to_show_a_certificate_as_well() {
    attack(&mesh(), "http/1.1", "", "no-certificate");
}

#[test]
fn a_service_whose_address_answers_as_somebody_else_is_not_called() {
    let mesh = mesh();
    let orders = address(&mesh, "orders-1", 0);
    let holder = |name: &str| replica(&mesh, name)["holderPid"].as_i64().unwrap();
    let ip = |name: &str, arguments: &[&str]| {
        let mut command = vec!["ip", "address"];
        command.extend(arguments);
        let mut ip = mesh.in_network_of(holder(name), &command);
        ip.env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin");
        watchword_tests::run(&mut ip).unwrap()
    };
    // The lab takes the address of orders.
    let link = ip("orders-1", &["show", "to", &orders]);
    let link = link
        .split_whitespace()
        .nth(1)
        .unwrap()
        .split(['@', ':'])
        .next()
        .unwrap()
        .to_owned();
    ip("orders-1", &["del", &format!("{orders}/16"), "dev", &link]);
    ip("lab-1", &["add", &format!("{orders}/16"), "dev", &link]);
    crate::apps::complaint(&mesh.exec("web", &curl(&["-4", "http://orders-1:8080/"])).unwrap());
    mesh.output()
        .wait_for("the reason on the client's side", |line| {
            line.contains("reason=unexpected-peer")
                && line.contains("expected spiffe://example.org/orders, but spiffe://example.org/lab answered")
        })
        .unwrap();
}

/// Sends nonsense to every address, then closes; prints how many took it.
const NONSENSE: &str = r#"
import os, socket, sys
sent = 0
for target in sys.argv[1:]:
    for nonsense in [b"", b"\0" * 4096, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\xff\xff" + os.urandom(3000), os.urandom(100000)]:
        if target.startswith("/"):
            s = socket.socket(socket.AF_UNIX)
        else:
            s = socket.socket(socket.AF_INET6 if ":" in target.rsplit(",", 1)[0] else socket.AF_INET)
        s.settimeout(10)
        accepted = False
        try:
            s.connect(target if target.startswith("/") else (target.rsplit(",", 1)[0], int(target.rsplit(",", 1)[1])))
            accepted = True
            sent += 1
            s.sendall(nonsense)
            s.shutdown(socket.SHUT_WR)
            while s.recv(65536):
                pass
        except ConnectionResetError:
            # Taken, then refused; so soon that connect() already says it.
            sent += 0 if accepted else 1
        except OSError:
            pass
        finally:
            s.close()
print(sent)
"#;

#[test]
fn nonsense_on_every_port_and_socket_harms_nobody() {
    let mesh = mesh();
    let mut targets = Vec::new();
    for name in ["orders-1", "web-1"] {
        for family in [0, 1] {
            for port in [8080, 15001, 15006, 15020, 15099] {
                targets.push(format!("{},{port}", address(&mesh, name, family)));
            }
        }
    }
    let folder = mesh.run_folder().unwrap();
    for socket in ["control.sock", "admin.sock", "orders-1/proxy-admin.sock"] {
        let path = folder.join(socket);
        assert!(path.exists(), "{}", path.display());
        targets.push(path.to_str().unwrap().to_owned());
    }
    let mut command = vec!["python3", "-c", NONSENSE];
    command.extend(targets.iter().map(String::as_str));
    let sent: usize = watchword_tests::run(&mut on_the_switch(&mesh, &command))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    // All connect: interception takes every TCP port.
    assert_eq!(sent, targets.len() * 5);
    assert!(!mesh.output().text().contains("panicked"));
    for family in ["-4", "-6"] {
        mesh.exec_ok("web", &curl(&[family, "http://orders:8080/"])).unwrap();
    }
    assert!(mesh.status().unwrap()["replicas"].as_array().unwrap().len() == 3);
    mesh.output()
        .wait_for("a reason", |line| line.contains("reason=not-captured"))
        .unwrap();
}
