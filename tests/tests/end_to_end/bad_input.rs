//! Mistakes in files: named with their place, and nothing is started.

use std::fs;

use watchword_tests::MeshFile;

use crate::apps::mesh_file;

fn refused(break_it: impl FnOnce(&str) -> (&'static str, String), expected: &str) {
    let file = mesh_file();
    let mesh = fs::read_to_string(file.folder().join("mesh.yaml")).unwrap();
    let (name, text) = break_it(&mesh);
    file.write(name, &text).unwrap();
    let finished = file.up_to_its_end().unwrap();
    let complaint = crate::apps::complaint(&finished);
    assert_eq!(finished.status.code(), Some(2), "{complaint}");
    assert!(complaint.contains(expected), "expected {expected:?} in:\n{complaint}");
    assert!(!complaint.contains("ready"), "something was started:\n{complaint}");
}

#[test]
fn a_misspelt_key_of_a_mesh_file_is_named_with_line_and_column() {
    refused(
        |mesh| ("mesh.yaml", mesh.replace("trustDomain", "trustdomain")),
        "mesh.yaml:2:1: error:",
    );
    refused(
        |mesh| ("mesh.yaml", mesh.replace("healthy:", "healty:")),
        "mesh.yaml:6:",
    );
}

#[test]
fn a_port_that_is_none_is_named_with_line_and_column() {
    refused(
        |mesh| ("mesh.yaml", mesh.replacen("8080: http", "80800: http", 1)),
        "mesh.yaml:6:",
    );
    refused(
        |mesh| ("mesh.yaml", mesh.replacen("8080: http", "8080: htp", 1)),
        "mesh.yaml:6:",
    );
}

#[test]
fn a_key_that_up_decides_by_itself_is_refused_not_ignored() {
    let file = crate::apps::mesh_file_with("listen: 127.0.0.1:15012");
    let finished = file.up_to_its_end().unwrap();
    let complaint = crate::apps::complaint(&finished);
    assert!(complaint.contains("`listen`"), "{complaint}");
}

#[test]
fn a_broken_policy_file_is_named_with_line_and_column() {
    let policy = |text: &str| text.to_owned();
    refused(
        |_| ("policies.yaml", policy("name: orders\nservice: orders\n")),
        "policies.yaml:2:10: error:",
    );
    refused(
        |_| {
            let text =
                "name: orders\nservice: spiffe://example.org/orders\nallow:\n  - {form: [spiffe://example.org/web]}\n";
            ("policies.yaml", policy(text))
        },
        "policies.yaml:4:6: error:",
    );
    refused(|_| ("policies.yaml", policy("name: [\n")), "policies.yaml:");
}

#[test]
fn a_rule_that_can_not_be_enforced_is_refused_not_ignored() {
    // The port speaks http.
    let text = "name: orders\nservice: spiffe://example.org/orders\nallow:\n  - from: [spiffe://example.org/web]\n    \
                ports: [8080]\n    grpc: [{service: shop.Orders}]\n";
    refused(|_| ("policies.yaml", text.to_owned()), "policies.yaml:5:");
}

#[test]
fn a_port_that_somebody_else_has_is_named_with_what_shows_by_whom() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("control-plane.yaml");
    let place = folder.path().display();
    let text = format!(
        "trustDomain: example.org\nservices: {{}}\nstateDir: {place}/state\nrunDir: {place}/run\nlisten: {address}\n"
    );
    fs::write(&file, text).unwrap();
    let mut command = std::process::Command::new(watchword_tests::binary("watchword-control-plane").unwrap());
    let finished = command.args(["run", "--config"]).arg(&file).output().unwrap();
    assert!(!finished.status.success());
    let said = String::from_utf8_lossy(&[finished.stdout, finished.stderr].concat()).into_owned();
    let shows = format!("ss -ltnp 'sport = :{}'", address.port());
    assert!(
        said.contains(&format!("can't listen on {address}")) && said.contains(&shows),
        "{said}"
    );
    assert_eq!(said.matches("Address already in use").count(), 1, "{said}");
}

#[test]
fn a_program_that_does_not_exist_is_named_with_its_service() {
    let file = mesh_file();
    let mesh = fs::read_to_string(file.folder().join("mesh.yaml")).unwrap();
    file.write("mesh.yaml", &mesh.replace("[sleep, infinity]", "[no-such-program]"))
        .unwrap();
    let finished = file.up_to_its_end().unwrap();
    let complaint = crate::apps::complaint(&finished);
    assert!(
        complaint.contains("lab") && complaint.contains("no-such-program"),
        "{complaint}"
    );
}

/// What is said of a mesh that can't get ready, while it starts.
fn told_of(services: &str, part: &str) -> String {
    let mesh = MeshFile::new(services, "").unwrap().start().unwrap();
    let told = mesh.output().wait_for("what is wrong", |line| line.contains(part));
    told.unwrap()
}

#[test]
fn a_server_that_listens_on_loopback_alone_is_told_so_at_once() {
    let services = "\
web: {run: [python3, -m, http.server, '8080', --bind, 127.0.0.1], ports: {8080: http}, healthy: {port: 8080}}
";
    let told = told_of(services, "on loopback alone");
    assert!(
        told.contains("web-1: its port 8080") && told.contains("0.0.0.0"),
        "{told}"
    );
}

#[test]
fn a_server_on_another_port_than_its_healthy_one_is_told_both() {
    let services = "\
web: {run: [python3, -m, http.server, '8080', --bind, 0.0.0.0], ports: {8080: http}, healthy: {port: 8081}}
";
    let told = told_of(services, "nothing listens");
    assert!(
        told.contains("web-1: nothing listens on its port 8081") && told.contains("`healthy: {port: 8080}`"),
        "{told}"
    );
}
