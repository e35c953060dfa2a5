//! Load that counts what it loses: programs that call each other through a
//! mesh, and print one line of JSON at their end.

use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use watchword_tests::{Mesh, MeshFile};

/// Answers `ping`, and sends a `flow` of so many bytes over so many seconds,
/// with its checksum behind it.
pub(crate) const SERVER: &str = r#"
import asyncio, hashlib, resource, socket, sys, threading

_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

async def flow(writer, size, seconds):
    pieces, digest = max(1, int(seconds * 20)), hashlib.sha256()
    for number in range(pieces):
        piece = bytes([number % 251]) * (size // pieces)
        digest.update(piece)
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(seconds / pieces)
    writer.write(digest.digest())

async def serve(reader, writer):
    try:
        while line := await reader.readline():
            words = line.split()
            if words[0] == b"ping":
                writer.write(sys.argv[2].encode() + b"\n")
            else:
                await flow(writer, int(words[1]), float(words[2]))
                break
        await writer.drain()
    finally:
        writer.close()

async def main():
    async with await asyncio.start_server(serve, ["0.0.0.0", "::"], int(sys.argv[1]), backlog=4096) as server:
        await server.serve_forever()

# The replica with this name never listens.
if socket.gethostname() == "deaf-2":
    threading.Event().wait()
asyncio.run(main())
"#;

/// `short COUNT|SECONDSs|- THREADS`: connections with one question each, closed
/// by the client first; with `-` until standard input ends, and with a pause
/// after each. `keep SECONDS`: one connection with many. `flow BYTES
/// SECONDS`: one download.
const CLIENT: &str = r#"
import collections, hashlib, json, socket, sys, threading, time

host, port, what = sys.argv[1], int(sys.argv[2]), sys.argv[3]
done, answers, failures, lock = 0, collections.Counter(), [], threading.Lock()

def connect():
    stream = socket.create_connection((host, port), timeout=30)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return stream

def read(stream, until):
    data = b""
    while not until(data):
        piece = stream.recv(65536)
        if not piece:
            raise EOFError(f"the end after {len(data)} bytes")
        data += piece
    return data

def ping(stream):
    stream.sendall(b"ping\n")
    return read(stream, lambda data: data.endswith(b"\n")).decode().strip()

def one_short():
    with connect() as stream:
        answer = ping(stream)
        stream.shutdown(socket.SHUT_WR)
        if stream.recv(1):
            raise ValueError("more than the answer")
        return answer

def count(answer, began):
    global done
    with lock:
        done += 1
        answers[answer] += 1

def fail(error, began):
    with lock:
        failures.append(f"{type(error).__name__}: {error} after {time.monotonic() - began:.3f} s, at {time.time():.3f}")

def shorts(left):
    while left():
        began = time.monotonic()
        try:
            count(one_short(), began)
        except Exception as error:
            fail(error, began)

if what == "short":
    threads = int(sys.argv[5])
    if sys.argv[4].endswith("s"):
        until = time.monotonic() + float(sys.argv[4][:-1])
        left = lambda: time.monotonic() < until
    elif sys.argv[4] == "-":
        told = threading.Event()
        threading.Thread(target=lambda: (sys.stdin.read(), told.set()), daemon=True).start()
        left = lambda: not told.wait(0.02)
    else:
        budget = iter(range(int(sys.argv[4])))
        def left():
            with lock:
                return next(budget, None) is not None
    workers = [threading.Thread(target=shorts, args=[left]) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
elif what == "keep":
    until, began = time.monotonic() + float(sys.argv[4]), time.monotonic()
    try:
        with connect() as stream:
            while time.monotonic() < until:
                count(ping(stream), began)
                time.sleep(0.02)
    except Exception as error:
        fail(error, began)
elif what == "flow":
    size, seconds, began = int(sys.argv[4]), sys.argv[5], time.monotonic()
    try:
        with connect() as stream:
            stream.settimeout(30 + float(seconds))
            stream.sendall(f"flow {size} {seconds}\n".encode())
            data = bytearray()
            while piece := stream.recv(65536):
                data += piece
        if hashlib.sha256(data[:-32]).digest() != bytes(data[-32:]):
            raise ValueError(f"{len(data)} bytes, not those that were sent")
        count("flow", began)
    except Exception as error:
        fail(error, began)

print(json.dumps({"done": done, "answers": answers, "failures": failures[:20], "failed": len(failures)}), flush=True)
"#;

/// A mesh file whose `orders` serve such load, in so many replicas. `deaf` has
/// two, of which one never listens.
pub(crate) fn mesh_file(top: &str, replicas: usize) -> MeshFile {
    mesh_file_with(top, replicas, "")
}

/// The same, with more services.
pub(crate) fn mesh_file_with(top: &str, replicas: usize, more: &str) -> MeshFile {
    let services = format!(
        "web: {{run: [sleep, infinity]}}\n\
         orders: {{run: [python3, server.py, '9000', orders], ports: {{9000: tcp}}, replicas: {replicas}, \
         healthy: {{port: 9000}}}}\n\
         deaf: {{run: [python3, server.py, '9000', deaf], ports: {{9000: tcp}}, replicas: 2}}\n{more}"
    );
    let policies = "name: orders\nservice: spiffe://example.org/*\n\
                    allow: [{name: web calls, from: [spiffe://example.org/web]}]\n";
    let file = MeshFile::with(top, &services, policies).unwrap();
    file.write("server.py", SERVER).unwrap();
    file
}

/// A load that runs.
pub(crate) struct Load(Child);

impl Load {
    /// As `web`, to `host`. The words are those of the client.
    pub(crate) fn start(mesh: &Mesh, host: &str, words: &[&str]) -> Self {
        let mut command = vec!["python3", "-c", CLIENT, host, "9000"];
        command.extend(words);
        let mut exec = mesh.exec_command("web", &command).unwrap();
        Self(exec.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// As `web`, to `host`, by so many threads, until its result is asked for.
    pub(crate) fn until_asked(mesh: &Mesh, host: &str, threads: &str) -> Self {
        let command = ["python3", "-c", CLIENT, host, "9000", "short", "-", threads];
        let mut exec = mesh.exec_command("web", &command).unwrap();
        exec.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(exec.spawn().unwrap())
    }

    /// Its result, once it has ended.
    pub(crate) fn result(self) -> Result<Value> {
        let finished = self.0.wait_with_output()?;
        let text = String::from_utf8_lossy(&finished.stdout);
        ensure!(
            finished.status.success(),
            "{text}{}",
            String::from_utf8_lossy(&finished.stderr)
        );
        serde_json::from_str(&text).with_context(|| text.into_owned())
    }

    /// How much was done, and how much was lost.
    pub(crate) fn done_and_lost(self) -> (u64, u64) {
        let result = self.result().unwrap();
        (result["done"].as_u64().unwrap(), result["failed"].as_u64().unwrap())
    }

    /// How much was done, when nothing was lost.
    pub(crate) fn done_without_loss(self, mesh: &Mesh) -> u64 {
        let result = self.result().unwrap();
        let failed = result["failed"].as_u64().unwrap();
        let unwell: Vec<_> = mesh
            .output()
            .text()
            .lines()
            .filter(|line| line.contains("WARN"))
            .map(str::to_owned)
            .collect();
        assert_eq!(
            failed,
            0,
            "{result:#}\n--- the sidecars' warnings:\n{}",
            unwell.join("\n")
        );
        result["done"].as_u64().unwrap()
    }
}

/// The sum of a counter of a service's sidecar over all series whose line
/// contains `labels`.
pub(crate) fn metric(mesh: &Mesh, service: &str, name: &str, labels: &str) -> u64 {
    let page = mesh
        .exec_ok(
            service,
            &["curl", "--silent", "--max-time", "20", "http://127.0.0.1:15020/metrics"],
        )
        .unwrap();
    let lines = page
        .lines()
        .filter(|line| line.starts_with(name) && line.contains(labels));
    let value = |line: &str| line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok());
    lines.filter_map(value).map(|value| value as u64).sum()
}
