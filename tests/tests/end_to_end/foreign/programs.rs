//! Programs on the standard's own clients: go-spiffe, and the `spiffe`
//! packages of Python and Rust.

use watchword_tests::{Mesh, MeshFile, binary};

use super::{Load, mesh_file, printed, run};

const PYTHON: &str = include_str!("../../../tools/spiffe_peer.py");

const OTHERS: &str = "\
go: {run: [./spiffe-go, serve, '8443'], ports: {8443: http}, healthy: {port: 8443}, peer: mtls}
python: {run: [./spiffe-python/python, spiffe_peer.py, serve, '8443'], ports: {8443: http}, healthy: {port: 8443}, peer: mtls}
rust: {run: [./watchword-spiffe, serve, '8443'], ports: {8443: http}, healthy: {port: 8443}, peer: mtls}
";

fn with_programs(others: &str) -> MeshFile {
    let file = mesh_file(others);
    file.lend("spiffe-go").unwrap();
    file.lend("spiffe-python").unwrap();
    file.write("spiffe_peer.py", PYTHON).unwrap();
    std::fs::copy(
        binary("watchword-spiffe").unwrap(),
        file.folder().join("watchword-spiffe"),
    )
    .unwrap();
    file
}

/// How each is called by its service's name.
fn command(service: &str) -> &'static [&'static str] {
    match service {
        "go" => &["./spiffe-go"],
        "python" => &["./spiffe-python/python", "spiffe_peer.py"],
        _ => &["./watchword-spiffe"],
    }
}

fn load<'a>(mesh: &Mesh, from: &'a str, to: &'a str) -> Load {
    let (url, id) = match to {
        "web" => (
            "https://web:8080/open".to_owned(),
            "spiffe://example.org/web".to_owned(),
        ),
        other => (
            format!("https://{other}:8443/"),
            format!("spiffe://example.org/{other}"),
        ),
    };
    let mut words = command(from).to_vec();
    words.extend(["load", &url, &id]);
    Load::start(mesh, from, &words)
}

#[test]
fn programs_of_three_languages_call_and_are_called_and_lose_nothing_while_certificates_rotate() {
    let mesh = with_programs(OTHERS).up().unwrap();
    let calls = ["go", "python", "rust"].map(|from| load(&mesh, from, "web"));
    let called = ["go", "python", "rust"].map(|to| Load::plain(&mesh, "web", &format!("http://{to}:8443/"), "kept"));
    let among_them = load(&mesh, "python", "go");
    mesh.output()
        .wait_for("sixteen certificates for one service", {
            let seen = std::cell::RefCell::new(std::collections::HashSet::new());
            move |line| {
                if line.contains("new certificate for a workload") && line.contains("id=spiffe://example.org/rust") {
                    seen.borrow_mut().insert(line.to_owned());
                }
                seen.borrow().len() >= 16
            }
        })
        .unwrap();
    for load in calls.into_iter().chain([among_them]) {
        let counts = load.all_went_well();
        assert!(counts["rotations"].as_u64().unwrap() >= 5, "{counts}");
    }
    called.into_iter().for_each(|load| _ = load.all_went_well());
}

#[test]
fn who_answers_under_another_identity_is_refused_on_both_sides() {
    let mesh = with_programs(OTHERS).up().unwrap();
    for program in ["go", "python", "rust"] {
        let mut words = command(program).to_vec();
        words.extend(["call", "https://web:8080/open", "spiffe://example.org/other"]);
        let refused = crate::apps::complaint(&run(&mesh, program, &words));
        assert!(
            refused.contains("spiffe://example.org/web") || refused.contains("spiffe://example.org/other"),
            "{program}: {refused}"
        );
        words.pop();
        words.push("spiffe://example.org/web");
        assert_eq!(printed(&run(&mesh, program, &words)).trim(), "hello from web /open");
    }
}
