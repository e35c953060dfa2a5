//! Servers and clients that the world uses: nginx, curl, h2load, fortio.

use std::path::Path;

use watchword_tests::{Mesh, MeshFile};

use super::add_nginx;
use crate::live::memory;

/// Speaks HTTP/1.1 on 8080, HTTP/2 without TLS on 8081.
const FILES: &str = "\
root www; gzip on; gzip_types text/plain; types { text/plain txt; }
server { listen 8080; listen [::]:8080; }
server { listen 8081 http2; listen [::]:8081 http2; }
";

/// Counts what is uploaded, and takes its time over it.
const SLOW: &str = r#"
import hashlib, http.server, socket, sys, time
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    daemon_threads = True
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_PUT(self):
        digest, count = hashlib.sha256(), 0
        while size := int(self.rfile.readline(), 16):
            piece = self.rfile.read(size)
            digest.update(piece)
            if (count + size) >> 20 != count >> 20:
                time.sleep(0.02)
            count += size
            self.rfile.readline()
        self.rfile.readline()
        answer = f"{count} {digest.hexdigest()}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
    def log_message(self, *arguments):
        pass
Server(("::", int(sys.argv[1])), Handler).serve_forever()
"#;

const POLICIES: &str = "\
name: all
service: spiffe://example.org/*
allow: [{from: [spiffe://example.org/web]}]
";

fn file_with_nginx() -> MeshFile {
    let services = "\
web: {run: [sleep, infinity]}
files:
  run: [nginx, -e, stderr, -p, ., -c, nginx.conf]
  ports: {8080: http, 8081: http}
  healthy: {port: 8081}
  directory: nginx
slow: {run: [python3, slow.py, '8080'], ports: {8080: http}, healthy: {port: 8080}}
echo: {run: [python3, server.py, '8080', echo], ports: {8080: http}, healthy: {port: 8080}}
";
    let file = MeshFile::new(services, POLICIES).unwrap();
    add_nginx(&file, FILES);
    file.open_folder("nginx/www").unwrap();
    file.write("slow.py", SLOW).unwrap();
    file.write("server.py", crate::apps::SERVER).unwrap();
    let numbers: String = (0..700_000).map(|number| format!("{number}\n")).collect();
    file.write("nginx/www/numbers.txt", &numbers).unwrap();
    file.write("nginx/www/small.txt", "hello\n").unwrap();
    file
}

/// curl with the ways to speak to nginx's two ports.
const WAYS: [(&str, &str); 2] = [
    ("--http1.1", "http://files:8080"),
    ("--http2-prior-knowledge", "http://files:8081"),
];

/// What curl prints in any encoding, as a service without TLS would give it.
fn fetch(mesh: &Mesh, arguments: &[&str]) -> Vec<u8> {
    let mut command = vec!["curl", "--silent", "--show-error", "--max-time", "60"];
    command.extend(arguments);
    let finished = mesh.exec("web", &command).unwrap();
    assert!(
        finished.status.success(),
        "{}",
        String::from_utf8_lossy(&finished.stderr)
    );
    finished.stdout
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

#[test]
fn nginx_serves_files_ranges_heads_compressed_and_unchanged_as_without_a_mesh() {
    let mesh = file_with_nginx().up().unwrap();
    let whole = read(&mesh.file().folder().join("nginx/www/numbers.txt"));
    for (version, base) in WAYS {
        let url = format!("{base}/numbers.txt");
        assert!(fetch(&mesh, &[version, &url]) == whole, "{version}: other bytes came");
        let part = fetch(&mesh, &[version, "--range", "1000000-3999999", &url]);
        assert!(part == whole[1_000_000..4_000_000], "{version}: another range came");
        let head = text(fetch(&mesh, &[version, "--head", &url])).to_lowercase();
        assert!(
            head.contains(&format!("\ncontent-length: {}\r\n", whole.len())),
            "{head}"
        );
        let squeezed = fetch(&mesh, &[version, "--header", "Accept-Encoding: gzip", &url]);
        assert!(
            squeezed.starts_with(&[0x1f, 0x8b]) && squeezed.len() < whole.len() / 2,
            "{version}: no gzip"
        );
        assert!(
            fetch(&mesh, &[version, "--compressed", &url]) == whole,
            "{version}: other bytes came"
        );
        let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap();
        let unchanged = format!("If-None-Match: {tag}");
        let answer = text(fetch(&mesh, &[version, "--include", "--header", &unchanged, &url]));
        assert!(answer.lines().next().unwrap().contains(" 304"), "{answer}");
        assert!(answer.ends_with("\r\n\r\n"), "{answer}");
        let missing = text(fetch(&mesh, &[version, "--include", &format!("{base}/missing")]));
        assert!(missing.lines().next().unwrap().contains(" 404"), "{missing}");
    }
}

#[test]
fn requests_one_after_the_other_share_their_connection() {
    let mesh = file_with_nginx().up().unwrap();
    let mut three = vec!["--http1.1", "--write-out", "%{http_code} %{num_connects}\\n"];
    for _ in 0..3 {
        three.extend(["--output", "/dev/null", "http://files:8080/small.txt"]);
    }
    assert_eq!(text(fetch(&mesh, &three)), "200 1\n200 0\n200 0\n");
}

#[test]
fn an_upload_comes_back_as_it_was() {
    let mesh = file_with_nginx().up().unwrap();
    let numbers = mesh.file().folder().join("nginx/www/numbers.txt");
    let data = format!("@{}", numbers.display());
    let echoed = fetch(&mesh, &["--data-binary", &data, "http://echo:8080/"]);
    assert!(echoed == read(&numbers), "other bytes came back");
}

/// curl 7.88 loses the answer when its stream is reset while it still sends.
#[test]
fn whoever_still_sends_when_it_is_denied_gets_its_answer() {
    let file = file_with_nginx();
    let denies = format!("{POLICIES}deny: [{{from: [spiffe://example.org/web], http: [{{methods: [POST]}}]}}]\n");
    file.write("policies.yaml", &denies).unwrap();
    let mesh = file.up().unwrap();
    let numbers = mesh.file().folder().join("nginx/www/numbers.txt");
    let large = format!("@{}", numbers.display());
    for (version, base) in WAYS {
        for (body, path) in [("small", "/"), (&large, "/"), ("small", "/%00"), (&large, "/%00")] {
            let url = format!("{base}{path}");
            let command = [version, "--include", "--header", "Expect:", "--data-binary", body, &url];
            let expected = if path == "/" { " 403" } else { " 400" };
            for _ in 0..20 {
                let answer = text(fetch(&mesh, &command));
                assert!(
                    answer.lines().next().unwrap().contains(expected),
                    "{version} {path}: {answer}"
                );
            }
        }
    }
}

#[test]
fn a_large_upload_to_an_app_that_takes_its_time_leaves_both_sidecars_small() {
    let mesh = file_with_nginx().up().unwrap();
    let replicas = ["web-1", "slow-1"];
    let before = replicas.map(|replica| memory(&mesh, replica)[1]);
    let upload = "head --bytes=52428800 /dev/zero | curl --silent --show-error \
                  --max-time 120 --no-buffer --upload-file - http://slow:8080/up";
    let answer = mesh.exec_ok("web", &["sh", "-c", upload]).unwrap();
    assert!(answer.starts_with("52428800 "), "{answer}");
    let after = replicas.map(|replica| memory(&mesh, replica)[1]);
    for (replica, (before, after)) in replicas.iter().zip(before.into_iter().zip(after)) {
        assert!(
            after < before + 16 * 1024,
            "{replica}: {before} KiB at most, then {after}"
        );
    }
}

/// h2load's own count.
fn h2load(mesh: &Mesh, arguments: &[&str], count: u32) {
    let count_text = count.to_string();
    let mut command = vec!["timeout", "120", "h2load", "--requests", &count_text, "--clients", "64"];
    command.extend(arguments);
    let said = mesh.exec_ok("web", &command).unwrap();
    assert!(
        said.contains(&format!("{count} succeeded, 0 failed, 0 errored, 0 timeout")),
        "{said}"
    );
    assert!(
        said.contains(&format!("status codes: {count} 2xx, 0 3xx, 0 4xx, 0 5xx")),
        "{said}"
    );
}

#[test]
fn thousands_of_requests_on_sixty_four_connections_all_succeed() {
    let mesh = file_with_nginx().log("warn").up().unwrap();
    h2load(&mesh, &["--h1", "http://files:8080/small.txt"], 6_000);
    h2load(
        &mesh,
        &["--max-concurrent-streams", "10", "http://files:8081/small.txt"],
        6_000,
    );
    // nginx closes a connection after a thousand requests.
    let many = ["--clients", "2", "--h1", "http://files:8080/small.txt"];
    h2load(&mesh, &many, 5_000);
    let many = [
        "--clients",
        "2",
        "--max-concurrent-streams",
        "10",
        "http://files:8081/small.txt",
    ];
    h2load(&mesh, &many, 5_000);
}

#[test]
fn fortio_loses_nothing_over_http_and_grpc() {
    let services = "\
web: {run: [sleep, infinity]}
fortio:
  run: [./fortio, server, -http-port, '8080', -grpc-port, '8079', -redirect-port, disabled, -tcp-port, disabled, -udp-port, disabled]
  ports: {8080: http, 8079: grpc}
  healthy: {port: 8079}
";
    let policies = "\
name: fortio
service: spiffe://example.org/fortio
allow:
  - {name: http, from: [spiffe://example.org/web], http: [{methods: [GET], paths: [/echo]}]}
  - {name: ping, from: [spiffe://example.org/web], grpc: [{service: fgrpc.PingServer, methods: [Ping]}]}
";
    let file = MeshFile::new(services, policies).unwrap().log("warn");
    let fortio = file.lend("fortio").unwrap();
    let mesh = file.up().unwrap();
    let load = |more: &[&str]| {
        let mut command = vec![
            "timeout",
            "120",
            fortio.to_str().unwrap(),
            "load",
            "-qps",
            "0",
            "-n",
            "3000",
            "-c",
            "8",
        ];
        command.extend(more);
        let finished = mesh.exec("web", &command).unwrap();
        String::from_utf8_lossy(&[finished.stdout, finished.stderr].concat()).into_owned()
    };
    let http = load(&["http://fortio:8080/echo?size=1000"]);
    assert!(http.contains("Code 200 : 3000 (100.0 %)"), "{http}");
    let grpc = load(&["-grpc", "-ping", "-payload-size", "1000", "fortio:8079"]);
    assert!(grpc.contains("Ping SERVING : 3000"), "{grpc}");
    // Another method of the same service is denied.
    let health = load(&["-grpc", "fortio:8079"]);
    assert!(health.contains("PermissionDenied"), "{health}");
}
