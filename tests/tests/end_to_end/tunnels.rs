//! Tunnels that stay warm, and what happens to them when parts come and go.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use watchword_tests::{Mesh, Vault, wait_until};

use crate::dialling::{DATABASE, write_database};
use crate::load::{Load, mesh_file, mesh_file_with, metric};
use crate::vault::{app_role, assert_signed_once, issued};

const HANDSHAKES: &str = "watchword_tunnel_handshakes_total";

#[test]
fn ten_thousand_short_connections_cost_a_handful_of_handshakes() {
    let mesh = mesh_file("", 1).up().unwrap();
    let before = metric(&mesh, "web", HANDSHAKES, "");
    let done = Load::start(&mesh, "orders", &["short", "10000", "8"]).done_without_loss(&mesh);
    assert_eq!(done, 10_000);
    let handshakes = metric(&mesh, "web", HANDSHAKES, "") - before;
    assert!((1..=32).contains(&handshakes), "{handshakes} handshakes");
}

/// One lane for each who calls at the same time, and 128 lanes on a connection.
#[test]
fn what_many_apps_say_at_once_shares_a_handful_of_connections() {
    let mesh = mesh_file("", 1).up().unwrap();
    let before = metric(&mesh, "web", HANDSHAKES, "");
    let done = Load::start(&mesh, "orders", &["short", "5000", "200"]).done_without_loss(&mesh);
    assert_eq!(done, 5000);
    let handshakes = metric(&mesh, "web", HANDSHAKES, "") - before;
    assert!((2..=4).contains(&handshakes), "{handshakes} handshakes");
    let active = || metric(&mesh, "orders", "watchword_tunnels_active", "");
    assert!((2..=4).contains(&active()), "{} connections", active());
}

/// Opens so many connections one after the other, says so, and keeps them until
/// its standard input ends.
const HOLDER: &str = r#"
import socket, sys
held = []
for _ in range(int(sys.argv[1])):
    stream = socket.create_connection(("orders", 9000), timeout=30)
    stream.sendall(b"ping\n")
    stream.recv(100)
    held.append(stream)
print("held", flush=True)
sys.stdin.read()
"#;

/// How many handshakes it takes to have so many connections open at once.
fn handshakes_to_hold(mesh: &Mesh, connections: &str) -> u64 {
    let before = metric(mesh, "web", HANDSHAKES, "");
    let mut holder = mesh
        .exec_command("web", &["python3", "-c", HOLDER, connections])
        .unwrap();
    let holder = holder.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut holder = holder.spawn().unwrap();
    let mut said = String::new();
    BufReader::new(holder.stdout.take().unwrap())
        .read_line(&mut said)
        .unwrap();
    assert_eq!(said, "held\n");
    let handshakes = metric(mesh, "web", HANDSHAKES, "") - before;
    drop(holder.stdin.take());
    assert!(holder.wait().unwrap().success());
    handshakes
}

#[test]
fn calls_in_company_share_a_connection_until_one_of_them_was_a_flow() {
    let mesh = mesh_file("", 1).up().unwrap();
    // The first is alone.
    assert_eq!(handshakes_to_hold(&mesh, "6"), 2);
    Load::start(&mesh, "orders", &["flow", "40000000", "0"]).done_without_loss(&mesh);
    // One is there already.
    assert_eq!(handshakes_to_hold(&mesh, "6"), 5);
}

/// None while it is being restarted.
fn sidecar(mesh: &Mesh, replica: &str) -> Option<Pid> {
    let record = mesh.record().ok()?;
    let replicas = record["replicas"].as_array()?;
    let found = replicas.iter().find(|found| found["name"] == replica)?;
    Some(Pid::from_raw(i32::try_from(found["proxyPid"].as_i64()?).ok()?))
}

#[test]
fn a_sidecar_that_is_restarted_in_order_under_load_loses_nothing() {
    assert_restart_loses_nothing(&mesh_file("", 2).up().unwrap());
}

