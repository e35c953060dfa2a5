//! Calls between services: allowed, denied, to oneself, to the outside.

use crate::apps::{complaint, curl, mesh, mesh_file};
use crate::strangers::on_the_switch;

#[test]
fn an_allowed_call_arrives_over_ipv4_and_ipv6() {
    let mesh = mesh();
    for family in ["-4", "-6"] {
        let body = mesh
            .exec_ok("web", &curl(&[family, "http://orders:8080/list"]))
            .unwrap();
        assert_eq!(body, "hello from orders /list\n");
    }
    // By the address of the replica itself, too.
    assert_eq!(
        mesh.exec_ok("web", &curl(&["http://orders-1:8080/"])).unwrap(),
        "hello from orders /\n"
    );
}

#[test]
fn the_access_log_names_both_identities_and_the_rule_of_a_call() {
    let mesh = mesh();
    mesh.exec_ok("web", &curl(&["http://orders:8080/"])).unwrap();
    mesh.output()
        .wait_for("the inbound line of the access log", |line| {
            line.contains("direction=inbound")
                && line.contains("client_id=spiffe://example.org/web")
                && line.contains("server_id=spiffe://example.org/orders")
                && line.contains("rule=web reads orders")
                && line.contains("result=ok")
        })
        .unwrap();
}

#[test]
fn a_denied_call_is_reset_before_a_byte_reaches_the_app_and_names_its_rule() {
    let mesh = mesh();
    let call = "import socket; s = socket.create_connection(('orders', 8080), timeout=20); \
                s.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n'); print(s.recv(1))";
    let finished = mesh.exec("lab", &["python3", "-c", call]).unwrap();
    assert!(
        complaint(&finished).contains("ConnectionResetError"),
        "{}",
        complaint(&finished)
    );
    let denied_by_rule = |direction: &str, line: &str| {
        line.contains(&format!("direction={direction}"))
            && line.contains("decision=deny")
            && line.contains("policy=orders")
            && line.contains("rule=not from the lab")
    };
    // Both sides know the rule.
    mesh.output()
        .wait_for("the server's denial", |line| denied_by_rule("inbound", line))
        .unwrap();
    mesh.output()
        .wait_for("the client's denial", |line| denied_by_rule("outbound", line))
        .unwrap();
    // A call that is allowed afterwards shows that the app logs what it accepts.
    let before = mesh.output().text().matches("APP accepted").count();
    mesh.exec_ok("web", &curl(&["http://orders:8080/"])).unwrap();
    mesh.output()
        .wait_for("the app's own line", |line| line.contains("APP accepted"))
        .unwrap();
    assert_eq!(before, 0, "the denied call reached the app");
}

#[test]
fn a_service_that_no_policy_protects_is_closed_to_all() {
    let mesh = mesh_file();
    std::fs::write(
        mesh.folder().join("policies.yaml"),
        "name: web\nservice: spiffe://example.org/web\nallow: []\n",
    )
    .unwrap();
    let mesh = mesh.up().unwrap();
    complaint(&mesh.exec("web", &curl(&["http://orders:8080/"])).unwrap());
    mesh.output()
        .wait_for("the reason", |line| line.contains("reason=no-policy"))
        .unwrap();
}

#[test]
fn a_workload_that_calls_itself_is_judged_by_its_policies() {
    let mesh = mesh();
    for target in ["http://web:8080/me", "http://web-1:8080/me"] {
        for family in ["-4", "-6"] {
            assert_eq!(
                mesh.exec_ok("web", &curl(&[family, target])).unwrap(),
                "hello from web /me\n"
            );
        }
    }
    // `orders` has no rule that lets it call itself.
    complaint(&mesh.exec("orders", &curl(&["http://orders:8080/"])).unwrap());
    mesh.output()
        .wait_for("the denial", |line| {
            line.contains("client_id=spiffe://example.org/orders") && line.contains("reason=no-allow-rule")
        })
        .unwrap();
}

#[test]
fn a_call_to_an_address_outside_of_the_mesh_is_denied_for_both_families() {
    let mesh = mesh();
    for target in ["http://192.0.2.7:80/", "http://[2001:db8::7]:80/"] {
        complaint(&mesh.exec("web", &curl(&[target])).unwrap());
    }
    for dialled in ["192.0.2.7:80", "[2001:db8::7]:80"] {
        mesh.output()
            .wait_for("the denial", |line| {
                line.contains(&format!("dialled={dialled}")) && line.contains("reason=egress")
            })
            .unwrap();
    }
}

