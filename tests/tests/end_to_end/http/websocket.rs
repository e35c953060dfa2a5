//! WebSockets, by a real client and a real server: a request that is judged,
//! and then bytes both ways for as long as it stays allowed.

use std::process::{Child, Stdio};

use watchword_tests::{Mesh, MeshFile, Output, wait_until};

use crate::load::metric;
use crate::tunnels::generation;

/// Echoes; `close CODE REASON` makes it close first. Prints how each
/// connection ended.
const SERVER: &str = r#"
import asyncio, sys
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

async def echo(socket):
    print("OPENED", socket.request.path, flush=True)
    try:
        async for message in socket:
            if isinstance(message, str) and message.startswith("close "):
                _, code, reason = message.split(" ", 2)
                await socket.close(int(code), reason)
            else:
                await socket.send(message)
    except ConnectionClosed as closed:
        print("ENDED", "in order" if closed.rcvd else "abnormally", flush=True)
    print("CLOSED", socket.close_code, socket.close_reason, flush=True)

async def main():
    async with serve(echo, ["0.0.0.0", "::"], int(sys.argv[1]), max_size=None, ping_interval=None) as server:
        await server.serve_forever()

asyncio.run(main())
"#;

/// Opens one, waits until it ends, and says how.
const WAITER: &str = r#"
import sys
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
with connect("ws://orders:8080/live", open_timeout=20, ping_interval=None) as socket:
    socket.send("here")
    print("got", socket.recv(timeout=20), flush=True)
    try:
        socket.recv(timeout=120)
    except ConnectionClosed as closed:
        print("ended", "in order" if closed.rcvd else "abnormally", flush=True)
"#;

/// Many at once; each is used once more when standard input ends.
const IDLERS: &str = r#"
import asyncio, sys
from websockets.asyncio.client import connect