/// Of `orders`, which has two replicas.
pub(crate) fn assert_restart_loses_nothing(mesh: &Mesh) {
    let load = Load::start(mesh, "orders", &["short", "8s", "8"]);
    wait_until("the load to reach it", || {
        metric(mesh, "orders-2", "watchword_tunnel_streams_total", "") > 100
    })
    .unwrap();
    let old = sidecar(mesh, "orders-2").unwrap();
    kill(old, Signal::SIGTERM).unwrap();
    wait_until("it to be back", || {
        sidecar(mesh, "orders-2").is_some_and(|new| new != old)
    })
    .unwrap();
    assert!(load.done_without_loss(mesh) > 200);
    wait_until("calls to reach it again", || {
        Load::start(mesh, "orders", &["short", "50", "2"]).done_without_loss(mesh);
        metric(mesh, "orders-2", "watchword_tunnel_streams_total", "") > 0
    })
    .unwrap();
}

pub(crate) fn generation(mesh: &Mesh, replica: &str) -> u64 {
    let status = mesh.status().unwrap();
    let replicas = status["replicas"].as_array().unwrap().clone();
    let found = replicas.iter().find(|found| found["replica"] == replica).unwrap();
    found["generation"].as_u64().unwrap()
}

/// A new stream starts on a handshake of today, and an idle tunnel that can't
/// be used again is not kept for the minute that it might wait otherwise.
#[test]
fn a_new_certificate_retires_the_idle_tunnels_of_the_old_one() {
    // They are renewed by 22 s, and the first ones expire just before 40 s.
    const BEFORE_EXPIRY: Duration = Duration::from_secs(35);
    let began = Instant::now();
    let mesh = mesh_file("certificates: {ttl: 40s}", 1).up().unwrap();
    let before = generation(&mesh, "web-1");
    let call = || Load::start(&mesh, "orders-1", &["short", "20", "1"]).done_without_loss(&mesh);
    let active = || metric(&mesh, "web", "watchword_tunnels_active", "");
    let handshakes = || metric(&mesh, "web", HANDSHAKES, "");
    assert_eq!(call(), 20);
    assert!(active() > 0, "no tunnel waits");
    wait_until("the next certificate", || generation(&mesh, "web-1") > before).unwrap();
    wait_until("the old tunnels to be closed", || active() == 0).unwrap();
    assert!(began.elapsed() < BEFORE_EXPIRY, "only now that they have expired");
    let shaken = handshakes();
    assert_eq!(call(), 20);
    assert!(handshakes() > shaken, "no new handshake");
}

/// Stops a process for a moment: it is unreachable, and nobody restarts it.
fn suspend(pid: Pid, moment: Duration) {
    kill(pid, Signal::SIGSTOP).unwrap();
    #[allow(clippy::disallowed_methods, reason = "being away for so long is what is tested")]
    std::thread::sleep(moment);
    kill(pid, Signal::SIGCONT).unwrap();
}

/// One session of a minute with a question each tenth of a second; nobody else
/// can see its rows, so a session that was replaced would count fewer.
fn database_session(mesh: &Mesh) -> Child {
    let mut script = String::from("CREATE TEMP TABLE seen (n int);\n\\o /dev/null\n");
    for n in 0..600 {
        let _ = writeln!(script, "INSERT INTO seen VALUES ({n}); SELECT pg_sleep(0.1);");
    }
    script.push_str("\\o\nSELECT count(*) FROM seen;\n");
    let command = [
        ["psql", "--quiet", "--no-psqlrc", "--tuples-only", "--no-align"],
        [
            "--username=app",
            "--host=db",
            "--dbname=open",
            "--set=ON_ERROR_STOP=1",
            "--file=-",
        ],
    ];
    let mut exec = mesh.exec_command("web", &command.concat()).unwrap();
    exec.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut session = exec.spawn().unwrap();
    session.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    session
}

fn complaint_of(finished: &std::process::Output) -> String {
    String::from_utf8_lossy(&finished.stderr).into_owned()
}

