//! What is left when a mesh ends, however it ends: nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;
use watchword_tests::{Mesh, wait_until};

use crate::apps::{mesh, mesh_file};

/// The mesh's own processes, by what stands in their environment or command
/// line or by their namespaces.
fn namespaces_of(mesh: &Mesh) -> BTreeSet<String> {
    let record = mesh.record().unwrap();
    let mut pids = vec![record["switchPid"].as_i64().unwrap()];
    pids.extend(
        record["replicas"]
            .as_array()
            .unwrap()
            .iter()
            .map(|replica| replica["holderPid"].as_i64().unwrap()),
    );
    pids.iter()
        .map(|pid| net_namespace(Path::new(&format!("/proc/{pid}"))).unwrap())
        .collect()
}

fn net_namespace(process: &Path) -> Option<String> {
    fs::read_link(process.join("ns/net"))
        .ok()
        .map(|link| link.to_string_lossy().into_owned())
}

/// Processes that live in one of these network namespaces, or that name the mesh.
fn survivors(namespaces: &BTreeSet<String>, name: &str) -> Vec<String> {
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|entry| {
            entry
                .file_name()
                .to_string_lossy()
                .bytes()
                .all(|byte| byte.is_ascii_digit())
        })
        .filter_map(|entry| {
            let command = fs::read(entry.path().join("cmdline")).ok()?;
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            let inside = net_namespace(&entry.path()).is_some_and(|net| namespaces.contains(&net));
            (inside || command.contains(name)).then_some(command)
        })
        .collect()
}

fn links() -> BTreeSet<String> {
    fs::read_dir("/sys/class/net")
        .unwrap()
        .flatten()
        .map(|link| link.file_name().to_string_lossy().into())
        .collect()
}

fn ends_without_a_trace(signal: Signal) {
    let before = links();
    let mut mesh = mesh();
    assert_eq!(links(), before, "a running mesh shows no link outside");
    let (namespaces, name) = (namespaces_of(&mesh), mesh.file().name().to_owned());
    assert_eq!(namespaces.len(), 4, "a switch and three replicas");
    let folder = mesh.run_folder().unwrap();
    mesh.end_by(signal).unwrap();
    // Its own `up` is a zombie until this test has waited for it, as it has.
    wait_until("all processes to be gone", || survivors(&namespaces, &name).is_empty()).unwrap();
    assert_eq!(links(), before);
    if signal == Signal::SIGKILL {
        // The next command of any kind removes a stale folder.
        let mut status = std::process::Command::new(watchword_tests::binary("watchword").unwrap());
        assert!(
            !status
                .args(["status", "--mesh", &name])
                .output()
                .unwrap()
                .status
                .success()
        );
    }
    assert!(!folder.exists(), "{} is left", folder.display());
}

#[test]
fn nothing_is_left_after_ctrl_c() {
    ends_without_a_trace(Signal::SIGINT);
}

#[test]
fn nothing_is_left_after_sigterm() {
    ends_without_a_trace(Signal::SIGTERM);
}

#[test]
fn nothing_is_left_after_kill_9() {
    ends_without_a_trace(Signal::SIGKILL);
}

#[test]
fn a_killed_sidecar_comes_back_with_a_new_certificate() {
    let mesh = mesh();
    let pid = |mesh: &Mesh| {
        let record = mesh.record().unwrap();
        let replicas = record["replicas"].as_array().unwrap().clone();
        let orders = replicas
            .into_iter()
            .find(|replica| replica["name"] == "orders-1")
            .unwrap();
        // Null while there is none.
        orders["proxyPid"].as_i64()
    };
    let first = pid(&mesh).unwrap();
    let kill = nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(first).unwrap()),
        Signal::SIGKILL,
    );
    kill.unwrap();
    wait_until("another sidecar", || pid(&mesh).is_some_and(|pid| pid != first)).unwrap();
    wait_until("calls to arrive again", || {
        mesh.exec("web", &crate::apps::curl(&["http://orders:8080/"]))
            .unwrap()
            .status
            .success()
    })
    .unwrap();
}

#[test]
fn a_second_mesh_of_the_same_name_is_refused_and_the_first_goes_on() {
    let file = mesh_file();
    let text = fs::read_to_string(file.folder().join("mesh.yaml")).unwrap();
    let mesh = file.up().unwrap();
    let other = mesh.file().write("again.yaml", &text).unwrap();
    let mut again = std::process::Command::new(watchword_tests::binary("watchword").unwrap());
    let finished = again.arg("up").arg(&other).output().unwrap();
    let complaint = crate::apps::complaint(&finished);
    assert!(
        complaint.contains(mesh.file().name()) && complaint.contains("is running"),
        "{complaint}"
    );
    mesh.exec_ok("web", &crate::apps::curl(&["http://orders:8080/"]))
        .unwrap();
}
