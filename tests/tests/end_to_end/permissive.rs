//! Permissive mode: callers from outside of the mesh speak in plaintext, under
//! policies as `unauthenticated`, and nothing waits; whoever is of the mesh
//! must prove it, and never speaks in plaintext itself.

use std::process::{Command, Stdio};
use std::time::Instant;

use watchword_tests::{Mesh, MeshFile, Output, binary, wait_until};

use crate::applications::databases::{MARIADB_SERVICE, mariadb_at, write_mariadb};
use crate::apps::{complaint, curl};
use crate::http::APP;
use crate::strangers::{TLS_CLIENT, address, counter, in_network, on_the_switch};

const PERMISSIVE: &str = "mode: permissive";

/// Greets, unless it is to be silent, and gives back what it gets.
const GREETER: &str = r#"
import socket, socketserver, sys
class Greeter(socketserver.BaseRequestHandler):
    def handle(self):
        print("APP accepted a connection", flush=True)
        if sys.argv[1:] != ["silent"]:
            self.request.sendall(b"220 ready\n")
        while data := self.request.recv(65536):
            print("APP got", data, flush=True)
            self.request.sendall(data)
class Server(socketserver.ThreadingTCPServer):
    address_family, allow_reuse_address, daemon_threads = socket.AF_INET6, True, True
Server(("::", 7000), Greeter).serve_forever()
"#;