#[test]
fn twenty_rotations_under_load_lose_nothing_though_the_control_plane_is_away_for_a_while() {
    twenty_rotations_lose_nothing("");
}

#[test]
fn twenty_rotations_under_load_lose_nothing_when_vault_signs() {
    let vault = Vault::start().unwrap();
    let mesh = twenty_rotations_lose_nothing(&vault.authority(&app_role(&vault)));
    assert_signed_once(&vault, &mesh);
    assert!(issued(&mesh).len() > 100);
}

fn twenty_rotations_lose_nothing(authority: &str) -> Mesh {
    let file = mesh_file_with(&format!("certificates: {{ttl: 4s}}\n{authority}"), 2, DATABASE);
    write_database(&file);
    let mesh = file.up().unwrap();
    let before = [generation(&mesh, "web-1"), generation(&mesh, "orders-1")];
    let short = Load::start(&mesh, "orders", &["short", "62s", "4"]);
    let keep = Load::start(&mesh, "orders", &["keep", "62"]);
    let flow = Load::start(&mesh, "orders", &["flow", "60000000", "60"]);
    let session = database_session(&mesh);
    wait_until("half of the rotations", || generation(&mesh, "web-1") >= before[0] + 10).unwrap();
    suspend(mesh.control_plane().unwrap(), Duration::from_secs(1));
    assert!(short.done_without_loss(&mesh) > 2000);
    assert!(keep.done_without_loss(&mesh) > 500);
    assert_eq!(flow.done_without_loss(&mesh), 1);
    let finished = session.wait_with_output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&finished.stdout).trim(),
        "600",
        "{}",
        complaint_of(&finished)
    );
    let after = [generation(&mesh, "web-1"), generation(&mesh, "orders-1")];
    assert!(
        after[0] >= before[0] + 20 && after[1] >= before[1] + 20,
        "{before:?} to {after:?}"
    );
    mesh
}

/// Otherwise they would wait for a handshake that never comes.
#[test]
fn a_sidecar_that_drains_sends_new_callers_away_at_once() {
    let mesh = mesh_file("", 1).up().unwrap();
    let keep = Load::start(&mesh, "orders", &["keep", "30"]);
    wait_until("a connection to drain", || {
        metric(&mesh, "orders", "watchword_tunnel_streams_total", "") > 0
    })
    .unwrap();
    let short = Load::start(&mesh, "orders", &["short", "6s", "2"]);
    wait_until("calls", || {
        metric(&mesh, "orders", "watchword_tunnel_streams_total", "") > 20
    })
    .unwrap();
    kill(sidecar(&mesh, "orders-1").unwrap(), Signal::SIGTERM).unwrap();
    mesh.output()
        .wait_for("a caller that was sent away", |line| {
            line.contains("direction=outbound") && line.contains("closed-by-peer") && line.contains("Shutdown")
        })
        .unwrap();
    // What outlasts the drain is reset, and the calls come back with the sidecar.
    assert!(keep.done_and_lost().1 == 1 && short.done_and_lost().0 > 20);
}

#[test]
fn a_replica_whose_sidecar_is_killed_costs_the_calls_on_it_and_no_other() {
    let mesh = mesh_file("", 2).up().unwrap();
    let load = Load::start(&mesh, "orders", &["short", "8s", "8"]);
    wait_until("the load to reach it", || {
        metric(&mesh, "orders-2", "watchword_tunnel_streams_total", "") > 100
    })
    .unwrap();
    let old = sidecar(&mesh, "orders-2").unwrap();
    kill(old, Signal::SIGKILL).unwrap();
    wait_until("it to be back", || {
        sidecar(&mesh, "orders-2").is_some_and(|new| new != old)
    })
    .unwrap();
    let (done, lost) = load.done_and_lost();
    // Each of the eight has at most one call on it when it dies.
    assert!(done > 200 && lost <= 8, "{lost} of {done} lost");
}

