//! `publish`: services that are called from outside of the mesh, under the
//! policies.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use watchword_tests::{Mesh, MeshFile};

use crate::apps::{SERVER, complaint, curl};
use crate::strangers::replica;

/// Echoes what it got when that has ended; resets where it got `reset`.
pub(crate) const TALK: &str = r#"
import socket, struct, sys, threading

def serve(connection):
    with connection:
        got = b""
        while data := connection.recv(65536):
            got += data
            if got == b"reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return
            if got == b"wait":
                connection.sendall(b"waiting")
        connection.sendall(b"%d bytes" % len(got))

family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
listener = socket.create_server((sys.argv[1], int(sys.argv[2])), family=family, backlog=64)
print("listening", flush=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"#;

const POLICIES: &str = "\
name: orders
service: spiffe://example.org/orders
allow:
  - {name: from outside, from: [spiffe://example.org/watchword/publish], ports: [8080]}
---
name: talk
service: spiffe://example.org/talk
allow:
  - {name: from outside, from: [spiffe://example.org/watchword/publish]}
";

/// A port that nobody has now.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn file(ports: [u16; 4]) -> MeshFile {
    let [orders, web, talk, quiet] = ports;
    let services = format!(
        "orders: {{run: [python3, server.py, '8080', orders], ports: {{8080: http}}, healthy: {{port: 8080}}, \
         publish: {{8080: 127.0.0.1:{orders}}}}}\n\
         web: {{run: [python3, server.py, '8080', web], ports: {{8080: http}}, healthy: {{port: 8080}}, \
         publish: {{8080: 127.0.0.1:{web}}}}}\n\
         talk: {{run: [python3, talk.py, '0.0.0.0', '7000'], ports: {{7000: tcp}}, healthy: {{port: 7000}}, \
         publish: {{7000: 127.0.0.1:{talk}}}}}\n\
         quiet: {{run: [python3, talk.py, '0.0.0.0', '7000'], ports: {{7000: tcp}}, healthy: {{port: 7000}}, \
         publish: {{7000: 127.0.0.1:{quiet}}}}}\n"
    );
    let file = MeshFile::new(&services, POLICIES).unwrap();
    file.write("server.py", SERVER).unwrap();
    file.write("talk.py", TALK).unwrap();
    file
}

fn get(port: u16, more: &[&str]) -> std::process::Output {
    let url = format!("http://127.0.0.1:{port}/");
    let mut line = curl(more);
    line.push(&url);
    Command::new(line[0]).args(&line[1..]).output().unwrap()
}

fn dial(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

fn ports() -> [u16; 4] {
    [free_port(), free_port(), free_port(), free_port()]
}

fn up(ports: [u16; 4]) -> Mesh {
    file(ports).up().unwrap()
}

#[test]
fn a_published_service_is_reached_from_outside_under_a_policy_and_denied_without_one() {
    let ports = ports();
    let [orders, web, talk, quiet] = ports;
    let mut mesh = up(ports);
    let told = format!("orders is published at 127.0.0.1:{orders}");
    mesh.output().wait_for(&told, |line| line.contains(&told)).unwrap();

    let answer = get(orders, &[]);
    assert_eq!(String::from_utf8_lossy(&answer.stdout), "hello from orders /\n");
    mesh.output()
        .wait_for("whom the called side saw", |line| {
            line.contains("direction=inbound")
                && line.contains("client_id=spiffe://example.org/watchword/publish")
                && line.contains("rule=from outside")
        })
        .unwrap();

    let denied = get(web, &["--include"]);
    assert!(complaint(&denied).contains("403"), "{denied:?}");
    let mut stream = dial(quiet);
    let refused = stream.read(&mut [0]).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionReset);

    // Ends of halves, and resets, arrive as they are.
    let mut stream = dial(talk);
    let sent = vec![7u8; 3_000_000];
    stream.write_all(&sent).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "3000000 bytes");
    let mut stream = dial(talk);
    stream.write_all(b"reset").unwrap();
    let reset = stream.read(&mut [0]).unwrap_err();
    assert_eq!(reset.kind(), ErrorKind::ConnectionReset);

    // A helper that dies takes its calls along, and no port.
    let helper = helper_of(&mesh, "talk");
    let mut stream = dial(talk);
    stream.write_all(b"wait").unwrap();
    let mut answer = [0; 7];
    stream.read_exact(&mut answer).unwrap();
    kill(helper, Signal::SIGKILL).unwrap();
    let cut = stream.read(&mut [0]).unwrap_err();
    assert_eq!(cut.kind(), ErrorKind::ConnectionReset);
    assert!(
        TcpListener::bind(("127.0.0.1", talk)).is_err(),
        "the port is still the mesh's"
    );
    let mut stream = dial(talk);
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "0 bytes");

    assert!(mesh.end_by(Signal::SIGINT).unwrap().success());
    for port in ports {
        TcpListener::bind(("127.0.0.1", port)).unwrap();
    }
}

/// Who carries to a service: other meshes have the same addresses.
fn helper_of(mesh: &Mesh, service: &str) -> Pid {
    let network = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let publisher = replica(mesh, "watchword.publish")["holderPid"].to_string();
    let (ours, words) = (
        network(&publisher),
        format!("carry --to {}", service_address(mesh, service)),
    );
    let is_it = |pid: &str| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).replace('\0', " ").contains(&words) && network(pid) == ours
    };
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut names = processes.filter_map(|entry| entry.file_name().into_string().ok());
    let found = names.find(|name| is_it(name)).unwrap();
    Pid::from_raw(found.parse().unwrap())
}

/// As the name resolves in the mesh.
fn service_address(mesh: &Mesh, service: &str) -> String {
    let hosts = mesh.exec_ok("web", &["cat", "/etc/hosts"]).unwrap();
    let line = hosts
        .lines()
        .find(|line| line.ends_with(&format!("\t{service}")))
        .unwrap();
    line.split('\t').next().unwrap().to_owned()
}

#[test]
fn a_port_outside_that_is_taken_is_told_with_what_to_do_before_anything_starts() {
    let ports = ports();
    let taken = TcpListener::bind(("127.0.0.1", ports[1])).unwrap();
    let finished = file(ports).up_to_its_end().unwrap();
    let said = complaint(&finished);
    let port = ports[1];
    let expected = format!(
        "error: web can't be published at 127.0.0.1:{port}: something listens there already; stop it (`ss -ltnp \
         'sport = :{port}'` names it), or choose another port under `publish`"
    );
    assert!(said.contains(&expected), "{said}");
    assert!(!said.contains("is ready"), "{said}");
    drop(taken);
}

#[test]
fn of_the_meshs_own_ids_a_token_is_made_for_the_publishers_alone_and_only_where_something_is_published() {
    let refusal = |mesh: &Mesh, id: &str| {
        let id = format!("spiffe://example.org/watchword/{id}");
        let mut create = Command::new(watchword_tests::binary("watchword").unwrap());
        create.args(["token", "create", "--mesh", mesh.file().name(), "--id", &id]);
        complaint(&create.output().unwrap())
    };
    let mesh = up(ports());
    assert!(refusal(&mesh, "control-plane").contains("is reserved"));
    drop(mesh);
    let nothing_published = crate::apps::mesh();
    assert!(refusal(&nothing_published, "publish").contains("is not registered"));
}
