//! Requests on http and grpc ports: judged one by one, and otherwise as if
//! nobody stood in between.

mod bodies;
mod conformance;
mod denials;
mod grpc;
mod identity;
mod interop;
mod reload;
mod servers;
mod smuggling;
mod traces;
mod websocket;

use std::io::Write;
use std::process::Stdio;

use watchword_tests::{Mesh, MeshFile};

use crate::apps::curl;

/// An app that writes each request that it gets to its log, as one line that
/// begins with `GOT`, one with `HEAD` before it has its body, one with `PEER` that
/// says by whose connection it came, and answers with the same in its body. `/slow` takes its
/// time over a body; `/endless` is answered until the caller has gone;
/// `/torn` breaks off; `/liar` claims to be a sidecar.
pub(crate) const APP: &str = r#"
import asyncio, sys

async def body_of(reader, headers):
    if headers.get("transfer-encoding") == "chunked":
        body, trailers = b"", []
        while size := int((await reader.readline()).split(b";")[0], 16):
            body += await reader.readexactly(size)
            await reader.readline()
        while (line := await reader.readline()) not in (b"\r\n", b""):
            trailers.append(line.decode().strip())
        return body, trailers
    return await reader.readexactly(int(headers.get("content-length", "0"))), []

async def serve(reader, writer):
    try:
        while line := await reader.readline():
            head = [line.decode("latin-1").strip()]
            while (line := await reader.readline()) not in (b"\r\n", b""):
                head.append(line.decode("latin-1").strip())
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
            path = head[0].split()[1]
            print("PEER", *writer.get_extra_info("peername")[:2], path, flush=True)
            print("HEAD " + head[0], flush=True)
            if headers.get("expect") == "100-continue" and path != "/unwanted":
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            if path == "/unwanted":
                print("GOT " + " | ".join(head), flush=True)
                writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno\n")
                await writer.drain()
                break
            body, trailers = await body_of(reader, headers)
            got = " | ".join(head + trailers) + " | body " + str(len(body))
            print("GOT " + got, flush=True)
            if path == "/endless":
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                while True:
                    writer.write(b"5\r\nmore\n\r\n")
                    await writer.drain()
                    await asyncio.sleep(0.01)
            if path == "/torn":
                writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf")
                await writer.drain()
                writer.get_extra_info("socket").setsockopt(1, 13, b"\x01\0\0\0\0\0\0\0")
                break
            if path == "/trailers":
                writer.write(b"HTTP/1.1 200 OK\r\nTrailer: checksum\r\nTransfer-Encoding: chunked\r\n\r\n"
                             b"4\r\nbody\r\n0\r\nChecksum: 4711\r\nX-Forwarded-Client-Cert: x\r\n\r\n")
                await writer.drain()
                continue
            more = "Watchword-Denied: orders/invented\r\n" if path == "/liar" else ""
            if path == "/once":
                more += "Connection: close\r\n"
            answer = b"" if head[0].startswith("HEAD") else (got + "\n").encode("latin-1")
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(got) + 1}\r\n{more}\r\n".encode() + answer)
            await writer.drain()
            if path == "/once":
                break
    except (asyncio.IncompleteReadError, ConnectionError, ValueError) as error:
        print(f"LOST {type(error).__name__}", flush=True)
    finally:
        writer.close()

async def main():
    async with await asyncio.start_server(serve, ["0.0.0.0", "::"], int(sys.argv[1])) as server:
        await server.serve_forever()

asyncio.run(main())
"#;

const SERVICES: &str = "\
web: {run: [sleep, infinity]}
lab: {run: [sleep, infinity]}
orders: {run: [python3, app.py, '8080'], ports: {8080: http}, healthy: {port: 8080}}
";

const POLICIES: &str = "\
name: orders
service: spiffe://example.org/orders
allow:
  - name: web reads and writes
    from: [spiffe://example.org/web]
    ports: [8080]
    http:
      - {methods: [GET, HEAD, POST, OPTIONS]}
  - name: the lab reads its own
    from: [spiffe://example.org/lab]
    http:
      - {methods: [GET], paths: [/lab/*]}
deny:
  - name: nobody is admin
    from: [spiffe://example.org/*]
    http:
      - {paths: [/admin, /admin/*]}
---
name: web
service: spiffe://example.org/web
allow: []
";

fn mesh_file(top: &str, policies: &str) -> MeshFile {
    let file = MeshFile::with(top, SERVICES, policies).unwrap();
    file.write("app.py", APP).unwrap();
    file
}

fn mesh() -> Mesh {
    mesh_file("", POLICIES).up().unwrap()
}

/// The folder `nginx` of a mesh, whose `nginx.conf` has this in `http`.
pub(crate) fn add_nginx(file: &MeshFile, http: &str) {
    file.open_folder("nginx").unwrap();
    let conf = format!(
        "worker_processes 1; daemon off; pid nginx.pid; error_log stderr;\nevents {{ worker_connections 1024; }}\n\
         http {{\n  access_log off; client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;\n  \
         uwsgi_temp_path uwsgi; scgi_temp_path scgi;\n{http}\n}}\n"
    );
    file.write("nginx/nginx.conf", &conf).unwrap();
}

/// Sends bytes as they are to `orders`, and gives back all that comes until the
/// other side's end; `RESET` behind it where there is none.
fn raw(mesh: &Mesh, payload: &[u8]) -> String {
    raw_in_two(mesh, payload, || {}, b"")
}

/// The same, with what happens between two parts.
fn raw_in_two(mesh: &Mesh, first: &[u8], between: impl FnOnce(), second: &[u8]) -> String {
    const CLIENT: &str = r#"
import socket, sys
stream = socket.create_connection(("orders", 8080), timeout=20)
answer = b""
try:
    for line in sys.stdin:
        stream.sendall(bytes.fromhex(line))
    while piece := stream.recv(65536):
        answer += piece
except ConnectionError:
    answer += b"RESET"
sys.stdout.buffer.write(answer)
"#;
    let hex = |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("{byte:02x}")).collect() };
    let mut client = mesh.exec_command("web", &["python3", "-c", CLIENT]).unwrap();
    client
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut client = client.spawn().unwrap();
    let mut stdin = client.stdin.take().unwrap();
    writeln!(stdin, "{}", hex(first)).unwrap();
    between();
    writeln!(stdin, "{}", hex(second)).unwrap();
    drop(stdin);
    let finished = client.wait_with_output().unwrap();
    assert!(
        finished.status.success(),
        "{}",
        String::from_utf8_lossy(&finished.stderr)
    );
    String::from_utf8_lossy(&finished.stdout).into_owned()
}

/// What curl says with these arguments, head and body, whatever the status.
fn answer(mesh: &Mesh, service: &str, arguments: &[&str]) -> String {
    let mut command: Vec<&str> = curl(&[]).into_iter().filter(|flag| *flag != "--fail").collect();
    command.extend(["--include", "--path-as-is"]);
    command.extend(arguments);
    mesh.exec_ok(service, &command).unwrap()
}

/// The lines in which the app says what it got.
fn got(mesh: &Mesh) -> Vec<String> {
    let text = mesh.output().text();
    let lines = text
        .lines()
        .filter_map(|line| line.split_once("GOT ").map(|(_, got)| got));
    lines.map(str::to_owned).collect()
}

/// The same, once they are so many: what the app prints comes by way of the
/// mesh's log.
fn got_so_many(mesh: &Mesh, count: usize) -> Vec<String> {
    watchword_tests::wait_until("the app to say what it got", || got(mesh).len() >= count).unwrap();
    let got = got(mesh);
    assert_eq!(got.len(), count, "{got:#?}");
    got
}
