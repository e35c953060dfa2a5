//! How many system calls a sidecar makes: most of what a hop costs is there.
//! Bounds are half above what was counted when they were written, so that
//! whoever doubles a count notices.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use watchword_tests::{Mesh, Output};

use super::need_root;
use crate::load::{Load, mesh_file};
use crate::strangers::replica;

/// Follows both sidecars while a load runs. How many calls each made for one
/// of what the load counts.
fn calls_for_one(mesh: &Mesh, load: &[&str]) -> [f64; 2] {
    let tracers = ["web-1", "orders-1"].map(|name| Tracer::of(mesh, name));
    let done = Load::start(mesh, "orders", load).done_without_loss(mesh);
    tracers.map(|tracer| tracer.calls() as f64 / done as f64)
}

/// strace, which counts.
struct Tracer {
    process: Child,
    counts: PathBuf,
}

impl Tracer {
    fn of(mesh: &Mesh, name: &str) -> Self {
        let counts = mesh.file().folder().join(format!("{name}.strace"));
        let pid = replica(mesh, name)["proxyPid"].as_i64().unwrap().to_string();
        let mut process = Command::new("strace")
            .args(["-f", "-c", "-U", "calls,name", "-o"])
            .arg(&counts)
            .args(["-p", &pid])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("strace is missing: install the package of that name, as scripts/test does");
        let said = Output::of(&mut process);
        said.wait_for("strace", |line| line.contains("attached")).unwrap();
        Self { process, counts }
    }

    /// All that it has seen.
    fn calls(mut self) -> u64 {
        let pid = Pid::from_raw(i32::try_from(self.process.id()).unwrap());
        kill(pid, Signal::SIGINT).unwrap();
        self.process.wait().unwrap();
        let table = fs::read_to_string(&self.counts).unwrap();
        let total = table.lines().find(|line| line.ends_with(" total"));
        let total = total.unwrap_or_else(|| panic!("no total in {table}"));
        total.split_whitespace().next().unwrap().parse().unwrap()
    }
}

#[test]
fn connections_and_questions_take_no_more_system_calls_than_they_did() {
    need_root();
    let mesh = mesh_file("", 1).up().unwrap();
    // A tunnel that is there already.
    Load::start(&mesh, "orders", &["short", "10", "1"]).done_without_loss(&mesh);
    let mut dear = String::new();
    for (what, load, most) in [
        ("a connection", &["short", "500", "1"][..], [32.0, 31.5]),
        ("a question", &["keep", "5"], [9.6, 9.6]),
    ] {
        for ((side, count), most) in ["web", "orders"].iter().zip(calls_for_one(&mesh, load)).zip(most) {
            if count > most {
                let _ = writeln!(dear, "{what}: {count:.1} calls of the sidecar of {side}, may be {most}");
            }
        }
    }
    assert!(dear.is_empty(), "{dear}");
}
