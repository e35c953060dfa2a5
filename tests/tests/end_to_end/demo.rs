//! `watchword demo`: everything is as promised, and where something is broken
//! on purpose, the demo says just that.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use tempfile::TempDir;
use watchword_tests::{Output, Stopped, binary, process, vault_program};

const STEPS: [&str; 9] = [
    "mesh-ready",
    "allowed-call",
    "denied-call",
    "http-denied",
    "grpc-denied",
    "plaintext-refused",
    "wrong-peer-refused",
    "rotation-under-load",
    "long-lived-connection",
];

/// The demo's files, as they are delivered but for what a test breaks.
struct Demo {
    folder: TempDir,
    name: String,
}

impl Demo {
    fn new(breaks: &[(&str, &str, &str)]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("demo-{}-{count}", std::process::id());
        let folder = tempfile::tempdir().unwrap();
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).unwrap();
        let examples = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples/demo");
        for file in ["mesh.yaml", "policies.yaml"] {
            let mut text = std::fs::read_to_string(examples.join(file)).unwrap();
            text = text.replace("name: demo\n", &format!("name: {name}\n"));
            for (of, from, to) in breaks {
                if *of == file {
                    assert!(text.contains(from), "{file} has no {from:?}");
                    text = text.replace(from, to);
                }
            }
            std::fs::write(folder.path().join(file), text).unwrap();
        }
        Self { folder, name }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(binary("watchword").unwrap());
        command.arg("demo").arg("--folder").arg(self.folder.path());
        command.stdin(Stdio::null());
        command
    }

    /// The document that it prints, and its exit status.
    fn run(&self) -> (Value, Option<i32>) {
        Self::document(self.command().arg("--json"))
    }

    fn document(command: &mut Command) -> (Value, Option<i32>) {
        let finished = command.output().unwrap();
        let document = serde_json::from_slice(&finished.stdout);
        let document = document.unwrap_or_else(|error| panic!("{error}: {finished:?}"));
        (document, finished.status.code())
    }

    /// Runs it, and expects that just these steps are not as promised, each
    /// with these words.
    fn fails_at(&self, expected: &[(&str, &str)]) {
        let (document, code) = self.run();
        for name in STEPS {
            let step = step(&document, name);
            let wanted = expected.iter().find(|(step, _)| *step == name);
            assert_eq!(step["ok"], wanted.is_none(), "{name}: {step}");
            if let Some((_, words)) = wanted {
                let seen = step["seen"].as_str().unwrap();
                assert!(seen.contains(words), "{name}: {seen}");
            }
        }
        assert_eq!(
            (&document["ok"], code),
            (&Value::Bool(expected.is_empty()), Some(i32::from(!expected.is_empty())))
        );
    }
}

fn step<'a>(document: &'a Value, name: &str) -> &'a Value {
    let steps = document["steps"].as_array().unwrap();
    assert_eq!(steps.len(), STEPS.len());
    steps.iter().find(|step| step["name"] == name).unwrap()
}

#[test]
fn the_demo_keeps_every_promise() {
    let demo = Demo::new(&[]);
    demo.fails_at(&[]);
    // The tour left nothing running.
    let found = process(&["watchword", &demo.name]).unwrap_err();
    assert!(found.to_string().starts_with("0 processes"), "{found}");
}

#[test]
fn the_demo_tells_people_what_it_does_while_it_does_it() {
    let demo = Demo::new(&[]);
    let finished = demo.command().output().unwrap();
    let told = String::from_utf8(finished.stderr).unwrap();
    for name in STEPS {
        assert!(told.contains(&format!("== {name}\n   promised  ")), "{told}");
    }
    assert_eq!(told.matches("\n   seen ").count(), STEPS.len(), "{told}");
    assert_eq!(finished.stdout, b"9 of 9 steps as promised\n");
    assert!(finished.status.success());
}

#[test]
fn in_the_demo_a_real_vault_signs_and_its_audit_log_shows_it() {
    let demo = Demo::new(&[]);
    let mut vault = std::ffi::OsString::from("--vault=");
    vault.push(vault_program().unwrap());
    let (document, code) = Demo::document(demo.command().arg("--json").arg(vault));
    let ready = step(&document, "mesh-ready")["seen"].as_str().unwrap();
    assert!(ready.contains("Vault's audit log has every serial"), "{document:#}");
    assert_eq!((&document["ok"], code), (&Value::Bool(true), Some(0)), "{document:#}");
}

#[test]
fn without_a_vault_the_demo_says_where_to_get_one() {
    let finished = Demo::new(&[]).command().arg("--vault=/no/such/vault").output().unwrap();
    let said = String::from_utf8(finished.stderr).unwrap();
    assert!(said.contains("no Vault was found: install it"), "{said}");
    assert_eq!(finished.status.code(), Some(1));
}

