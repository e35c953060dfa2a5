//! One connection that lives through whatever is done to the sidecars of its
//! two ends, and what they need meanwhile.

use std::process::{Child, Stdio};

use watchword_tests::{Mesh, Output};

use crate::strangers::replica;

/// Echoes by one connection until its input ends, then prints how often and
/// how long it took.
const ECHO: &str = r#"
import http.client, os, sys, threading, time
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
connection = http.client.HTTPConnection("orders", 8080, timeout=50)
connection.auto_open = 1
connection.connect()
connection.auto_open = 0
times = []
while not stop.wait(0.002):
    body = os.urandom(1000)
    began = time.monotonic()
    connection.request("POST", "/", body)
    answer = connection.getresponse().read()
    times.append(time.monotonic() - began)
    assert answer == body, "other bytes came back"
    if len(times) == 20:
        print("going", flush=True)
times.sort()
ms = lambda part: round(1000 * times[min(len(times) - 1, int(len(times) * part))], 1)
print("echoes", len(times), "p50", ms(0.5), "p99", ms(0.99), "most", ms(1), "ms", flush=True)
"#;

/// From `web` to `orders`, by IPv4.
pub(crate) struct Live {
    child: Child,
    output: Output,
}

impl Live {
    pub(crate) fn start(mesh: &Mesh) -> Self {
        let mut command = mesh.exec_command("web", &["python3", "-c", ECHO]).unwrap();
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let output = Output::of(&mut child);
        output.wait_for("the first echoes", |line| line == "going").unwrap();
        Self { child, output }
    }

    /// How often it was answered and how long that took. Fails when the
    /// connection did.
    pub(crate) fn end(mut self) -> String {
        drop(self.child.stdin.take());
        let line = self
            .output
            .wait_for("the echoes", |line| line.starts_with("echoes"))
            .unwrap();
        assert!(self.child.wait().unwrap().success());
        line
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Resident memory of a replica's sidecar in KiB: now, and the most so far.
pub(crate) fn memory(mesh: &Mesh, name: &str) -> [u64; 2] {
    let pid = replica(mesh, name)["proxyPid"].as_u64().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    ["VmRSS:", "VmHWM:"].map(|key| {
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    })
}