async def main():
    sockets = [await connect("ws://orders:8080/idle", open_timeout=20, ping_interval=None) for _ in range(100)]
    print("idle", len(sockets), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for number, socket in enumerate(sockets):
        await socket.send(str(number))
        assert await asyncio.wait_for(socket.recv(), 20) == str(number)
    await asyncio.gather(*[socket.close() for socket in sockets])
    print("alive", sum(socket.close_code == 1000 for socket in sockets), flush=True)

asyncio.run(main())
"#;

const POLICIES: &str = "\
name: orders
service: spiffe://example.org/orders
allow:
  - name: web talks
    from: [spiffe://example.org/web]
    http: [{methods: [GET]}]
deny:
  - name: nobody is admin
    from: [spiffe://example.org/*]
    http: [{paths: [/admin]}]
";

fn mesh(top: &str) -> Mesh {
    let services = "\
web: {run: [sleep, infinity]}
orders: {run: [./websockets/python, server.py, '8080'], ports: {8080: http}, healthy: {port: 8080}}
";
    let file = MeshFile::with(top, services, POLICIES).unwrap();
    file.write("server.py", SERVER).unwrap();
    file.lend("websockets").unwrap();
    file.up().unwrap()
}

fn python(mesh: &Mesh) -> String {
    let program = mesh.file().folder().join("websockets").join("python");
    program.to_str().unwrap().to_owned()
}

fn run(mesh: &Mesh, program: &str) -> String {
    mesh.exec_ok("web", &[&python(mesh), "-c", program]).unwrap()
}

/// A client that goes on until it is told, or cut.
fn start(mesh: &Mesh, program: &str) -> (Child, Output) {
    let mut client = mesh.exec_command("web", &[&python(mesh), "-c", program]).unwrap();
    client
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut client = client.spawn().unwrap();
    let output = Output::of(&mut client);
    (client, output)
}

#[test]
fn messages_of_any_kind_and_size_come_back_and_pings_are_answered() {
    let mesh = mesh("");
    let program = r#"
import os
from websockets.sync.client import connect
with connect("ws://orders:8080/echo", open_timeout=20, ping_interval=None, max_size=None) as socket:
    for message in ["hello", "", "Zoë " * 1000, b"", os.urandom(125), os.urandom(126), os.urandom(70000), os.urandom(1000000)]:
        socket.send(message)
        assert socket.recv(timeout=20) == message
    socket.send([b"in ", b"pieces"])
    assert socket.recv(timeout=20) == b"in pieces"
    assert socket.ping().wait(20)
    print(socket.protocol.extensions[0].name if socket.protocol.extensions else "no extension")
"#;
    // Extensions are between the two ends.
    assert_eq!(run(&mesh, program), "permessage-deflate\n");
    mesh.output()
        .wait_for("the end", |line| line.contains("CLOSED 1000"))
        .unwrap();
    mesh.output()
        .wait_for("its line in the access log", |line| {
            let parts = ["request ", "path=/echo", "status=101", "result=ok", "rule=web talks"];
            parts.iter().all(|part| line.contains(part))
        })
        .unwrap();
}

#[test]
fn whoever_closes_first_the_other_learns_the_code_and_the_reason() {
    let mesh = mesh("");
    let client_first = r#"
from websockets.sync.client import connect
socket = connect("ws://orders:8080/", open_timeout=20, ping_interval=None)
socket.close(4001, "enough of it")
print(socket.close_code, socket.close_reason)
"#;
    assert_eq!(run(&mesh, client_first), "4001 enough of it\n");
    mesh.output()
        .wait_for("the code", |line| line.contains("CLOSED 4001 enough of it"))
        .unwrap();
    let server_first = r#"
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
socket = connect("ws://orders:8080/", open_timeout=20, ping_interval=None)
socket.send("close 4002 not today")
try:
    socket.recv(timeout=20)
except ConnectionClosed as closed:
    print(closed.rcvd.code, closed.rcvd.reason, closed.rcvd_then_sent)
"#;
    assert_eq!(run(&mesh, server_first), "4002 not today True\n");
    mesh.output()
        .wait_for("the code", |line| line.contains("CLOSED 4002 not today"))
        .unwrap();
    assert!(!mesh.output().text().contains("FAILED"), "{}", mesh.output().text());
}

#[test]
fn an_upgrade_that_policies_deny_gets_403_and_never_reaches_the_app() {
    let mesh = mesh("");
    let program = r#"
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
try:
    connect("ws://orders:8080/admin", open_timeout=20)
except InvalidStatus as refused:
    print(refused.response.status_code, refused.response.headers["watchword-denied"])
"#;
    assert_eq!(run(&mesh, program), "403 orders/nobody is admin\n");
    assert!(!mesh.output().text().contains("OPENED"), "{}", mesh.output().text());
}

#[test]
fn a_live_websocket_outlives_a_change_that_allows_it_and_is_cut_by_one_that_does_not() {
    let mesh = mesh("");
    let (mut client, output) = start(&mesh, WAITER);
    output.wait_for("the first echo", |line| line == "got here").unwrap();
    let denials = || metric(&mesh, "orders", "watchword_http_requests_total", "status=\"403\"");
    assert_eq!(denials(), 0);
    // Another path is denied: when that is in force, the live one was judged anew.
    let other = POLICIES.replace("[/admin]", "[/admin, /other]");
    mesh.file().write("policies.yaml", &other).unwrap();
    wait_until("the first change", || {
        mesh.exec("web", &crate::apps::curl(&["http://orders:8080/other"]))
            .unwrap();
        denials() > 0
    })
    .unwrap();
    assert!(client.try_wait().unwrap().is_none(), "{}", output.text());
    assert!(!output.text().contains("ended"), "{}", output.text());
    let denies = POLICIES.replace("[/admin]", "[/live]");
    mesh.file().write("policies.yaml", &denies).unwrap();
    output.wait_for("the cut", |line| line == "ended abnormally").unwrap();
    client.wait().unwrap();
    mesh.output()
        .wait_for("the app to see it", |line| line.contains("CLOSED 1006"))
        .unwrap();
    mesh.output()
        .wait_for("its reason", |line| {
            let parts = [
                "request ",
                "path=/live",
                "reason=policy-changed",
                "rule=nobody is admin",
            ];
            parts.iter().all(|part| line.contains(part))
        })
        .unwrap();
}

#[test]
fn a_hundred_idle_websockets_stay_open_while_certificates_are_replaced() {
    let mesh = mesh("certificates: {ttl: 4s}");
    let (mut client, output) = start(&mesh, IDLERS);
    output.wait_for("all to be open", |line| line == "idle 100").unwrap();
    let before = ["web-1", "orders-1"].map(|replica| generation(&mesh, replica));
    wait_until("three rotations of both sides", || {
        let now = ["web-1", "orders-1"].map(|replica| generation(&mesh, replica));
        now[0] >= before[0] + 3 && now[1] >= before[1] + 3
    })
    .unwrap();
    drop(client.stdin.take());
    output.wait_for("all to be alive", |line| line == "alive 100").unwrap();
    assert!(client.wait().unwrap().success(), "{}", output.text());
}
