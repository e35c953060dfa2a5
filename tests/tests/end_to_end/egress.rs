//! Calls to what lies outside of the mesh. "Outside" is a network namespace of
//! the test's own, in which `up` is started.

use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use watchword_tests::{Mesh, MeshFile, Output, enter_network, is_root, run, wait_until};

use crate::publish::TALK;
use crate::strangers::{counter, replica};

const LISTED: &str = "192.0.2.10";
const LISTED_V6: &str = "2001:db8::10";
const UNLISTED: &str = "192.0.2.20";
const LINK_LOCAL: &str = "169.254.10.10";

/// Sends, ends its half, prints the answer, or how it was refused.
const CALL: &str = r#"
import contextlib, socket, sys
try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=30) as stream:
        stream.sendall(sys.argv[3].encode())
        if sys.argv[3] != "reset":
            # After a reset there is nothing to shut down: recv() tells of it.
            with contextlib.suppress(OSError):
                stream.shutdown(socket.SHUT_WR)
        answer = b""
        while data := stream.recv(65536):
            answer += data
        print(answer.decode() or "END")
except ConnectionError as error:
    print(type(error).__name__)
"#;

/// The network that `up` takes for the machine's.
struct Outside {
    holder: Child,
    servers: Vec<Child>,
}

impl Outside {
    fn new(script: &str) -> Self {
        let mut unshare = Command::new("unshare");
        if !is_root() {
            unshare.args(["--user", "--map-current-user", "--keep-caps"]);
        }
        let set_up = format!(
            "PATH=$PATH:/usr/sbin:/sbin; ip link set lo up; for a in {LISTED} {UNLISTED} {LINK_LOCAL}; do ip address add $a/32 dev lo; \
             done; ip address add {LISTED_V6}/128 dev lo nodad; echo there; exec sleep infinity"
        );
        let mut holder = unshare
            .args(["--net", "sh", "-ec", &set_up])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Output::of(&mut holder)
            .wait_for("the outside", |line| line == "there")
            .unwrap();
        let mut outside = Self {
            holder,
            servers: Vec::new(),
        };
        for address in [LISTED, LISTED_V6, UNLISTED, LINK_LOCAL] {
            outside.serve(script, address);
        }
        outside
    }