const SERVICES: &str = "\
web: {run: [sleep, infinity]}
greeter: {run: [python3, greeter.py], ports: {7000: tcp}, healthy: {port: 7000}}
echo: {id: spiffe://example.org/others/echo, run: [python3, greeter.py, silent], ports: {7000: tcp}, healthy: {port: 7000}}
orders: {id: spiffe://example.org/others/orders, run: [python3, app.py, '8080'], ports: {8080: http}, healthy: {port: 8080}}
payments: {id: spiffe://example.org/others/payments, run: [python3, app.py, '9090'], ports: {9090: grpc}, healthy: {port: 9090}}
";

const ANYBODY: &str = "{name: anybody for now, from: [unauthenticated]}";

/// `web` may call the greeter, and whoever else is allowed here.
fn greeter_policy(more: &str) -> String {
    format!(
        "name: greeter\nservice: spiffe://example.org/greeter\n\
         allow:\n  - {{name: web calls, from: [spiffe://example.org/web]}}\n{more}"
    )
}

fn policies(greeter: &str) -> String {
    format!(
        "{}---\n{}",
        greeter_policy(greeter),
        "name: requests
service: spiffe://example.org/others/*
allow:
  - {name: anybody is echoed, from: [unauthenticated], ports: [7000]}
  - {name: anybody reads, from: [unauthenticated], ports: [8080], http: [{methods: [GET]}]}
deny:
  - {name: nobody pays without a name, from: [unauthenticated], ports: [9090], grpc: [{service: shop.Payments}]}
"
    )
}

fn mesh_file(top: &str, policies: &str) -> MeshFile {
    let file = MeshFile::with(top, SERVICES, policies).unwrap();
    file.write("greeter.py", GREETER).unwrap();
    file.write("app.py", APP).unwrap();
    file
}

fn mesh(greeter: &str) -> Mesh {
    mesh_file(PERMISSIVE, &policies(greeter)).up().unwrap()
}

fn logged(mesh: &Mesh, parts: &[&str]) {
    mesh.output()
        .wait_for(&format!("{parts:?}"), |line| {
            parts.iter().all(|part| line.contains(part))
        })
        .unwrap();
}

/// To ADDRESS:PORT, by a socket with this mark: says what came, or that
/// it was refused, and how it ended.
const CLIENT: &str = r#"
import socket, sys
address, port, word, mark = sys.argv[1:5]
stream = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
stream.settimeout(50)
if mark != "0":
    stream.setsockopt(socket.SOL_SOCKET, 36, int(mark, 0))
try:
    stream.connect((address, int(port)))
    stream.sendall(word.encode())
    print("GOT", stream.recv(1000), flush=True)
    if word:
        stream.shutdown(socket.SHUT_WR)
except ConnectionError as error:
    print("REFUSED", flush=True)
    sys.exit()
try:
    print("THEN", stream.recv(1000), flush=True)
except ConnectionError:
    print("RESET", flush=True)
"#;
/// A sidecar's own, which no rule of interception redirects.
const PROXY_MARK: &str = "0x57570001";

fn greeted(target: &str) -> [&str; 7] {
    ["python3", "-c", CLIENT, target, "7000", "", "0"]
}

#[test]
fn a_mariadb_is_called_by_an_unmeshed_client_at_once_and_by_meshed_ones_as_ever() {
    let services = format!("web: {{run: [sleep, infinity]}}\nlab: {{run: [sleep, infinity]}}\n{MARIADB_SERVICE}");
    let policies = format!(
        "name: maria\nservice: spiffe://example.org/maria\n\
         allow:\n  - {{name: web calls, from: [spiffe://example.org/web]}}\n  - {ANYBODY}\n"
    );
    let file = MeshFile::with(PERMISSIVE, &services, &policies).unwrap();
    write_mariadb(&file);
    let mesh = file.up().unwrap();
    for family in [0, 1] {
        let target = address(&mesh, "maria-1", family);
        let began = Instant::now();
        let answer = watchword_tests::run(&mut on_the_switch(&mesh, &mariadb_at(&target, "SELECT 6 * 7"))).unwrap();
        assert_eq!(answer, "42\n");
        // Who waits to be told what it is waits for the deadline of a handshake.
        assert!(began.elapsed().as_secs() < 5, "it took {:?}", began.elapsed());
    }
    logged(
        &mesh,
        &[
            "direction=inbound",
            "client_id=unauthenticated",
            "decision=allow",
            "rule=anybody for now",
            "result=ok",
        ],
    );
    let labels = ["direction=\"inbound\"", "peer=\"unauthenticated\"", "result=\"ok\""];
    // A client is done before its connection is.
    wait_until("both connections to have ended", || {
        counter_of(&mesh, "maria-1", "watchword_connections_total", &labels) == 2
    })
    .unwrap();
    // It speaks first, and still takes none of them for somebody else.
    for _ in 0..20 {
        let answer = mesh.exec_ok("web", &mariadb_at("maria", "SELECT 6 * 7")).unwrap();
        assert_eq!(answer, "42\n");
    }
    logged(
        &mesh,
        &["client_id=spiffe://example.org/web", "rule=web calls", "result=ok"],
    );
    // Who has an identity is not nobody in particular.
    complaint(&mesh.exec("lab", &mariadb_at("maria", "SELECT 1")).unwrap());
    logged(
        &mesh,
        &[
            "direction=inbound",
            "client_id=spiffe://example.org/lab",
            "reason=no-allow-rule",
        ],
    );
}

/// As [`counter`], of another replica's page.
fn counter_of(mesh: &Mesh, name: &str, metric: &str, labels: &[&str]) -> u64 {
    let wanted: Vec<&str> = [metric].iter().chain(labels).copied().collect();
    counter(mesh, name, &wanted)
}

#[test]
fn in_strict_mode_the_same_client_is_refused() {
    let services = format!("web: {{run: [sleep, infinity]}}\n{MARIADB_SERVICE}");
    let policies = "name: maria\nservice: spiffe://example.org/maria\nallow: [{from: [spiffe://example.org/web]}]\n";
    let file = MeshFile::with("mode: strict", &services, policies).unwrap();
    write_mariadb(&file);
    let mesh = file.up().unwrap();
    let target = address(&mesh, "maria-1", 0);
    let client = mariadb_at(&target, "SELECT 6 * 7");
    complaint(&on_the_switch(&mesh, &client).output().unwrap());
    logged(&mesh, &["direction=inbound", "result=failed", "reason=timeout"]);
    assert_eq!(
        mesh.exec_ok("web", &mariadb_at("maria", "SELECT 6 * 7")).unwrap(),
        "42\n"
    );
}

#[test]
fn in_strict_mode_a_rule_for_nobody_in_particular_is_refused_with_its_place() {
    let file = mesh_file("", &policies(&format!("  - {ANYBODY}\n")));
    let said = complaint(&file.up_to_its_end().unwrap());
    assert!(
        said.contains("policies.yaml:5:36: error: `unauthenticated` needs `mode: permissive` in the mesh file"),
        "{said}"
    );
}

#[test]
fn a_policy_without_unauthenticated_denies_by_its_reason_or_rule() {
    let mesh = mesh("");
    for family in [0, 1] {
        let target = address(&mesh, "greeter-1", family);
        let client = ["python3", "-c", CLIENT, &target, "7000", "hello", "0"];
        let said = watchword_tests::run(&mut on_the_switch(&mesh, &client)).unwrap();
        assert!(said.starts_with("REFUSED"), "{said}");
    }
    let denied = ["direction=inbound", "client_id=unauthenticated", "result=denied"];
    logged(
        &mesh,
        &[&denied[..], &["policy=greeter", "reason=no-allow-rule"]].concat(),
    );
    assert!(!mesh.output().text().contains("APP accepted"), "the app saw it");
    let stricter = policies("deny: [{name: not without a name, from: [unauthenticated]}]\n");
    mesh.file().write("policies.yaml", &stricter).unwrap();
    let target = address(&mesh, "greeter-1", 0);
    watchword_tests::wait_until("the rule", || {
        let client = ["python3", "-c", CLIENT, &target, "7000", "hello", "0"];
        watchword_tests::run(&mut on_the_switch(&mesh, &client)).unwrap();
        mesh.output()
            .text()
            .lines()
            .any(|line| line.contains("client_id=unauthenticated") && line.contains("rule=not without a name"))
    })
    .unwrap();
}

#[test]
fn requests_in_plaintext_are_judged_one_by_one_and_speak_for_nobody() {
    let mesh = mesh("");
    let forged = "X-Forwarded-Client-Cert: URI=spiffe://example.org/admin";
    for family in [0, 1] {
        let url = match address(&mesh, "orders-1", family) {
            ipv6 if ipv6.contains(':') => format!("http://[{ipv6}]:8080/x"),
            ipv4 => format!("http://{ipv4}:8080/x"),
        };
        let get = curl(&["--header", forged, &url]);
        let answer = watchword_tests::run(&mut on_the_switch(&mesh, &get)).unwrap();
        assert!(answer.starts_with("GET /x"), "{answer}");
        assert!(!answer.to_lowercase().contains("forwarded-client"), "{answer}");
        for version in ["--http1.1", "--http2-prior-knowledge"] {
            let post = [
                "curl",
                "--silent",
                "--include",
                "--max-time",
                "20",
                "--data",
                "x",
                version,
                &url,
            ];
            let answer = watchword_tests::run(&mut on_the_switch(&mesh, &post)).unwrap();
            assert!(answer.contains(" 403"), "{answer}");
            // Of policies it is told nothing.
            assert!(answer.contains("watchword-denied: -/no-allow-rule\r\n"), "{answer}");
        }
    }
    let of_request = ["request ", "client_id=unauthenticated", "protocol=http"];
    logged(
        &mesh,
        &[&of_request[..], &["rule=anybody reads", "status=200"]].concat(),
    );
    logged(
        &mesh,
        &[&of_request[..], &["policy=requests", "reason=no-allow-rule"]].concat(),
    );
    let labels = ["peer=\"unauthenticated\"", "status=\"403\""];
    assert_eq!(
        counter_of(&mesh, "orders-1", "watchword_http_requests_total", &labels),
        4
    );
}

#[test]
fn grpc_in_plaintext_is_denied_in_its_own_words() {
    let mesh = mesh("");
    let url = format!("http://{}:9090/shop.Payments/Charge", address(&mesh, "payments-1", 0));
    let mut call = vec![
        "curl",
        "--silent",
        "--include",
        "--max-time",
        "20",
        "--http2-prior-knowledge",
    ];
    call.extend(["--request", "POST", "--header", "Content-Type: application/grpc", &url]);
    let answer = watchword_tests::run(&mut on_the_switch(&mesh, &call)).unwrap();
    assert!(answer.contains("\ngrpc-status: 7\r\n"), "{answer}");
    logged(
        &mesh,
        &[
            "client_id=unauthenticated",
            "protocol=grpc",
            "rule=nobody pays without a name",
        ],
    );
}

/// Where the app waits for its caller, nothing of TLS reaches it.
#[test]
fn a_caller_from_outside_that_speaks_tls_has_to_prove_who_it_is() {
    let mesh = mesh("");
    for (name, port) in [("echo-1", "7000"), ("orders-1", "8080"), ("greeter-1", "7000")] {
        for family in [0, 1] {
            let target = address(&mesh, name, family);
            let client = ["python3", "-c", TLS_CLIENT, &target, port, "watchword/1", ""];
            let said = watchword_tests::run(&mut on_the_switch(&mesh, &client)).unwrap();
            assert!(said.starts_with("REFUSED"), "{said}");
        }
        let labels = ["result=\"failed\"", "reason=\"no-certificate\""];
        assert_eq!(
            counter_of(&mesh, name, "watchword_connections_total", &labels),
            2,
            "{name}"
        );
    }
    let text = mesh.output().text();
    assert!(!text.contains("APP got") && !text.contains("GOT "), "an app saw it");
    let target = address(&mesh, "echo-1", 0);
    let client = ["python3", "-c", CLIENT, &target, "7000", "hello", "0"];
    let said = watchword_tests::run(&mut on_the_switch(&mesh, &client)).unwrap();
    assert!(said.starts_with("GOT b'hello'"), "{said}");
}

#[test]
fn a_change_of_policies_cuts_a_live_connection_in_plaintext() {
    let mesh = mesh(&format!("  - {ANYBODY}\n"));
    let target = address(&mesh, "greeter-1", 0);
    let mut client = on_the_switch(&mesh, &greeted(&target));
    let mut child = client.stdout(Stdio::piped()).spawn().unwrap();
    let heard = Output::of(&mut child);
    heard
        .wait_for("the greeting", |line| line == r"GOT b'220 ready\n'")
        .unwrap();
    mesh.file().write("policies.yaml", &policies("")).unwrap();
    heard.wait_for("the cut", |line| line == "RESET").unwrap();
    logged(&mesh, &["client_id=unauthenticated", "reason=cut", "policy-changed"]);
    child.wait().unwrap();
}

/// With every right there, past its own sidecar.
#[test]
fn a_meshed_source_does_not_get_by_in_plaintext() {
    let mesh = mesh(&format!("  - {ANYBODY}\n"));
    for (port, service) in [("7000", "greeter-1"), ("8080", "orders-1")] {
        for family in [0, 1] {
            let target = address(&mesh, service, family);
            let word = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
            let said = in_network(
                &mesh,
                "web-1",
                &["python3", "-c", CLIENT, &target, port, word, PROXY_MARK],
            );
            assert!(!said.contains("220 ready") && !said.contains("200 OK"), "{said}");
        }
    }
    logged(&mesh, &["direction=inbound", "result=failed", "reason=tls"]);
    let text = mesh.output().text();
    assert!(!text.contains("APP ") && !text.contains("GOT "), "an app saw it");
    // From elsewhere the very same is served.
    let target = address(&mesh, "greeter-1", 0);
    let mut client = on_the_switch(&mesh, &greeted(&target));
    let mut child = client.stdout(Stdio::piped()).spawn().unwrap();
    let heard = Output::of(&mut child);
    heard
        .wait_for("the greeting", |line| line.contains("220 ready"))
        .unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
}

/// A server in plaintext stands where `orders` did.
#[test]
fn a_meshed_caller_never_falls_back_to_plaintext() {
    let mesh = mesh("");
    let orders = address(&mesh, "orders-1", 0);
    let show = in_network(&mesh, "orders-1", &["ip", "-o", "address", "show", "to", &orders]);
    let link = show.split_whitespace().nth(1).unwrap().to_owned();
    let prefix = format!("{orders}/16");
    in_network(&mesh, "orders-1", &["ip", "address", "del", &prefix, "dev", &link]);
    let run = |command: &[&str]| watchword_tests::run(&mut on_the_switch(&mesh, command)).unwrap();
    run(&["ip", "address", "add", &format!("{orders}/32"), "dev", "mesh"]);
    let server = "import socket, sys; s = socket.create_server((sys.argv[1], 8080)); print('ready', flush=True)\n\
        while True:\n    c = s.accept()[0]; c.settimeout(5); print('HEARD', c.recv(3).hex(), flush=True); c.close()";
    let mut server = on_the_switch(&mesh, &["python3", "-c", server, &orders]);
    let mut child = server.stdout(Stdio::piped()).spawn().unwrap();
    let heard = Output::of(&mut child);
    heard.wait_for("it to listen", |line| line == "ready").unwrap();
    complaint(&mesh.exec("web", &curl(&["-4", "http://orders-1:8080/secret"])).unwrap());
    heard.wait_for("a call", |line| line.starts_with("HEARD")).unwrap();
    assert!(
        heard.text().lines().skip(1).all(|line| line == "HEARD 160301"),
        "{}",
        heard.text()
    );
    child.kill().unwrap();
    child.wait().unwrap();
    // Nor is what has no entry: an address of the mesh's that is nobody's.
    let bridge = "10.87.0.1";
    complaint(&mesh.exec("web", &curl(&[&format!("http://{bridge}:8080/")])).unwrap());
    logged(&mesh, &["direction=outbound", "reason=unlisted-mesh-address"]);
}

#[test]
fn explain_answers_for_callers_without_an_identity() {
    let file = mesh_file(PERMISSIVE, &policies(&format!("  - {ANYBODY}\n")));
    let explain = |mesh_file: &[&str]| {
        let finished = Command::new(binary("watchword").unwrap())
            .current_dir(file.folder())
            .args(["policy", "explain", "--from", "unauthenticated"])
            .args(["--to", "spiffe://example.org/greeter", "--port", "7000"])
            .args(mesh_file)
            .arg("policies.yaml")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&finished.stdout).into_owned();
        (finished.status.code(), said)
    };
    let allowed = (
        Some(0),
        "allowed by rule `anybody for now` of policy `greeter`\n".to_owned(),
    );
    assert_eq!(explain(&["--mesh-file", "mesh.yaml"]), allowed);
    assert_eq!(explain(&[]), allowed);
    file.write("policies.yaml", &greeter_policy("")).unwrap();
    let strict = std::fs::read_to_string(file.folder().join("mesh.yaml")).unwrap();
    file.write("mesh.yaml", &strict.replace(PERMISSIVE, "")).unwrap();
    let (code, said) = explain(&["--mesh-file", "mesh.yaml"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("denied because the mesh is in strict mode"), "{said}");
}
