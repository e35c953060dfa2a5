//! Programs that do their own mutual TLS, with an identity from the workload
//! socket: each calls into the mesh, and is called from it.

mod ends;
mod envoy;
mod partner;
mod programs;

use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use watchword_tests::{Mesh, MeshFile, Output};

use crate::apps::SERVER;

const LOAD: &str = include_str!("foreign/load.py");

/// Of `web`, in a mesh whose certificates live for six seconds.
const POLICIES: &str = "\
name: web
service: spiffe://example.org/web
allow:
  - name: guests read
    from: [spiffe://example.org/far, spiffe://example.org/go, spiffe://example.org/python, spiffe://example.org/rust]
    ports: [8080]
    http: [{methods: [GET], paths: [/open]}]
  - {name: and talk, from: [spiffe://example.org/go], ports: [9000]}
";

/// `web` behind its sidecar, and `others`.
fn mesh_file(others: &str) -> MeshFile {
    let web = "web: {run: [python3, server.py, '8080', web], ports: {8080: http, 9000: tcp}, healthy: {port: 8080}}\n";
    let top = "certificates: {ttl: 6s}";
    let file = MeshFile::with(top, &format!("{web}{others}"), POLICIES).unwrap();
    file.write("server.py", SERVER).unwrap();
    file.write("load.py", LOAD).unwrap();
    file
}

/// A command beside the mesh file, as a service, that was told so.
fn run(mesh: &Mesh, service: &str, command: &[&str]) -> std::process::Output {
    let mut command = mesh.exec_command(service, command).unwrap();
    command.current_dir(mesh.file().folder()).output().unwrap()
}

/// What it printed; it must succeed.
fn printed(finished: &std::process::Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        finished.status.success(),
        "{}{}",
        text(&finished.stdout),
        text(&finished.stderr)
    );
    text(&finished.stdout)
}

/// A program that makes calls until it is told to stop, and says then how they
/// went.
struct Load {
    child: Child,
    output: Output,
}

impl Load {
    fn start(mesh: &Mesh, service: &str, command: &[&str]) -> Self {
        let mut command = mesh.exec_command(service, command).unwrap();
        command.current_dir(mesh.file().folder());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let output = Output::of(&mut child);
        Self { child, output }
    }

    /// From a program that knows nothing of TLS.
    fn plain(mesh: &Mesh, service: &str, url: &str, mode: &str) -> Self {
        Self::start(mesh, service, &["python3", "load.py", url, mode])
    }

    /// Stops it; no call may have failed.
    fn all_went_well(mut self) -> Value {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), Signal::SIGTERM).unwrap();
        let line = self
            .output
            .wait_for("what it counted", |line| line.starts_with('{'))
            .unwrap();
        let counts: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(counts["failed"], 0, "{counts}");
        assert!(counts["calls"].as_u64().unwrap() > 100, "{counts}");
        assert!(self.child.wait().unwrap().success());
        counts
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