#[test]
fn the_demo_says_why_its_mesh_did_not_start() {
    let demo = Demo::new(&[("mesh.yaml", "shop, orders]", "no-such-part]")]);
    let others = STEPS[1..]
        .iter()
        .map(|name| (*name, "not tried, since the mesh did not start"));
    let all: Vec<_> = [("mesh-ready", "orders")].into_iter().chain(others).collect();
    demo.fails_at(&all);
}

#[test]
fn the_demo_notices_calls_that_policies_should_have_denied() {
    let demo = Demo::new(&[
        (
            "policies.yaml",
            "  - name: not from the lab\n    from: [spiffe://demo.example/lab]\n",
            "",
        ),
        (
            "policies.yaml",
            "  - name: web follows prices\n    from: [spiffe://demo.example/web]",
            "  - name: web follows prices\n    from: [spiffe://demo.example/*]",
        ),
        ("policies.yaml", "methods: [DELETE]", "methods: [PATCH]"),
        ("policies.yaml", "methods: [Refund]", "methods: [Cancel]"),
    ]);
    demo.fails_at(&[
        ("denied-call", "served it"),
        ("http-denied", "DELETE: orders served it"),
        ("grpc-denied", "Refund: orders served it"),
    ]);
}

#[test]
fn the_demo_notices_a_call_that_policies_should_have_allowed() {
    let demo = Demo::new(&[
        ("policies.yaml", "    ports: [7070]\n", "    ports: [7071]\n"),
        ("mesh.yaml", "{7070: tcp, ", "{7070: tcp, 7071: tcp, "),
    ]);
    demo.fails_at(&[
        ("allowed-call", "TCP: came to nothing"),
        ("long-lived-connection", "0 messages"),
    ]);
}

#[test]
fn the_demo_notices_calls_that_can_be_read_on_the_wire() {
    // Programs that are left to themselves do no TLS at all.
    let demo = Demo::new(&[
        (
            "mesh.yaml",
            "demo-part, shop, web]\n",
            "demo-part, shop, web]\n    peer: mtls\n",
        ),
        (
            "mesh.yaml",
            "demo-part, shop, orders]\n",
            "demo-part, shop, orders]\n    peer: mtls\n",
        ),
    ]);
    let (document, code) = demo.run();
    let seen = &step(&document, "plaintext-refused")["seen"];
    let seen = seen.as_str().unwrap();
    assert!(
        !seen.contains(" 0 frames") && seen.contains("which were answered: "),
        "{document:#}"
    );
    let allowed = &step(&document, "allowed-call")["seen"];
    assert!(
        allowed.as_str().unwrap().contains("was told that nobody calls"),
        "{document:#}"
    );
    assert_eq!(code, Some(1));
}

#[test]
fn the_demo_notices_a_peer_that_passes_for_another() {
    let demo = Demo::new(&[(
        "mesh.yaml",
        "demo-part, shop, lab]\n",
        "demo-part, shop, lab]\n    id: spiffe://demo.example/billing\n",
    )]);
    demo.fails_at(&[
        ("denied-call", "denied, but by no rule"),
        ("wrong-peer-refused", "lab served it"),
    ]);
}

#[test]
fn the_demo_notices_a_connection_that_does_not_last() {
    let demo = Demo::new(&[(
        "mesh.yaml",
        "run: [./watchword, demo-part, shop, orders]",
        "run: [sh, -c, 'timeout 5 ./watchword demo-part shop orders; exec ./watchword demo-part shop orders']",
    )]);
    let (document, code) = demo.run();
    let held = step(&document, "long-lived-connection");
    assert!(
        held["seen"].as_str().unwrap().contains("on one connection, then: "),
        "{held}"
    );
    assert_eq!((&held["ok"], code), (&Value::Bool(false), Some(1)));
}

#[test]
fn the_demo_notices_certificates_that_are_not_replaced() {
    let demo = Demo::new(&[]);
    let mut child = demo
        .command()
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let output = Output::of(&mut child);
    output
        .wait_for("the load", |line| line == "== rotation-under-load")
        .unwrap();
    let stopped = Stopped::stop(process(&["watchword-control-plane", &demo.name]).unwrap()).unwrap();
    let line = output
        .wait_for("what was seen instead", |line| line.contains("NOT SO"))
        .unwrap();
    assert!(line.contains("certificates replaced: "), "{line}");
    drop(stopped);
    assert_eq!(child.wait().unwrap().code(), Some(1));
}