#[test]
fn other_protocols_do_not_leave_and_the_app_notices_at_once() {
    let mesh = mesh();
    let send = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(10); \
                s.connect(('192.0.2.7', 53)); s.send(b'x'); s.recv(1)";
    let finished = mesh.exec("web", &["python3", "-c", send]).unwrap();
    // The kernel's answer to a packet that is rejected where it starts.
    assert!(
        complaint(&finished).contains("PermissionError"),
        "{}",
        complaint(&finished)
    );
}

#[test]
fn an_undeclared_port_and_an_unlisted_address_are_denied_with_their_reasons() {
    let mesh = mesh();
    complaint(&mesh.exec("web", &curl(&["http://orders:9999/"])).unwrap());
    mesh.output()
        .wait_for("the reason", |line| line.contains("reason=port-not-declared"))
        .unwrap();
    complaint(&mesh.exec("web", &curl(&["http://240.0.77.77:8080/"])).unwrap());
    mesh.output()
        .wait_for("the reason", |line| line.contains("reason=unlisted-mesh-address"))
        .unwrap();
}

#[test]
fn replicas_share_the_calls_and_each_has_a_name() {
    let services = "\
web: {run: [sleep, infinity]}
orders:
  run: [sh, -c, 'exec python3 server.py 8080 $(cat /proc/sys/kernel/hostname)']
  replicas: 2
  ports: {8080: http}
  healthy: {port: 8080}
";
    let policies = "name: orders\nservice: spiffe://example.org/orders\nallow:\n  - from: [spiffe://example.org/web]\n";
    let file = watchword_tests::MeshFile::new(services, policies).unwrap();
    file.write("server.py", crate::apps::SERVER).unwrap();
    let mesh = file.up().unwrap();
    for replica in ["orders-1", "orders-2"] {
        mesh.exec_ok("web", &curl(&[&format!("http://{replica}:8080/")]))
            .unwrap();
    }
    let answers: Vec<String> = (0..40)
        .map(|_| mesh.exec_ok("web", &curl(&["http://orders:8080/"])).unwrap())
        .collect();
    for replica in ["orders-1", "orders-2"] {
        let answered = answers.iter().filter(|answer| answer.contains(replica)).count();
        assert!(answered > 1, "{replica} answered {answered} of 40 calls");
    }
}

#[test]
fn a_large_body_comes_back_as_it_went() {
    let mesh = mesh();
    let twice = "import hashlib, os, urllib.request; body = os.urandom(20_000_000); \
        answer = urllib.request.urlopen(urllib.request.Request('http://orders:8080/', data=body), timeout=60).read(); \
        assert hashlib.sha256(answer).digest() == hashlib.sha256(body).digest(); print(len(answer))";
    assert_eq!(mesh.exec_ok("web", &["python3", "-c", twice]).unwrap(), "20000000\n");
}

