//! Parts that fail, each in one way, and what is promised of the rest.

mod alone;

use std::process::{Child, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use watchword_tests::{Mesh, MeshFile, Output, Stopped, is_root, process, run, wait_until};

use crate::apps::{complaint, curl};

const SERVICES: &str = "\
web: {run: [sleep, infinity]}
echo: {run: [python3, echo.py], ports: {7000: tcp}, healthy: {port: 7000}}
";

const POLICIES: &str = "\
name: echo
service: spiffe://example.org/echo
allow:
  - {name: web talks, from: [spiffe://example.org/web], ports: [7000]}
";

/// Sends back what comes, and says how each connection ended.
const ECHO: &str = r#"
import socketserver

class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        try:
            while data := self.request.recv(65536):
                self.request.sendall(data)
            print("APP saw the end", flush=True)
        except OSError as error:
            print("APP saw", type(error).__name__, flush=True)

class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 1024

Server(("0.0.0.0", 7000), Echo).serve_forever()
"#;

/// Talks on one long connection and calls anew, in turns, until SIGTERM. Says
/// each way in which something ended, and how many calls there were. With an
/// argument it only talks on the long connection.
const CALLER: &str = r#"
import signal, socket, sys

calls = 0

def told(*arguments):
    print("calls", calls, flush=True)
    sys.exit(0)

signal.signal(signal.SIGTERM, told)

def once(connection):
    connection.sendall(b"x")
    return "fine" if connection.recv(1) == b"x" else "the end of data"

def attempt(what):
    try:
        return what()
    except ConnectionResetError:
        return "a reset"
    except OSError as error:
        return repr(error)

def short():
    with socket.create_connection(("echo", 7000), timeout=20) as connection:
        return once(connection)

live = socket.create_connection(("echo", 7000), timeout=30)
while True:
    outcome = attempt(lambda: once(live))
    if outcome != "fine":
        print("live:", outcome, flush=True)
        told()
    if len(sys.argv) < 2:
        outcome = attempt(short)
        if outcome != "fine":
            print("short:", outcome, flush=True)
    calls += 1
    if calls == 1:
        print("begun", flush=True)
"#;

fn mesh(top: &str) -> Mesh {
    let file = MeshFile::with(top, SERVICES, POLICIES).unwrap();
    file.write("echo.py", ECHO).unwrap();
    file.write("caller.py", CALLER).unwrap();
    file.up().unwrap()
}

/// A program inside `web` that is told to end by SIGTERM.
struct Running {
    child: Child,
    output: Output,
}

impl Running {
    fn start(mesh: &Mesh, command: &[&str]) -> Self {
        let mut command = mesh.exec_command("web", command).unwrap();
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let output = Output::of(&mut child);
        output.wait_for("its begin", |line| line == "begun").unwrap();
        Self { child, output }
    }

    fn caller(mesh: &Mesh, arguments: &[&str]) -> Self {
        let script = mesh.file().folder().join("caller.py");
        let mut command = vec!["python3", script.to_str().unwrap()];
        command.extend(arguments);
        Self::start(mesh, &command)
    }

    fn terminate(&self) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        kill(pid, Signal::SIGTERM).unwrap();
    }

    /// How many calls went well, when all did.
    fn all_went_well(self) -> u64 {
        self.terminate();
        let last = self
            .output
            .wait_for("its count", |line| line.starts_with("calls "))
            .unwrap();
        let text = self.output.text();
        assert!(!text.contains("live:") && !text.contains("short:"), "{text}");
        last["calls ".len()..].parse().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.terminate();
            let _ = self.child.wait();
        }
    }
}

fn control_plane(mesh: &Mesh) -> Pid {
    let config = mesh.run_folder().unwrap().join("control-plane.yaml");
    process(&["watchword-control-plane run", config.to_str().unwrap()]).unwrap()
}

fn supervisor(mesh: &Mesh) -> Pid {
    let folder = mesh.run_folder().unwrap();
    process(&["internal supervise", folder.to_str().unwrap()]).unwrap()
}

/// The sidecar's process; none while there is none.
fn sidecar(mesh: &Mesh, replica: &str) -> Option<Pid> {
    let record = mesh.record().unwrap();
    let replicas = record["replicas"].as_array().unwrap();
    let found = replicas.iter().find(|found| found["name"] == replica).unwrap();
    let pid = found["proxyPid"].as_i64()?;
    Some(Pid::from_raw(i32::try_from(pid).unwrap()))
}

/// A page of a sidecar, by its admin socket.
fn page(mesh: &Mesh, replica: &str, path: &str) -> String {
    let socket = mesh.run_folder().unwrap().join(replica).join("proxy-admin.sock");
    alone::page_of(&socket, path)
}

fn certificate(mesh: &Mesh, replica: &str) -> Value {
    serde_json::from_str(&page(mesh, replica, "/certs")).unwrap_or_default()
}

fn generation(mesh: &Mesh, replica: &str) -> u64 {
    certificate(mesh, replica)["generation"].as_u64().unwrap_or_default()
}

fn both_renew(mesh: &Mesh) {
    for replica in ["web-1", "echo-1"] {
        let before = generation(mesh, replica);
        wait_until("a new certificate", || generation(mesh, replica) > before)
            .unwrap_or_else(|error| panic!("{error}\n{}", mesh.output().text()));
    }
}

fn call(mesh: &Mesh) -> String {
    let script = "import socket; s = socket.create_connection(('echo', 7000), timeout=20); \
        s.sendall(b'x'); print(s.recv(1))";
    let finished = mesh.exec("web", &["python3", "-c", script]).unwrap();
    let (printed, errors) = (&finished.stdout, &finished.stderr);
    format!(
        "{}{}",
        String::from_utf8_lossy(printed),
        String::from_utf8_lossy(errors)
    )
}

fn calls_arrive_again(mesh: &Mesh) {
    wait_until("calls to arrive again", || call(mesh) == "b'x'\n")
        .unwrap_or_else(|error| panic!("{error}\n{}", mesh.output().text()));
}

#[test]
fn a_control_plane_that_is_killed_comes_back_with_its_state_and_no_call_is_lost() {
    let mesh = mesh("certificates: {ttl: 8s}");
    let caller = Running::caller(&mesh, &[]);
    let bundle = || std::fs::read(mesh.run_folder().unwrap().join("bundle.pem")).unwrap();
    let before = bundle();
    let first = control_plane(&mesh);
    kill(first, Signal::SIGKILL).unwrap();
    mesh.output()
        .wait_for("the end of the control plane", |line| {
            line.contains("the control plane ended with signal SIGKILL")
        })
        .unwrap();
    wait_until("another control plane", || {
        mesh.output().text().matches("control plane ready").count() == 2
    })
    .unwrap();
    assert_ne!(control_plane(&mesh), first);
    // It knows the lineages that it began before: nobody needs a new token.
    both_renew(&mesh);
    assert_eq!(bundle(), before);
    assert!(!mesh.output().text().contains("gets a new join token"));
    assert!(caller.all_went_well() > 10);
}

#[test]
fn a_control_plane_that_is_away_for_a_quarter_of_the_lifetime_is_not_missed() {
    const TTL: u64 = 8;
    let mesh = mesh(&format!("certificates: {{ttl: {TTL}s}}"));
    let caller = Running::caller(&mesh, &[]);
    let plane = control_plane(&mesh);
    for replica in ["web-1", "echo-1"] {
        // Away while this one is to be renewed.
        wait_until("the time to renew to come near", || {
            let end = certificate(&mesh, replica)["not_after"].as_u64().unwrap();
            let left = end.saturating_sub(alone::unix_now());
            (TTL / 2..=TTL * 5 / 8).contains(&left)
        })
        .unwrap();
        Stopped::stop(plane).unwrap().for_a_while(Duration::from_secs(TTL / 4));
        both_renew(&mesh);
    }
    assert!(caller.all_went_well() > 10);
}

/// Seconds for which a sidecar's policies may be out of date.
fn snapshot_age(mesh: &Mesh, replica: &str) -> f64 {
    let metrics = page(mesh, replica, "/metrics");
    let age = metrics
        .lines()
        .find_map(|line| line.strip_prefix("watchword_snapshot_age_seconds{kind=\"policies\"} "));
    age.unwrap_or_else(|| panic!("{metrics}")).parse().unwrap()
}

#[test]
fn a_control_plane_that_is_away_for_too_long_stops_calls_with_the_reason_and_all_heals_by_itself() {
    let mesh = mesh("certificates: {ttl: 4s}");
    assert_eq!(call(&mesh), "b'x'\n");
    let away = Stopped::stop(control_plane(&mesh)).unwrap();
    for replica in ["web-1", "echo-1"] {
        wait_until("the reason to be shown", || {
            page(&mesh, replica, "/readyz").contains("identity: the certificate has expired")
        })
        .unwrap();
    }
    assert!(call(&mesh).contains("ConnectionResetError"));
    mesh.output()
        .wait_for("the reason in the log", |line| {
            line.contains("direction=outbound") && line.contains("reason=no-identity")
        })
        .unwrap();
    wait_until("snapshots to grow old", || snapshot_age(&mesh, "web-1") > 0.0).unwrap();
    drop(away);
    calls_arrive_again(&mesh);
    wait_until("new snapshots", || snapshot_age(&mesh, "web-1") == 0.0).unwrap();
    for replica in ["web-1", "echo-1"] {
        wait_until("readiness", || page(&mesh, replica, "/readyz") == "ok\n")
            .unwrap_or_else(|error| panic!("{error}\n{}", mesh.output().text()));
    }
    // A token that was used up is not tried again: it would look stolen.
    assert!(!mesh.output().text().contains("alarm=true"), "{}", mesh.output().text());
}

/// Kills a sidecar while a connection is open, keeps it away, and lets it come
/// back. Both ends of the connection must see a reset.
fn without_its_sidecar(mesh: &Mesh, replica: &str, while_away: impl Fn()) {
    let caller = Running::caller(mesh, &["live"]);
    let resets = || mesh.output().text().matches("APP saw ConnectionResetError").count();
    let before = resets();
    // What it would start again is kept from doing so.
    let held = Stopped::stop(supervisor(mesh)).unwrap();
    let pid = sidecar(mesh, replica).unwrap();
    kill(pid, Signal::SIGKILL).unwrap();
    let end = caller
        .output
        .wait_for("the end", |line| line.starts_with("live:"))
        .unwrap();
    assert_eq!(end, "live: a reset");
    while_away();
    drop(held);
    wait_until("the app's reset", || resets() > before)
        .unwrap_or_else(|error| panic!("{error}\n{}", mesh.output().text()));
    wait_until("another sidecar", || {
        sidecar(mesh, replica).is_some_and(|other| other != pid)
    })
    .unwrap();
    calls_arrive_again(mesh);
}

#[test]
fn a_sidecar_that_is_killed_resets_what_it_carried_and_lets_nothing_past_it_meanwhile() {
    let mesh = mesh("");
    let record = mesh.record().unwrap();
    let echo = record["replicas"]
        .as_array()
        .unwrap()
        .iter()
        .find(|found| found["name"] == "echo-1")
        .unwrap();
    let address = echo["addresses"][0].as_str().unwrap();
    let switch = record["switchPid"].as_i64().unwrap();
    let dial = format!(
        "import socket\ntry:\n    s = socket.create_connection(('{address}', 7000), timeout=20)\n    \
         s.sendall(b'x'); print(s.recv(1))\nexcept ConnectionError:\n    print('refused')"
    );
    let from_outside = || run(&mut mesh.in_network_of(switch, &["python3", "-c", &dial])).unwrap();
    without_its_sidecar(&mesh, "echo-1", || {
        assert!(call(&mesh).contains("ConnectionResetError"), "{}", call(&mesh));
        assert_eq!(from_outside(), "refused\n");
    });
    without_its_sidecar(&mesh, "web-1", || {
        assert!(call(&mesh).contains("Connection"), "{}", call(&mesh));
    });
    // Neither side took the cut for the end of its data; `call` ends in order.
    let ends = mesh.output().text();
    assert!(!ends.contains("panicked"), "{ends}");
}

#[test]
fn a_sidecar_that_is_asked_to_stop_ends_in_order_and_resets_what_outlasts_its_drain() {
    let mesh = mesh("");
    for replica in ["echo-1", "web-1"] {
        let caller = Running::caller(&mesh, &["live"]);
        let pid = sidecar(&mesh, replica).unwrap();
        kill(pid, Signal::SIGTERM).unwrap();
        let end = caller
            .output
            .wait_for("the end", |line| line.starts_with("live:"))
            .unwrap();
        assert_eq!(end, "live: a reset");
        let ended = format!("the sidecar of {replica} ended with exit status 0");
        mesh.output().wait_for(&ended, |line| line.contains(&ended)).unwrap();
        wait_until("another sidecar", || {
            sidecar(&mesh, replica).is_some_and(|other| other != pid)
        })
        .unwrap();
        calls_arrive_again(&mesh);
    }
    wait_until("the app's resets", || {
        mesh.output().text().matches("APP saw ConnectionResetError").count() >= 2
    })
    .unwrap();
}

/// Lowers a sidecar's limit, as its own user: even root may lack the right to
/// do it for others.
fn limit_files(sidecar: Pid, limit: u32) {
    let prlimit = format!("exec prlimit --pid {sidecar} --nofile={limit}:");
    let mut command = match is_root() {
        true => std::process::Command::new("setpriv"),
        false => std::process::Command::new("env"),
    };
    if is_root() {
        command.args(["--reuid", "1337", "--regid", "1337", "--clear-groups"]);
    }
    run(command.args(["sh", "-c", &prlimit])).unwrap();
}

/// Opens many connections at once, and closes them at SIGTERM.
const MANY: &str = r#"
import signal, socket
many = [socket.create_connection(("echo", 7000), timeout=30) for _ in range(100)]
print("begun", flush=True)
signal.sigwait({signal.SIGTERM, signal.SIGINT})
for connection in many:
    connection.close()
"#;

#[test]
fn a_sidecar_at_its_limit_of_open_files_goes_on_with_what_it_has_and_recovers() {
    let mesh = mesh("certificates: {ttl: 6s}");
    let caller = Running::caller(&mesh, &["live"]);
    limit_files(sidecar(&mesh, "web-1").unwrap(), 64);
    let flood = Running::start(
        &mesh,
        &[
            "python3",
            "-c",
            &format!("import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGTERM}})\n{MANY}"),
        ],
    );
    mesh.output()
        .wait_for("the trouble in the log", |line| line.contains("new connections wait"))
        .unwrap();
    // Certificates and pages have descriptors left.
    both_renew(&mesh);
    let metrics = page(&mesh, "web-1", "/metrics");
    let pauses = metrics
        .lines()
        .find_map(|line| line.strip_prefix("watchword_accept_pauses_total"));
    let pauses: f64 = pauses.unwrap().rsplit(' ').next().unwrap().parse().unwrap();
    assert!(pauses > 0.0, "{metrics}");
    let lines = mesh.output().text().matches("new connections wait").count();
    assert!(lines < 20, "{lines} lines for {pauses} pauses");
    // Whoever is accepted is carried, too.
    let text = mesh.output().text();
    let mut failed = text
        .lines()
        .filter(|line| line.contains("direction=outbound") && line.contains("Too many open files"));
    assert_eq!(failed.next(), None);
    drop(flood);
    calls_arrive_again(&mesh);
    assert!(caller.all_went_well() > 10);
}

#[test]
fn an_app_that_does_not_listen_yet_is_refused_and_reached_as_soon_as_it_does() {
    let services = "\
web: {run: [sleep, infinity]}
late: {run: [sh, -c, 'until [ -e go ]; do sleep 0.1; done; exec python3 -m http.server 8080'], ports: {8080: http}}
";
    let policies = "name: late\nservice: spiffe://example.org/late\nallow:\n  - from: [spiffe://example.org/web]\n";
    let mesh = MeshFile::new(services, policies).unwrap().up().unwrap();
    let get = || mesh.exec("web", &curl(&["http://late:8080/go"])).unwrap();
    // curl's words depend on whether it saw the connection open before the reset
    // came; the log is sure.
    let said = complaint(&get());
    assert!(said.contains("reset") || said.contains("Couldn't connect"), "{said}");
    for direction in ["inbound", "outbound"] {
        mesh.output()
            .wait_for("the reason", |line| {
                line.contains(&format!("direction={direction}"))
                    && line.contains("reason=app-unreachable result=refused")
            })
            .unwrap();
    }
    mesh.file().write("go", "gone\n").unwrap();
    wait_until("the app", || get().stdout == b"gone\n").unwrap();
}
