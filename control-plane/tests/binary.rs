//! The program itself: its exit statuses, its log and its end.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

const POLICY: &str =
    "name: web\nservice: spiffe://example.org/web\nallow: [{name: all, from: [spiffe://example.org/web]}]\n";

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_watchword-control-plane"))
}

fn write_mesh(folder: &Path) {
    let text = "trustDomain: example.org\nstateDir: state\nrunDir: run\npolicies: [web.yaml]\n\
                services:\n  web: {ports: {8080: tcp}, endpoints: []}\n";
    std::fs::write(folder.join("mesh.yaml"), text).unwrap();
    std::fs::write(folder.join("web.yaml"), POLICY).unwrap();
}

/// Starts it, and reads its log until the line with `text`.
fn start(folder: &Path) -> (Child, BufReader<ChildStderr>) {
    let mut child = program()
        .args(["run", "--die-with-stdin", "--config"])
        .arg(folder.join("mesh.yaml"))
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    wait_for(&mut log, "control plane ready");
    (child, log)
}

fn wait_for(log: &mut BufReader<ChildStderr>, text: &str) -> String {
    let mut line = String::new();
    loop {
        let before = line.clone();
        line.clear();
        let read = log.read_line(&mut line).unwrap();
        assert!(read > 0, "the log ended before {text:?}, with {before:?}");
        if line.contains(text) {
            return line;
        }
    }
}

fn ends_well(mut child: Child, mut log: BufReader<ChildStderr>) {
    let began = Instant::now();
    let mut rest = String::new();
    log.read_to_string(&mut rest).unwrap();
    assert!(child.wait().unwrap().success(), "{rest}");
    assert!(rest.contains("control plane stopped"), "{rest}");
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn check_says_what_is_wrong_where_and_exits_with_2() {
    let folder = tempfile::tempdir().unwrap();
    write_mesh(folder.path());
    let check = || {
        program()
            .args(["check", "--config"])
            .arg(folder.path().join("mesh.yaml"))
            .output()
            .unwrap()
    };
    let good = check();
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
    std::fs::write(folder.path().join("web.yaml"), POLICY.replace("allow", "alow")).unwrap();
    let bad = check();
    assert_eq!(bad.status.code(), Some(2));
    let said = String::from_utf8(bad.stderr).unwrap();
    assert!(said.contains("web.yaml:3:1: error:"), "{said}");
    assert!(!folder.path().join("state").exists(), "nothing was started");
}

#[test]
fn run_starts_nothing_with_a_mistake_in_its_file() {
    let folder = tempfile::tempdir().unwrap();
    write_mesh(folder.path());
    std::fs::write(folder.path().join("mesh.yaml"), "trustDomain: [").unwrap();
    let ran = program()
        .args(["run", "--config"])
        .arg(folder.path().join("mesh.yaml"))
        .output()
        .unwrap();
    assert_eq!(ran.status.code(), Some(2));
    assert!(!folder.path().join("state").exists());
}

#[test]
fn it_stops_with_the_end_of_standard_input() {
    let folder = tempfile::tempdir().unwrap();
    write_mesh(folder.path());
    let (mut child, log) = start(folder.path());
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"nothing of interest").unwrap();
    drop(stdin);
    ends_well(child, log);
}

#[test]
fn it_stops_at_a_signal_and_starts_again() {
    let folder = tempfile::tempdir().unwrap();
    write_mesh(folder.path());
    for signal in [nix::sys::signal::Signal::SIGTERM, nix::sys::signal::Signal::SIGINT] {
        let (mut child, log) = start(folder.path());
        let kept_open = child.stdin.take();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
        ends_well(child, log);
        drop(kept_open);
    }
}