#[test]
fn a_server_that_speaks_first_and_a_half_close_work() {
    let services = "\
web: {run: [sleep, infinity]}
greeter: {run: [python3, greeter.py], ports: {7000: tcp}, healthy: {port: 7000}}
";
    let policies =
        "name: greeter\nservice: spiffe://example.org/greeter\nallow:\n  - from: [spiffe://example.org/web]\n";
    let greeter = r#"
import socketserver
class Greeter(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(b"220 ready\n")
        received = b""
        while more := self.request.recv(65536):
            received += more
        self.request.sendall(b"%d bytes, then the end\n" % len(received))
socketserver.ThreadingTCPServer.allow_reuse_address = True
socketserver.ThreadingTCPServer(("0.0.0.0", 7000), Greeter).serve_forever()
"#;
    let file = watchword_tests::MeshFile::new(services, policies).unwrap();
    file.write("greeter.py", greeter).unwrap();
    let mesh = file.up().unwrap();
    let client = "import socket; s = socket.create_connection(('greeter', 7000), timeout=20); \
        print(s.recv(100).decode(), end=''); s.sendall(b'x' * 100000); s.shutdown(socket.SHUT_WR); \
        print(s.makefile().read(), end='')";
    let printed = mesh.exec_ok("web", &["python3", "-c", client]).unwrap();
    assert_eq!(printed, "220 ready\n100000 bytes, then the end\n");
    // It listens on IPv4 alone, and a caller by IPv6 does not have to know.
    let by_ipv6 = client
        .replace(
            "create_connection(('greeter', 7000), timeout=20)",
            "socket(socket.AF_INET6)",
        )
        .replace("print(s.recv", "s.connect(('greeter', 7000)); print(s.recv");
    assert_eq!(mesh.exec_ok("web", &["python3", "-c", &by_ipv6]).unwrap(), printed);
}

#[test]
fn an_app_that_does_not_listen_looks_reset_and_the_log_says_refused() {
    let services = "web: {run: [sleep, infinity]}\nidle: {run: [sleep, infinity], ports: {7000: tcp}}\n";
    let policies = "name: idle\nservice: spiffe://example.org/idle\nallow:\n  - from: [spiffe://example.org/web]\n";
    let mesh = watchword_tests::MeshFile::new(services, policies)
        .unwrap()
        .up()
        .unwrap();
    complaint(&mesh.exec("web", &curl(&["http://idle:7000/"])).unwrap());
    mesh.output()
        .wait_for("both sides' reason", |line| {
            line.contains("direction=outbound") && line.contains("result=refused")
        })
        .unwrap();
}

/// Connects, says so, and prints how the connection ends. It has called before: the
/// connection that lasts is a further stream on the tunnel of that call.
const PATIENT: &str = "import socket\n\
def greeted():\n    s = socket.create_connection(('greeter', 7000), timeout=50)\n    return s, s.recv(100)\n\
s, _ = greeted()\ns.sendall(b'x')\ns.recv(1)\n\
s, greeting = greeted()\nprint('greeted', greeting, flush=True)\n\
try:\n    print('ended', s.recv(100))\nexcept ConnectionResetError:\n    print('reset')";

#[test]
fn a_policy_that_changes_cuts_the_live_connections_that_it_denies_and_no_others() {
    let services = "\
web: {run: [sleep, infinity]}
lab: {run: [sleep, infinity]}
greeter: {run: [python3, greeter.py], ports: {7000: tcp}, healthy: {port: 7000}}
";
    let policy = |from: &str| {
        format!("name: greeter\nservice: spiffe://example.org/greeter\nallow:\n  - {{name: some, from: [{from}]}}\n")
    };
    let greeter = "import socketserver\n\
class Greeter(socketserver.BaseRequestHandler):\n    def handle(self):\n        self.request.sendall(b'hello')\n        self.request.recv(1)\n\
socketserver.ThreadingTCPServer(('0.0.0.0', 7000), Greeter).serve_forever()\n";
    let both = policy("spiffe://example.org/web, spiffe://example.org/lab");
    let file = watchword_tests::MeshFile::new(services, &both).unwrap();
    file.write("greeter.py", greeter).unwrap();
    let mesh = file.up().unwrap();
    let mut clients = ["web", "lab"].map(|service| {
        let mut command = mesh.exec_command(service, &["python3", "-c", PATIENT]).unwrap();
        let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let output = watchword_tests::Output::of(&mut child);
        output
            .wait_for("the greeting", |line| line.starts_with("greeted"))
            .unwrap();
        (child, output)
    });
    mesh.file()
        .write("policies.yaml", &policy("spiffe://example.org/web"))
        .unwrap();
    clients[1].1.wait_for("the cut", |line| line == "reset").unwrap();
    mesh.output()
        .wait_for("the reason", |line| line.contains("reason=cut"))
        .unwrap();
    // The one that is still allowed notices nothing, until it is not.
    assert!(clients[0].0.try_wait().unwrap().is_none());
    assert!(!clients[0].1.text().contains("reset"));
    mesh.file()
        .write("policies.yaml", &policy("spiffe://example.org/lab"))
        .unwrap();
    clients[0].1.wait_for("the later cut", |line| line == "reset").unwrap();
    for (child, _) in &mut clients {
        let _ = child.kill();
        let _ = child.wait();
    }
}

#[test]
fn nothing_is_paced_or_filtered_twice_in_a_mesh_of_one_machine() {
    let mesh = mesh();
    let read = ["cat", "/proc/sys/net/ipv4/tcp_congestion_control"];
    for service in ["web", "orders"] {
        assert_eq!(mesh.exec_ok(service, &read).unwrap(), "reno\n", "docs/decisions/0021");
    }
    // A kernel that knows no such rules has no such files.
    let read = [
        "sh",
        "-c",
        "for f in /proc/sys/net/bridge/bridge-nf-call-*; do [ ! -e $f ] || cat $f; done",
    ];
    let bridge_rules = watchword_tests::run(&mut on_the_switch(&mesh, &read)).unwrap();
    assert!(bridge_rules.lines().all(|line| line == "0"), "{bridge_rules}");
}
