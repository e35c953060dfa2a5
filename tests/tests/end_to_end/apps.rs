//! The apps that tests run, and the files that describe them.

/// A server that says who called it and by which family, and writes a line to
/// its log for every connection that it accepts.
pub(crate) const SERVER: &str = r#"
import http.server, socket, sys

class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    daemon_threads = True

    def get_request(self):
        connection, address = super().get_request()
        print("APP accepted a connection", flush=True)
        return connection, address

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer(("hello from " + sys.argv[2] + " " + self.path + "\n").encode())

    def do_POST(self):
        self.answer(self.rfile.read(int(self.headers["Content-Length"])))

    def log_message(self, *arguments):
        pass

Server(("::", int(sys.argv[1])), Handler).serve_forever()
"#;

/// `web` calls `orders`; `lab` may not.
pub(crate) const SERVICES: &str = "\
web: {run: [python3, server.py, '8080', web], ports: {8080: http}, healthy: {port: 8080}}
orders: {run: [python3, server.py, '8080', orders], ports: {8080: http}, healthy: {port: 8080}}
lab: {run: [sleep, infinity]}
";

pub(crate) const POLICIES: &str = "\
name: orders
service: spiffe://example.org/orders
allow:
  - {name: web reads orders, from: [spiffe://example.org/web], ports: [8080]}
deny:
  - {name: not from the lab, from: [spiffe://example.org/lab], ports: [8080]}
---
name: web
service: spiffe://example.org/web
allow:
  - {name: web calls itself, from: [spiffe://example.org/web]}
";

/// The usual mesh, not started yet.
pub(crate) fn mesh_file() -> watchword_tests::MeshFile {
    mesh_file_with("")
}

/// The usual mesh with more top-level keys.
pub(crate) fn mesh_file_with(top: &str) -> watchword_tests::MeshFile {
    let file = watchword_tests::MeshFile::with(top, SERVICES, POLICIES).unwrap();
    file.write("server.py", SERVER).unwrap();
    file
}

/// The usual mesh, ready.
pub(crate) fn mesh() -> watchword_tests::Mesh {
    mesh_file().up().unwrap()
}

/// curl, quiet but for its body and errors, with a deadline.
pub(crate) fn curl<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    let mut command = vec![
        "curl",
        "--silent",
        "--show-error",
        "--fail",
        "--max-time",
        "20",
        "--noproxy",
        "*",
    ];
    command.extend(arguments);
    command
}

/// Not `curl` at all: what a command that failed said.
pub(crate) fn complaint(finished: &std::process::Output) -> String {
    assert!(
        !finished.status.success(),
        "it should have failed: {}",
        String::from_utf8_lossy(&finished.stdout)
    );
    String::from_utf8_lossy(&finished.stderr).into_owned()
}