    fn serve(&mut self, script: &str, address: &str) {
        let mut server = enter_network(self.holder.id().into())
            .args(["python3", script, address, "9000"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Output::of(&mut server)
            .wait_for("the server", |line| line == "listening")
            .unwrap();
        self.servers.push(server);
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        for child in self.servers.iter_mut().chain([&mut self.holder]) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A mesh with one program, and the outside that it is started in.
struct World {
    mesh: Mesh,
    _outside: Outside,
}

fn world(top: &str) -> World {
    let services = "web: {run: [sleep, infinity]}\n";
    let policies = "name: web\nservice: spiffe://example.org/web\nallow: []\n";
    let file = MeshFile::with(top, services, policies).unwrap();
    file.write("call.py", CALL).unwrap();
    let script = file.write("talk.py", TALK).unwrap();
    let outside = Outside::new(script.to_str().unwrap());
    let mesh = file.in_network_of(outside.holder.id()).up().unwrap();
    World {
        mesh,
        _outside: outside,
    }
}

const ENTRY: &str =
    "egress: [{name: registry.example.com, to: [192.0.2.10/32, '2001:db8::10/128'], ports: [9000, 9001]}]";

impl World {
    fn call(&self, host: &str, port: &str, text: &str) -> String {
        let script = self.mesh.file().folder().join("call.py");
        let line = ["python3", script.to_str().unwrap(), host, port, text];
        self.mesh.exec_ok("web", &line).unwrap().trim().to_owned()
    }

    fn logged(&self, words: &[&str]) {
        let wanted = |line: &str| line.contains("direction=outbound") && words.iter().all(|word| line.contains(word));
        self.mesh.output().wait_for(&format!("{words:?}"), wanted).unwrap();
    }
}

#[test]
fn what_is_listed_is_reached_in_plaintext_and_the_rest_is_denied() {
    let world = world(ENTRY);
    assert_eq!(world.call(LISTED, "9000", "hello"), "5 bytes");
    world.logged(&[
        "dialled=192.0.2.10:9000",
        "decision=allow",
        "policy=egress",
        "rule=registry.example.com",
        "bytes_sent=5",
        "bytes_received=7",
    ]);
    assert_eq!(world.call(LISTED_V6, "9000", "hello, you"), "10 bytes");
    // An entry with the name of a host is found under it.
    assert_eq!(world.call("registry.example.com", "9000", ""), "0 bytes");
    assert_eq!(world.call(LISTED, "9000", "reset"), "ConnectionResetError");
    // Listed, and nobody is there.
    assert_eq!(world.call(LISTED, "9001", "hello"), "ConnectionResetError");
    world.logged(&["dialled=192.0.2.10:9001", "result=refused", "Connection refused"]);
    for (host, port) in [(UNLISTED, "9000"), (LISTED, "9002"), (LINK_LOCAL, "9000")] {
        assert_eq!(world.call(host, port, "hello"), "ConnectionResetError", "{host}:{port}");
        world.logged(&[&format!("dialled={host}:{port}"), "decision=deny", "reason=egress"]);
    }
    let decided = [
        "policy_decisions_total",
        "policy=\"egress\"",
        "rule=\"registry.example.com\"",
        "\"allow\"",
    ];
    assert_eq!(counter(&world.mesh, "web-1", &decided), 5);

    // Apps do not see the helper's socket.
    let seen = world
        .mesh
        .exec("web", &["sh", "-c", "find / -name egress.sock 2>/dev/null"]);
    assert_eq!(String::from_utf8_lossy(&seen.unwrap().stdout), "");
}

#[test]
fn what_is_audited_passes_and_is_told_of_and_what_is_allowed_passes_but_for_link_local_addresses() {
    let audit = world(&format!("egressMode: audit\n{ENTRY}"));
    assert_eq!(audit.call(UNLISTED, "9000", "hello"), "5 bytes");
    audit.logged(&["dialled=192.0.2.20:9000", "decision=would-deny", "result=ok"]);
    assert_eq!(audit.call(LISTED, "9000", "hello"), "5 bytes");
    audit.logged(&["dialled=192.0.2.10:9000", "decision=allow"]);
    let decided = ["policy_decisions_total", "policy=\"egress\"", "would-deny"];
    assert_eq!(counter(&audit.mesh, "web-1", &decided), 1);
    drop(audit);

    let allow = world("egressMode: allow");
    assert_eq!(allow.call(UNLISTED, "9000", "hello"), "5 bytes");
    allow.logged(&["dialled=192.0.2.20:9000", "decision=allow"]);
    assert_eq!(allow.call(LINK_LOCAL, "9000", "hello"), "ConnectionResetError");
    // The mesh's own ranges are none of the outside.
    assert_eq!(allow.call("10.87.9.9", "9000", "hello"), "ConnectionResetError");
    allow.logged(&["dialled=10.87.9.9:9000", "reason=unlisted-mesh-address"]);
}

/// Changes the file that the control plane reads.
fn change_egress(mesh: &Mesh, change: impl FnOnce(&mut serde_json::Value)) {
    let path = mesh.run_folder().unwrap().join("control-plane.yaml");
    let mut file: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    change(&mut file);
    std::fs::write(&path, file.to_string()).unwrap();
}

#[test]
fn a_change_that_denies_a_live_call_to_outside_cuts_it_and_the_helper_has_a_list_of_its_own() {
    let world = world(ENTRY);
    let script = "import socket, sys\n\
        stream = socket.create_connection((sys.argv[1], 9000), timeout=60)\n\
        stream.sendall(b'wait')\nprint(stream.recv(7).decode(), flush=True)\n\
        try: print(stream.recv(1))\nexcept ConnectionResetError: print('cut')\n";
    let mut command = world
        .mesh
        .exec_command("web", &["python3", "-c", script, LISTED])
        .unwrap();
    let mut live = command.stdout(Stdio::piped()).spawn().unwrap();
    let printed = Output::of(&mut live);
    printed.wait_for("the call", |line| line == "waiting").unwrap();
    change_egress(&world.mesh, |file| file["egress"] = serde_json::json!([]));
    printed.wait_for("the cut", |line| line == "cut").unwrap();
    live.wait().unwrap();
    world.logged(&["result=failed", "reason=cut", "policy-changed"]);
    assert_eq!(world.call(LISTED, "9000", "hello"), "ConnectionResetError");

    change_egress(&world.mesh, |file| file["egressMode"] = "allow".into());
    wait_until("it to be allowed again", || {
        world.call(LISTED, "9000", "hello") == "5 bytes"
    })
    .unwrap();
    // Sidecars would let it pass now; the helper knows what the mesh file said.
    assert_eq!(world.call(UNLISTED, "9000", "hello"), "ConnectionResetError");
    world
        .mesh
        .output()
        .wait_for("the helper's word", |line| {
            line.contains("a sidecar asked for what its list denies")
        })
        .unwrap();
}

#[test]
fn a_sidecar_whose_network_has_a_way_outside_dials_by_itself() {
    let world = world(ENTRY);
    // The switch becomes a machine that is outside of the mesh.
    let switch = world.mesh.record().unwrap()["switchPid"].as_i64().unwrap();
    let on_the_switch = |command: &[&str]| {
        let mut command = world.mesh.in_network_of(switch, command);
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
        command
    };
    run(&mut on_the_switch(&[
        "ip",
        "address",
        "add",
        "192.0.2.10/32",
        "dev",
        "lo",
    ]))
    .unwrap();
    let script = world.mesh.file().folder().join("talk.py");
    let mut server = on_the_switch(&["python3", script.to_str().unwrap(), LISTED, "9001"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    Output::of(&mut server)
        .wait_for("the server", |line| line == "listening")
        .unwrap();
    let config = world.mesh.run_folder().unwrap().join("web-1.json");
    let mut value: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&config).unwrap()).unwrap();
    value.as_object_mut().unwrap().remove("egress").unwrap();
    std::fs::write(&config, value.to_string()).unwrap();
    let pid = || replica(&world.mesh, "web-1")["proxyPid"].as_i64();
    let before = pid().unwrap();
    kill(Pid::from_raw(i32::try_from(before).unwrap()), Signal::SIGKILL).unwrap();
    wait_until("the sidecar to be there again", || {
        pid().is_some_and(|now| now != before)
    })
    .unwrap();

    // Only the switch listens on this port.
    assert_eq!(world.call(LISTED, "9001", "hello"), "5 bytes");
    world.logged(&["dialled=192.0.2.10:9001", "rule=registry.example.com"]);
    let _ = server.kill();
    let _ = server.wait();
}
