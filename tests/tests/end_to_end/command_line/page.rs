//! docs/commands.md: every command that it shows is run, in its order, with
//! this test's mesh in the place of the page's names.

use watchword_tests::{MeshFile, Vault, shell};

use crate::apps::SERVER;

const PAGE: &str = include_str!("../../../../docs/commands.md");

/// What takes long, or a terminal, and has tests of its own for each form that
/// the page shows: demo.rs, bench.rs, watching.rs; and `up` is in all of them.
const ELSEWHERE: [&str; 4] = [
    "watchword demo",
    "watchword bench",
    "watchword status --watch",
    "watchword up mesh.yaml",
];

/// Commands that mean a running mesh.
const OF_A_MESH: [&str; 5] = ["exec", "status", "cert view", "bundle export", "token create"];

const TOP: &str = "registry: [{id: spiffe://example.org/batch}]";
const SERVICES: &str = "\
web: {run: [sleep, infinity]}
billing: {run: [sleep, infinity]}
pay: {run: [sleep, infinity], ports: {9090: grpc}}
orders: {run: [python3, server.py, '8080', orders], ports: {8080: http}, replicas: 2, healthy: {port: 8080}}
";
const POLICIES: &str = "\
name: orders
service: spiffe://example.org/orders
allow: [{name: web, from: [spiffe://example.org/web], ports: [8080]}]
---
name: pay
service: spiffe://example.org/pay
allow: [{name: billing, from: [spiffe://example.org/billing], ports: [9090]}]
";
const CASES: &str =
    "- {from: spiffe://example.org/web, to: spiffe://example.org/orders, port: 8080, path: /, expect: allow}\n";

/// The line, for the mesh of this name.
fn of_mesh(line: &str, name: &str) -> String {
    let line = line.replace("--mesh shop", &format!("--mesh {name}"));
    if line.contains("--mesh ") || line.contains("--admin ") {
        return line;
    }
    let mut commands = OF_A_MESH.iter().map(|command| format!("watchword {command}"));
    match commands.find(|command| line.starts_with(command.as_str())) {
        Some(command) => line.replacen(&command, &format!("{command} --mesh {name}"), 1),
        None => line,
    }
}

#[test]
fn every_command_of_the_page_does_what_it_is_for() {
    let file = MeshFile::with(TOP, SERVICES, POLICIES).unwrap();
    file.write("server.py", SERVER).unwrap();
    file.write("cases.yaml", CASES).unwrap();
    let folder = file.folder().to_owned();
    let run = |line: &str| {
        let mut shell = shell(line, &folder).unwrap();
        watchword_tests::run(shell.env("HOME", &folder)).unwrap_or_else(|error| panic!("$ {line}\n{error:#}"))
    };
    let shown: Vec<_> = PAGE.lines().filter_map(|line| line.strip_prefix("$ ")).collect();
    let (of_machine, rest): (Vec<_>, Vec<_>) = shown
        .into_iter()
        .filter(|line| !ELSEWHERE.iter().any(|elsewhere| line.starts_with(elsewhere)))
        .partition(|line| line.starts_with("watchword doctor"));
    assert!(of_machine.len() == 3 && rest.len() > 20, "{rest:?}");
    run("mkdir policies && cp policies.yaml policies");
    // Before the mesh runs: that it does is what `doctor` would say of its file.
    for line in of_machine {
        assert!(!run(line).is_empty(), "$ {line}");
    }
    let vault = Vault::start_empty(&[]).unwrap();
    let mesh = file.up().unwrap();
    let name = mesh.file().name();
    let admin = mesh.run_folder().unwrap().join("admin.sock");
    run(&of_mesh("watchword bundle export > root.pem", name));
    run("mkdir -p .config/fish/completions");
    for line in rest {
        let line = of_mesh(line, name)
            .replace("/run/watchword/admin.sock", &admin.display().to_string())
            .replace("vault.example.org:8200", vault.address().trim_start_matches("https://"))
            .replace("/etc/bash_completion.d/", "")
            .replace("/usr/share/zsh/site-functions/", "");
        let said = run(&line);
        let says_nothing = line.contains(" > ") || line.contains(" --out ") || line.contains(" -- sh");
        assert!(says_nothing || !said.is_empty(), "$ {line}");
    }
    for written in ["partner.pem", "bundle.json", "token", "watchword", "_watchword"] {
        let size = std::fs::metadata(folder.join(written)).unwrap().len();
        assert!(size > 10, "{written} has {size} bytes");
    }
}
