//! How the sidecar dials the app: from the caller's address, without running
//! out of ports, and without lending the caller the trust that an app has in
//! its own machine (docs/decisions/0007-dialling-the-app.md).

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use watchword_tests::{Mesh, MeshFile, Output, wait_until};

use crate::apps::complaint;
use crate::strangers::replica;

/// Says to each connection who its peer is, and closes after the peer has.
const SERVER: &str = r"
import socket, threading
listener = socket.create_server(('::', 7000), family=socket.AF_INET6, dualstack_ipv6=True, backlog=4096)
def serve():
    while True:
        connection, address = listener.accept()
        try:
            connection.sendall((address[0].removeprefix('::ffff:') + '\n').encode())
            while connection.recv(4096):
                pass
        except OSError:
            pass
        connection.close()
for _ in range(16):
    threading.Thread(target=serve).start()
";

/// Opens so many connections one after the other, eight at a time, each closed
/// by this side first and then by the other; and again after a pause, so many times.
/// Tells which greetings it had.
const CLIENT: &str = r"
import socket, sys, threading, time
counts = [int(sys.argv[1]) // 8] * 8
failed, seen = [], set()
def call(count):
    for number in range(count):
        try:
            connection = socket.create_connection(('app', 7000), timeout=60)
            greeting = connection.recv(100)
            assert greeting, 'closed without a greeting'
            seen.add(greeting.decode().strip())
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(100) == b''
            connection.close()
        except Exception as error:
            failed.append(repr(error))
            return
for pause in [0] + [2] * (int(sys.argv[2]) - 1):
    time.sleep(pause)
    threads = [threading.Thread(target=call, args=[count]) for count in counts]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
print('SEEN', *sorted(seen))
print('FAILED', failed[0]) if failed else print('ALL', sum(counts))
";

/// Four clients and the app that they call.
fn four_clients() -> MeshFile {
    let clients: String = (1..=4)
        .map(|number| format!("c{number}: {{run: [sleep, infinity]}}\n"))
        .collect();
    let services = format!("{clients}app: {{run: [python3, app.py], ports: {{7000: tcp}}, healthy: {{port: 7000}}}}\n");
    let policies = "name: app\nservice: spiffe://example.org/app\nallow:\n  - from: [spiffe://example.org/*]\n";
    let file = MeshFile::new(&services, policies).unwrap();
    file.write("app.py", SERVER).unwrap();
    file.write("client.py", CLIENT).unwrap();
    file
}

fn address(mesh: &Mesh, name: &str, ipv6: bool) -> String {
    let found = replica(mesh, name)["addresses"][usize::from(ipv6)].clone();
    found.as_str().unwrap().to_owned()
}

/// A command in a replica's network with every right there.
fn in_network(mesh: &Mesh, name: &str, command: &[&str]) -> Command {
    mesh.in_network_of(replica(mesh, name)["holderPid"].as_i64().unwrap(), command)
}

fn run_in_network(mesh: &Mesh, name: &str, command: &[&str]) -> String {
    watchword_tests::run(&mut in_network(mesh, name, command)).unwrap()
}

/// Starts a replica's sidecar again, after `change` to its configuration, and
/// waits until it serves.
fn restart_sidecar(mesh: &Mesh, name: &str) {
    let pid = |mesh: &Mesh| replica(mesh, name)["proxyPid"].as_i64();
    let before = pid(mesh).unwrap();
    watchword_tests::run(Command::new("sh").args(["-c", &format!("kill -9 {before}")])).unwrap();
    wait_until("the sidecar to be there again", || {
        pid(mesh).is_some_and(|now| now != before)
    })
    .unwrap();
}

/// From now on the sidecar of a replica dials its app from there.
fn dial_from(mesh: &Mesh, name: &str, from: &str) {
    let config = mesh.run_folder().unwrap().join(format!("{name}.json"));
    let text = std::fs::read_to_string(&config).unwrap();
    let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
    value["interception"]["dialFrom"] = from.into();
    std::fs::write(&config, value.to_string()).unwrap();
    let proxy = watchword_tests::binary("watchword-proxy").unwrap();
    let install = [
        proxy.to_str().unwrap(),
        "intercept",
        "install",
        "--config",
        config.to_str().unwrap(),
    ];
    run_in_network(mesh, name, &install);
    restart_sidecar(mesh, name);
}

/// Who the app says its peer is.
fn seen_by_app(mesh: &Mesh, service: &str, host: &str, ipv6: bool) -> String {
    let family = if ipv6 { "AF_INET6" } else { "AF_INET" };
    let call = format!(
        "import socket; s = socket.socket(socket.{family}); s.settimeout(30); s.connect(('{host}', 7000)); \
         print(s.makefile().readline(), end='')"
    );
    let printed = mesh.exec_ok(service, &["python3", "-c", &call]).unwrap();
    printed.trim().to_owned()
}

fn start_client(mesh: &Mesh, service: &str, count: &str, rounds: &str) -> (Child, Output) {
    let program = mesh.file().folder().join("client.py");
    let mut command = mesh
        .exec_command(service, &["python3", program.to_str().unwrap(), count, rounds])
        .unwrap();
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let output = Output::of(&mut child);
    (child, output)
}

/// What each of the four says after its connections.
fn call_from_all(mesh: &Mesh, counts: [&str; 4]) -> Vec<String> {
    let clients: Vec<_> = ["c1", "c2", "c3", "c4"]
        .into_iter()
        .zip(counts)
        .map(|(service, count)| start_client(mesh, service, count, "1"))
        .collect();
    clients.into_iter().map(last_word).collect()
}

fn last_word((mut child, output): (Child, Output)) -> String {
    child.wait().unwrap();
    output
        .wait_for("the client's word", |line| {
            line.starts_with("ALL") || line.starts_with("FAILED")
        })
        .unwrap()
}

/// A number of ports that four clients together use up, each of which waits
/// for a minute, as the kernel has it by itself.
fn leave_few_ports(mesh: &Mesh) {
    let set = "echo 20000 20499 > /proc/sys/net/ipv4/ip_local_port_range; echo 2 > /proc/sys/net/ipv4/tcp_tw_reuse";
    run_in_network(mesh, "app-1", &["sh", "-c", set]);
}

#[test]
fn short_connections_of_four_clients_do_not_run_out_of_ports() {
    let mesh = four_clients().up().unwrap();
    leave_few_ports(&mesh);
    assert_eq!(
        call_from_all(&mesh, ["400"; 4]),
        ["ALL 400"; 4],
        "{}",
        mesh.output().text()
    );
    // Otherwise this tests nothing: ports are kept where the client closes first.
    let table = run_in_network(&mesh, "app-1", &["cat", "/proc/net/tcp", "/proc/net/tcp6"]);
    let waiting = table
        .lines()
        .filter(|line| line.split_whitespace().nth(3) == Some("06"));
    let to_app = waiting.filter(|line| {
        line.split_whitespace()
            .nth(2)
            .is_some_and(|remote| remote.ends_with(":1B58"))
    });
    let count = to_app.count();
    assert!(
        count > 1_000,
        "{count} of 1600 connections wait: did the app close first?"
    );
}

#[test]
fn one_caller_may_open_more_short_connections_than_there_are_ports() {
    let mesh = four_clients().up().unwrap();
    let set = "echo 20000 20499 > /proc/sys/net/ipv4/ip_local_port_range";
    run_in_network(&mesh, "app-1", &["sh", "-c", set]);
    // A port waits for a second at least, so not all at once.
    assert_eq!(last_word(start_client(&mesh, "c1", "400", "3")), "ALL 400");
    // Nor did the endpoint of the other family help out.
    assert!(!mesh.output().text().contains("Cannot assign requested address"));
}

#[test]
fn sixty_thousand_short_connections_of_four_clients_all_arrive() {
    let mesh = four_clients().up().unwrap();
    assert_eq!(call_from_all(&mesh, ["15000"; 4]), ["ALL 15000"; 4]);
    // A client may not see it: the endpoint of the other family helps out.
    assert!(!mesh.output().text().contains("Cannot assign requested address"));
}

#[test]
fn from_the_own_address_the_same_connections_run_out_of_ports() {
    let mesh = four_clients().up().unwrap();
    dial_from(&mesh, "app-1", "own");
    leave_few_ports(&mesh);
    let words = call_from_all(&mesh, ["400"; 4]);
    assert!(words.iter().any(|word| word.starts_with("FAILED")), "{words:?}");
    mesh.output()
        .wait_for("the reason", |line| {
            line.contains("direction=inbound") && line.contains("Cannot assign requested address")
        })
        .unwrap();
}

#[test]
fn from_reserved_addresses_they_do_not_and_the_app_sees_no_address_of_anybody() {
    let mesh = four_clients().up().unwrap();
    dial_from(&mesh, "app-1", "reserved");
    leave_few_ports(&mesh);
    assert_eq!(
        call_from_all(&mesh, ["400"; 4]),
        ["ALL 400"; 4],
        "{}",
        mesh.output().text()
    );
    for (ipv6, range) in [(false, "192.0.2."), (true, "100::")] {
        let seen = seen_by_app(&mesh, "c1", "app", ipv6);
        assert!(seen.starts_with(range), "{seen}");
    }
}

#[test]
fn callers_that_come_again_and_again_are_each_shown_by_their_own_address() {
    let mesh = four_clients().up().unwrap();
    let clients = ["c1", "c2", "c3", "c4"].map(|service| (service, start_client(&mesh, service, "400", "1")));
    for (service, (mut child, output)) in clients {
        child.wait().unwrap();
        let word = |start: &str| output.wait_for(start, |line| line.starts_with(start)).unwrap();
        assert_eq!(word("ALL"), "ALL 400", "{service}");
        let own = [false, true].map(|ipv6| address(&mesh, &format!("{service}-1"), ipv6));
        let seen = word("SEEN");
        let seen: Vec<_> = seen.split(' ').skip(1).collect();
        assert!(
            !seen.is_empty() && seen.iter().all(|seen| own.iter().any(|own| own == seen)),
            "{service}: {seen:?}"
        );
    }
}

#[test]
fn the_app_sees_its_callers_address_over_ipv4_and_ipv6() {
    let mesh = four_clients().up().unwrap();
    for ipv6 in [false, true] {
        for (service, name) in [("c1", "c1-1"), ("c2", "c2-1")] {
            assert_eq!(seen_by_app(&mesh, service, "app", ipv6), address(&mesh, name, ipv6));
        }
        // A call to itself, as without us.
        assert_eq!(seen_by_app(&mesh, "app", "app-1", ipv6), address(&mesh, "app-1", ipv6));
    }
}

#[test]
fn a_call_from_the_very_port_of_its_tunnel_reaches_the_app() {
    let mesh = four_clients().up().unwrap();
    // With one port on either side, the tunnel and the sidecar's call to the
    // app have the same addresses and ports.
    for name in ["c1-1", "app-1"] {
        let set = "echo 20001 20001 > /proc/sys/net/ipv4/ip_local_port_range";
        run_in_network(&mesh, name, &["sh", "-c", set]);
    }
    // Tunnels that it may have already do not count.
    restart_sidecar(&mesh, "c1-1");
    for ipv6 in [false, true] {
        let caller = address(&mesh, "c1-1", ipv6);
        assert_eq!(seen_by_app(&mesh, "c1", "app", ipv6), caller);
        let tunnel = SocketAddr::new(caller.parse().unwrap(), 20001);
        mesh.output()
            .wait_for("the tunnel's port", |line| {
                line.contains("direction=inbound") && line.contains(&format!("client={tunnel}"))
            })
            .unwrap();
    }
}

#[test]
fn an_app_that_does_not_listen_is_known_at_once_over_ipv4_and_ipv6() {
    let services = "web: {run: [sleep, infinity]}\nidle: {run: [sleep, infinity], ports: {7000: tcp}}\n";
    let policies = "name: idle\nservice: spiffe://example.org/idle\nallow:\n  - from: [spiffe://example.org/web]\n";
    let mesh = MeshFile::new(services, policies).unwrap().up().unwrap();
    for ipv6 in [false, true] {
        let idle = address(&mesh, "idle-1", ipv6);
        let call = format!("import socket; socket.create_connection(('{idle}', 7000), timeout=50).recv(1)");
        complaint(&mesh.exec("web", &["python3", "-c", &call]).unwrap());
        let dialled = SocketAddr::new(idle.parse().unwrap(), 7000).to_string();
        // The kernel's own answer, not the end of our patience.
        mesh.output()
            .wait_for("the refusal", |line| {
                line.contains("direction=inbound") && line.contains(&dialled) && line.contains("Connection refused")
            })
            .unwrap();
    }
}

#[test]
fn without_a_way_back_the_own_address_is_used_and_the_log_says_why() {
    let mesh = four_clients().up().unwrap();
    for (command, reason) in [
        ("ip -4 rule del pref 22359", "answers do not come back"),
        (
            "echo 0 > /proc/sys/net/ipv4/tcp_fwmark_accept",
            "tcp_fwmark_accept is 0",
        ),
    ] {
        run_in_network(&mesh, "app-1", &["sh", "-c", command]);
        restart_sidecar(&mesh, "app-1");
        mesh.output()
            .wait_for("the reason", |line| {
                line.contains("dialled from the workload's own address")
                    && line.contains("family=IPv4")
                    && line.contains(reason)
            })
            .unwrap();
        assert_eq!(seen_by_app(&mesh, "c1", "app", false), address(&mesh, "app-1", false));
    }
}

/// Makes the socket of each connection that it accepts a socket of its own
/// call to somewhere else, with whatever mark it has.
const HOSTILE: &str = r"
import ctypes, os, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
listener = socket.create_server(('0.0.0.0', 7000))
while True:
    connection, address = listener.accept()
    libc.connect(connection.fileno(), struct.pack('=H14x', socket.AF_UNSPEC), 16)
    connection.settimeout(5)
    try:
        connection.connect((sys.argv[1], 9999))
        print('HOSTILE got', connection.recv(100), flush=True)
    except OSError as error:
        print('HOSTILE failed:', error, flush=True)
    connection.close()
";

#[test]
fn a_socket_that_the_sidecar_called_does_not_let_an_app_leave() {
    let services = "\
web: {run: [sleep, infinity]}
app: {run: [python3, app.py, 10.87.0.1], ports: {7000: tcp}, healthy: {port: 7000}}
";
    let policies = "name: app\nservice: spiffe://example.org/app\nallow:\n  - from: [spiffe://example.org/*]\n";
    let file = MeshFile::new(services, policies).unwrap();
    file.write("app.py", HOSTILE).unwrap();
    let mesh = file.up().unwrap();
    // Nobody of the mesh, in plaintext.
    let outside = "import socket; s = socket.create_server(('10.87.0.1', 9999)); print('listening', flush=True)\n\
        while True:\n    c, a = s.accept(); c.sendall(b'outside'); c.close()";
    let switch = mesh.record().unwrap()["switchPid"].as_i64().unwrap();
    let mut outside = mesh.in_network_of(switch, &["python3", "-c", outside]);
    let mut outside = outside.stdout(Stdio::piped()).spawn().unwrap();
    let output = Output::of(&mut outside);
    output.wait_for("the outside", |line| line == "listening").unwrap();
    let call = "import socket; socket.create_connection(('HOST', 7000), timeout=20).recv(1)";
    for (service, host) in [("web", "app"), ("app", "app-1")] {
        let _ = mesh.exec(service, &["python3", "-c", &call.replace("HOST", host)]);
    }
    let attempts = || {
        let text = mesh.output().text();
        let attempts = text.lines().filter(|line| line.contains("HOSTILE"));
        attempts.map(str::to_owned).collect::<Vec<_>>()
    };
    let made = wait_until("both attempts", || attempts().len() >= 2);
    outside.kill().unwrap();
    outside.wait().unwrap();
    made.unwrap();
    assert!(
        attempts().iter().all(|line| !line.contains("outside")),
        "{:?}",
        attempts()
    );
}

/// Finds PostgreSQL where Debian puts it, makes a database in `$PWD/data`, and
/// trusts: loopback and the own addresses for everything, the mesh's addresses
/// for the database `open`.
const POSTGRES: &str = r#"
set -eu
PATH="$PATH:$(ls -d /usr/lib/postgresql/*/bin | tail -n 1)"
data=$(mktemp -d "$PWD/data-XXXXXX")
initdb --pgdata="$data" --username=app --auth=trust --locale=C --encoding=UTF8 --no-sync >&2
cat > "$data/pg_hba.conf" <<HBA
host all all 127.0.0.0/8 trust
host all all ::1/128 trust
host all all samehost trust
host open all 10.87.0.0/16 trust
host open all fd87::/64 trust
HBA
echo 'CREATE DATABASE open;' | postgres --single -D "$data" postgres >&2
exec postgres -D "$data" -h '*' -k "" -c fsync=off -c dynamic_shared_memory_type=mmap
"#;

pub(crate) const DATABASE: &str =
    "db: {run: [sh, postgres.sh], directory: open, ports: {5432: tcp}, healthy: {port: 5432}}\n";

fn database() -> Mesh {
    let services = format!("web: {{run: [sleep, infinity]}}\n{DATABASE}");
    let policies = "name: db\nservice: spiffe://example.org/db\nallow:\n  - from: [spiffe://example.org/web]\n";
    let file = MeshFile::new(&services, policies).unwrap();
    write_database(&file);
    file.up().unwrap()
}

/// What `DATABASE` runs.
pub(crate) fn write_database(file: &MeshFile) {
    let folder = file.folder().join("open");
    std::fs::create_dir(&folder).unwrap();
    file.write("open/postgres.sh", POSTGRES).unwrap();
    // It runs as somebody else when we are root.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(&folder, open).unwrap();
}

fn psql<'a>(host: &'a str, database: &'a str) -> Vec<&'a str> {
    let mut command = vec!["psql", "--no-psqlrc", "--tuples-only", "--no-align", "--username=app"];
    command.extend(["--host", host, "--dbname", database]);
    command.extend(["--command", "SELECT host(inet_client_addr())"]);
    command
}

#[test]
fn a_database_that_trusts_its_own_machine_does_not_trust_peers() {
    let mesh = database();
    for (host, ipv6) in [("127.0.0.1", false), ("::1", true)] {
        assert_eq!(mesh.exec_ok("db", &psql(host, "postgres")).unwrap().trim(), host);
        let db = address(&mesh, "db-1", ipv6);
        let refused = complaint(&mesh.exec("web", &psql(&db, "postgres")).unwrap());
        let web = address(&mesh, "web-1", ipv6);
        // The database says whom it refuses: the path is open, the trust is not.
        assert!(
            refused.contains("no pg_hba.conf entry") && refused.contains(&web),
            "{refused}"
        );
        assert_eq!(mesh.exec_ok("web", &psql(&db, "open")).unwrap().trim(), web);
    }
    // From the own address it would have: `samehost`.
    dial_from(&mesh, "db-1", "own");
    let trusted = mesh.exec_ok("web", &psql("db", "postgres")).unwrap();
    assert_eq!(trusted.trim(), address(&mesh, "db-1", false));
    dial_from(&mesh, "db-1", "reserved");
    let refused = complaint(&mesh.exec("web", &psql("db", "postgres")).unwrap());
    assert!(refused.contains("no pg_hba.conf entry"), "{refused}");
}

#[test]
fn a_redis_in_protected_mode_does_not_take_peers_for_its_own_machine() {
    let services = "\
web: {run: [sleep, infinity]}
cache: {run: [redis-server, --port, '6379', --save, ''], ports: {6379: tcp}, healthy: {port: 6379}}
";
    let policies = "name: cache\nservice: spiffe://example.org/cache\nallow:\n  - from: [spiffe://example.org/web]\n";
    let mesh = MeshFile::new(services, policies).unwrap().up().unwrap();
    // Speaks at once to whom it does not trust; the others it answers.
    let ask = "import socket, sys; s = socket.create_connection((sys.argv[1], 6379), timeout=20)\n\
        s.sendall(b'PING\\r\\n') if sys.argv[2] == 'ping' else None; print(s.recv(1000).decode()[:7])";
    let table = [
        ("cache", "127.0.0.1", "::1", "ping", "+PONG\r\n"),
        (
            "web",
            &address(&mesh, "cache-1", false),
            &address(&mesh, "cache-1", true),
            "wait",
            "-DENIED",
        ),
    ];
    let ask_from = |service: &str, host: &str, how: &str| {
        let printed = mesh.exec_ok(service, &["python3", "-c", ask, host, how]).unwrap();
        printed.trim().to_owned()
    };
    for (service, ipv4, ipv6, how, expected) in table {
        for host in [ipv4, ipv6] {
            assert_eq!(ask_from(service, host, how), expected.trim(), "{service} to {host}");
        }
    }
    dial_from(&mesh, "cache-1", "reserved");
    assert_eq!(ask_from("web", "cache", "wait"), "-DENIED");
    // The path itself is open: only the trust was missing.
    let open = ["redis-cli", "-h", "127.0.0.1", "CONFIG", "SET", "protected-mode", "no"];
    mesh.exec_ok("cache", &open).unwrap();
    assert_eq!(ask_from("web", "cache", "ping"), "+PONG");
}
