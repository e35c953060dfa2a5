//! Policies that change while requests are under way.

use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use watchword_tests::{Mesh, MeshFile, wait_until};

use super::{add_nginx, mesh, mesh_file};
use crate::reload::policies_of;

/// Each of 64 connections asks for three paths in turn until standard input
/// ends. Prints what it asked, from when to when, and the status: 0 where the
/// connection failed.
const LOAD: &str = r#"
import http.client, json, sys, threading, time
told, asked, lock = threading.Event(), [], threading.Lock()
threading.Thread(target=lambda: (sys.stdin.read(), told.set()), daemon=True).start()
def work():
    connection, mine = http.client.HTTPConnection("orders", 8080, timeout=20), []
    while not told.is_set():
        for path in ["both", "first", "second"]:
            began = time.time()
            try:
                connection.request("GET", f"/{path}/x")
                answer = connection.getresponse()
                answer.read()
                status = answer.status
            except Exception as error:
                connection.close()
                status = 0
            mine.append([path, began, time.time(), status])
    with lock:
        asked.extend(mine)
workers = [threading.Thread(target=work) for _ in range(64)]
for worker in workers: worker.start()
for worker in workers: worker.join()
print(json.dumps(asked))
"#;

/// `both` is allowed by each; the other one by `name`.
fn policies(name: &str) -> String {
    format!(
        "name: orders {name}\nservice: spiffe://example.org/orders\nallow:\n  - from: [spiffe://example.org/web]\n    \
         http: [{{methods: [GET], paths: [/both/*, /{name}/*]}}]\n"
    )
}

/// By the clock that the load goes by, in its own process.
#[allow(
    clippy::disallowed_methods,
    reason = "two processes are compared, and Python reads no other clock that Rust does"
)]
fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    since.as_secs_f64()
}

fn in_force(mesh: &Mesh, name: &str) -> bool {
    policies_of(mesh, "orders-1").contains(name)
}

/// nginx as `orders`, under the first policy.
fn nginx() -> Mesh {
    let services = "\
web: {run: [sleep, infinity]}
orders:
  run: [nginx, -e, stderr, -p, ., -c, nginx.conf]
  ports: {8080: http}
  healthy: {port: 8080}
  directory: nginx
";
    let file = MeshFile::new(services, &policies("first")).unwrap();
    add_nginx(
        &file,
        "server { listen 8080; listen [::]:8080; location / { return 200 'ok\\n'; } }",
    );
    file.up().unwrap()
}

#[test]
fn policies_change_under_load_without_a_loss_and_without_a_leak() {
    let mesh = nginx();
    let mut load = mesh.exec_command("web", &["python3", "-c", LOAD]).unwrap();
    load.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut load = load.spawn().unwrap();
    // From when to when only this policy was in force.
    let mut spans: Vec<(&str, f64, f64)> = Vec::new();
    let mut since = now();
    for (name, next) in [
        ("first", "second"),
        ("second", "first"),
        ("first", "second"),
        ("second", "first"),
    ] {
        let enough = now() + 0.7;
        wait_until("some load", || now() > enough).unwrap();
        spans.push((name, since, now()));
        mesh.file().write("policies.yaml", &policies(next)).unwrap();
        wait_until("the change to be in force", || {
            in_force(&mesh, &format!("orders {next}"))
        })
        .unwrap();
        since = now();
    }
    drop(load.stdin.take());
    let finished = load.wait_with_output().unwrap();
    let asked: Vec<(String, f64, f64, u16)> = serde_json::from_slice(&finished.stdout).unwrap_or_else(|error| {
        panic!("{error}: {}", String::from_utf8_lossy(&finished.stderr));
    });
    assert_eq!(spans.len(), 4);
    let lost: Vec<_> = asked
        .iter()
        .filter(|(path, _, _, status)| path == "both" && *status != 200)
        .collect();
    assert!(
        lost.is_empty(),
        "{} of {} lost: {:?}",
        lost.len(),
        asked.len(),
        lost.first()
    );
    let mut judged = 0;
    for (path, began, ended, status) in asked.iter().filter(|(path, ..)| path != "both") {
        for (name, since, until) in &spans {
            if began > since && ended < until {
                judged += 1;
                let expected = if path == name { 200 } else { 403 };
                assert_eq!(
                    *status,
                    expected,
                    "/{path} under {name}, {:.3} s after it was in force",
                    began - since
                );
            }
        }
    }
    assert!(judged > 500, "only {judged} requests between the changes");
}

/// Reads until the connection ends, and says how.
const ENDLESS: &str = r#"
import socket, sys
stream = socket.create_connection(("orders", 8080), timeout=20)
stream.sendall(b"GET /endless HTTP/1.1\r\nHost: orders\r\n\r\n")
read = 0
try:
    while piece := stream.recv(65536):
        if read == 0:
            print("going", flush=True)
        read += len(piece)
    print("ended", flush=True)
except ConnectionError:
    print("reset", flush=True)
"#;

#[test]
fn an_answer_that_is_under_way_is_cut_when_policies_deny_its_request() {
    let mesh = mesh();
    let mut load = mesh.exec_command("web", &["python3", "-c", ENDLESS]).unwrap();
    load.stdout(Stdio::piped());
    let mut load = load.spawn().unwrap();
    let output = watchword_tests::Output::of(&mut load);
    output.wait_for("the answer to begin", |line| line == "going").unwrap();
    // One that goes on allowing it cuts nothing.
    let other = super::POLICIES.replace("GET, HEAD, POST, OPTIONS", "GET, HEAD, POST");
    mesh.file().write("policies.yaml", &other).unwrap();
    wait_until("the first change", || {
        super::answer(&mesh, "web", &["--request", "OPTIONS", "http://orders:8080/"]).contains(" 403")
    })
    .unwrap();
    assert!(
        load.try_wait().unwrap().is_none(),
        "it was cut by a change that allows it"
    );
    let denies = super::POLICIES.replace("paths: [/admin, /admin/*]", "paths: [/endless]");
    mesh.file().write("policies.yaml", &denies).unwrap();
    output.wait_for("the cut", |line| line == "reset").unwrap();
    load.wait().unwrap();
    mesh.output()
        .wait_for("its reason", |line| {
            line.contains("request ") && line.contains("reason=policy-changed") && line.contains("path=/endless")
        })
        .unwrap();
}

#[test]
fn a_policy_that_is_broken_changes_nothing_for_requests() {
    let mesh = mesh_file("", super::POLICIES).up().unwrap();
    mesh.file()
        .write(
            "policies.yaml",
            &super::POLICIES.replace("methods: [GET], paths", "methods: [get], paths"),
        )
        .unwrap();
    mesh.output()
        .wait_for("the mistake", |line| line.contains("policies.yaml:12:"))
        .unwrap();
    let answer = super::answer(&mesh, "lab", &["http://orders:8080/lab/1"]);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}