#[test]
fn a_replica_that_does_not_listen_is_passed_over_and_then_avoided() {
    let mesh = mesh_file("", 1).up().unwrap();
    wait_until("the other replica to listen", || {
        mesh.exec(
            "web",
            &[
                "python3",
                "-c",
                "import socket; socket.create_connection(('deaf-1', 9000)).recv(0)",
            ],
        )
        .is_ok()
            && metric(&mesh, "deaf-1", "watchword_tunnel_streams_total", "") > 0
    })
    .unwrap();
    let done = Load::start(&mesh, "deaf", &["short", "2000", "4"]).done_without_loss(&mesh);
    assert_eq!(done, 2000);
    let refused = metric(&mesh, "deaf-2", "watchword_connections_total", "result=\"refused\"");
    assert!((1..100).contains(&refused), "tried {refused} times");
}

/// Before, such a call failed although the caller could have answered itself.
#[test]
fn a_service_whose_other_replica_is_away_can_still_call_itself() {
    let services = "self: {run: [python3, server.py, '9000', self], ports: {9000: tcp}, replicas: 2}";
    let policies =
        "name: self\nservice: spiffe://example.org/self\nallow: [{name: itself, from: [spiffe://example.org/self]}]\n";
    let file = watchword_tests::MeshFile::new(services, policies).unwrap();
    file.write("server.py", &crate::load::SERVER.replace("deaf-2", "self-2"))
        .unwrap();
    let mesh = file.up().unwrap();
    let ask =
        "import socket; s = socket.create_connection(('self', 9000), 20); s.sendall(b'ping\\n'); print(s.recv(9))";
    let asked = || mesh.exec("self-1", &["python3", "-c", ask]).unwrap().status.success();
    wait_until("the only listener", asked).unwrap();
    for _ in 0..20 {
        mesh.exec_ok("self-1", &["python3", "-c", ask]).unwrap();
    }
}

/// As when a machine loses its power or a firewall its memory: no packet of
/// the tunnel arrives any more, and nobody is told.
#[test]
fn a_call_that_finds_its_tunnel_silently_dead_is_carried_by_a_new_one() {
    let mesh = mesh_file("", 1).up().unwrap();
    let record = mesh.record().unwrap();
    let replica = |name: &str| {
        let replicas = record["replicas"].as_array().unwrap();
        replicas.iter().find(|found| found["name"] == name).unwrap()
    };
    let web = replica("web-1");
    // One address, so that no other endpoint helps out.
    let orders = replica("orders-1")["addresses"][0].as_str().unwrap();
    Load::start(&mesh, orders, &["short", "5", "1"]).done_without_loss(&mesh);
    let last_used = Instant::now();
    let in_web = |command: &[&str]| {
        watchword_tests::run(&mut mesh.in_network_of(web["holderPid"].as_i64().unwrap(), command)).unwrap()
    };
    let tunnels = in_web(&[
        "ss",
        "--tcp",
        "--numeric",
        "--no-header",
        "state",
        "established",
        "dport = :9000",
    ]);
    assert!(!tunnels.trim().is_empty(), "no tunnel waits");
    let ports: Vec<_> = tunnels
        .lines()
        .filter_map(|line| line.split_whitespace().nth(2)?.rsplit(':').next())
        .collect();
    let ports = ports.join(", ");
    in_web(&[
        "nft",
        &format!(
            "table inet silence {{ chain out {{ type filter hook output priority 0; tcp sport {{ {ports} }} drop; }}; \
             chain in {{ type filter hook input priority 0; tcp dport {{ {ports} }} drop; }}; }}"
        ),
    ]);
    // A tunnel that was used within a second is taken for alive.
    wait_until("a tunnel that has waited", || {
        last_used.elapsed() > Duration::from_millis(1500)
    })
    .unwrap();
    let before = metric(&mesh, "web", HANDSHAKES, "");
    let done = Load::start(&mesh, orders, &["short", "1", "1"]).done_without_loss(&mesh);
    assert_eq!(done, 1);
    assert!(
        metric(&mesh, "web", HANDSHAKES, "") > before,
        "the dead tunnel was not met"
    );
}