#[test]
fn keys_that_others_can_read_keep_it_from_starting() {
    let folder = tempfile::tempdir().unwrap();
    write_mesh(folder.path());
    let (mut child, log) = start(folder.path());
    drop(child.stdin.take());
    ends_well(child, log);
    let key = folder.path().join("state/authority/root-key.pem");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let ran = program()
        .args(["run", "--config"])
        .arg(folder.path().join("mesh.yaml"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert_eq!(ran.status.code(), Some(1), "{said}");
    assert!(said.contains("chmod 0600") && said.contains("root-key.pem"), "{said}");
}

#[test]
fn a_changed_policy_is_taken_over_and_a_mistake_is_not() {
    let folder = tempfile::tempdir().unwrap();
    write_mesh(folder.path());
    let (mut child, mut log) = start(folder.path());
    std::fs::write(folder.path().join("web.yaml"), "name: [").unwrap();
    let said = wait_for(&mut log, "web.yaml:1");
    assert!(said.contains("what was good before stays in force"), "{said}");
    std::fs::write(
        folder.path().join("web.yaml"),
        POLICY.replace("name: web", "name: other"),
    )
    .unwrap();
    wait_for(&mut log, "took over the changed mesh file");
    drop(child.stdin.take());
    ends_well(child, log);
}

fn root() -> String {
    let mut root = rcgen::CertificateParams::default();
    root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    root.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
}

#[test]
fn a_bad_trust_bundle_keeps_it_from_starting_and_later_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    write_mesh(folder.path());
    let mesh = folder.path().join("mesh.yaml");
    let text = std::fs::read_to_string(&mesh).unwrap();
    std::fs::write(&mesh, format!("{text}trustBundles: {{partner.example: partner.pem}}\n")).unwrap();
    let pem = folder.path().join("partner.pem");
    std::fs::write(&pem, "nothing").unwrap();
    let ran = program().args(["run", "--config"]).arg(&mesh).output().unwrap();
    let said = String::from_utf8(ran.stderr).unwrap();
    assert_eq!(ran.status.code(), Some(2), "{said}");
    assert!(
        said.contains("partner.pem:1:1: error: this can't be the trust bundle"),
        "{said}"
    );
    assert!(!folder.path().join("state").exists(), "nothing was started");
    std::fs::write(&pem, root()).unwrap();
    let (mut child, mut log) = start(folder.path());
    std::fs::write(&pem, "nothing").unwrap();
    let said = wait_for(&mut log, "partner.pem:1:1");
    assert!(said.contains("what was good before stays in force"), "{said}");
    std::fs::write(&pem, root()).unwrap();
    wait_for(&mut log, "roots of another trust domain are in force");
    drop(child.stdin.take());
    ends_well(child, log);
}

/// Where Vault should be nobody listens: it waits, says so, and can be stopped.
#[test]
fn run_waits_for_an_authority_that_is_away_and_says_so_where_health_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    write_mesh(folder.path());
    std::fs::write(folder.path().join("root.pem"), root()).unwrap();
    std::fs::write(folder.path().join("token"), "a-token").unwrap();
    let port = || {
        std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port()
    };
    let (vault, health) = (port(), port());
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .open(folder.path().join("mesh.yaml"))
        .unwrap();
    writeln!(
        file,
        "healthListen: 127.0.0.1:{health}\nauthority: {{vault: {{addresses: ['http://127.0.0.1:{vault}'], role: mesh, \
         rootFile: root.pem, auth: {{tokenFile: token}}}}}}"
    )
    .unwrap();
    let mut child = program()
        .args(["run", "--die-with-stdin", "--config"])
        .arg(folder.path().join("mesh.yaml"))
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let line = wait_for(&mut log, "waits for its first certificate");
    assert!(line.contains("can't connect"), "{line}");
    let mut page = std::net::TcpStream::connect(("127.0.0.1", health)).unwrap();
    page.write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    page.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(
        answer.contains("waiting for the first certificate") && answer.contains("can't connect"),
        "{answer}"
    );
    assert!(!folder.path().join("run/control.sock").exists(), "nothing else listens");
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}
