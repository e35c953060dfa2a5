//! `status` of a mesh that changes.

use std::process::Command;

use serde_json::Value;
use watchword_tests::{Mesh, binary, wait_until};

use super::watchword;
use crate::apps::{complaint, curl, mesh, mesh_file_with};

fn replica(mesh: &Mesh, name: &str) -> Value {
    let status = mesh.status().unwrap();
    let replicas = status["replicas"].as_array().unwrap();
    replicas.iter().find(|it| it["replica"] == name).unwrap().clone()
}

#[test]
fn status_tells_a_certificate_that_is_not_renewed_and_why() {
    let mesh = mesh_file_with("certificates: {ttl: 20s}").up().unwrap();
    assert_eq!(replica(&mesh, "web-1")["renewal_trouble"], Value::Null);
    // Calls for certificates are connections of their own.
    let socket = mesh.run_folder().unwrap().join("control.sock");
    let away = socket.with_extension("away");
    std::fs::rename(&socket, &away).unwrap();
    wait_until("the trouble to be told", || {
        replica(&mesh, "web-1")["renewal_trouble"].is_string()
    })
    .unwrap();
    let left = replica(&mesh, "web-1")["seconds_left"].as_i64().unwrap();
    assert!(left > 0, "it is told before the certificate ends, {left} s");
    std::fs::rename(&away, &socket).unwrap();
    wait_until("the trouble to be over", || {
        replica(&mesh, "web-1")["renewal_trouble"].is_null()
    })
    .unwrap();
}

#[test]
fn status_counts_tunnels() {
    let mesh = mesh();
    assert_eq!(replica(&mesh, "orders-1")["tunnels"], 0);
    mesh.exec_ok("web", &curl(&["http://orders:8080/"])).unwrap();
    for name in ["web-1", "orders-1"] {
        wait_until("the tunnel to be counted", || {
            replica(&mesh, name)["tunnels"].as_u64() >= Some(1)
        })
        .unwrap();
    }
}

/// Reads a command's terminal until it was drawn on three times, then ends it.
const THREE_DRAWINGS: &str = r#"
import os, pty, select, signal, sys
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(sys.argv[1], sys.argv[1:])
said = b""
while said.count(b"\x1b[J") < 3:
    if not select.select([terminal], [], [], 60)[0]:
        break
    try:
        said += os.read(terminal, 4096)
    except OSError:
        break
    # Drawn without what is waited for: enough to see that.
    if len(said) > 100000:
        break
os.kill(pid, signal.SIGINT)
os.waitpid(pid, 0)
sys.stdout.buffer.write(said)
"#;

#[test]
fn status_is_drawn_again_on_a_terminal_and_nowhere_else() {
    let mesh = mesh();
    let watch = ["status", "--watch", "--mesh", mesh.file().name()];
    let mut command = Command::new("python3");
    command
        .args(["-c", THREE_DRAWINGS])
        .arg(binary("watchword").unwrap())
        .args(watch);
    // Colours are one thing, the cursor another.
    command.env("TERM", "xterm").env("NO_COLOR", "1");
    let drawn = watchword_tests::run(&mut command).unwrap();
    assert_eq!(drawn.matches("spiffe://example.org/orders").count(), 3, "{drawn}");
    assert_eq!(
        drawn.matches("\u{1b}[2J").count(),
        1,
        "only the first one clears: {drawn}"
    );
    for terminal in ["dumb", ""] {
        let refused = watchword_tests::run(command.env("TERM", terminal)).unwrap();
        assert!(refused.contains("by what TERM says: set it"), "{refused}");
    }
    let said = complaint(&watchword().args(watch).output().unwrap());
    assert!(
        said.contains("standard output is none") && said.contains("-o json"),
        "{said}"
    );
}
