//! Policies and the directory as they change under a running mesh.

use serde_json::Value;
use watchword_tests::{Mesh, wait_until};

use crate::apps::{POLICIES, complaint, curl, mesh};

fn is_allowed(mesh: &Mesh) -> bool {
    let finished = mesh.exec("web", &curl(&["http://orders:8080/"])).unwrap();
    finished.status.success()
}

pub(crate) fn policies_of(mesh: &Mesh, replica: &str) -> String {
    let socket = mesh.run_folder().unwrap().join(replica).join("proxy-admin.sock");
    let mut get = std::process::Command::new("curl");
    get.args(["--silent", "--max-time", "20", "--unix-socket"])
        .arg(socket)
        .arg("http://sidecar/policy");
    watchword_tests::run(&mut get).unwrap()
}

fn told(mesh: &Mesh, text: &str) -> usize {
    mesh.output().text().lines().filter(|line| line.contains(text)).count()
}

#[test]
fn a_changed_policy_denies_and_allows_again() {
    let mesh = mesh();
    assert!(is_allowed(&mesh));
    let (_, of_web) = POLICIES.split_once("---").unwrap();
    let nobody = "name: orders\nservice: spiffe://example.org/orders\nallow: []\n---";
    mesh.file()
        .write("policies.yaml", &format!("{nobody}{of_web}"))
        .unwrap();
    wait_until("the denial", || !is_allowed(&mesh)).unwrap();
    mesh.output()
        .wait_for("its reason", |line| {
            line.contains("direction=inbound") && line.contains("reason=no-allow-rule")
        })
        .unwrap();
    mesh.file().write("policies.yaml", POLICIES).unwrap();
    wait_until("calls to be allowed again", || is_allowed(&mesh)).unwrap();
}

#[test]
fn a_broken_policy_is_told_once_with_its_place_and_the_old_ones_stay_in_force() {
    let mesh = mesh();
    let before = policies_of(&mesh, "orders-1");
    assert!(before.contains("orders"), "{before}");
    mesh.file()
        .write(
            "policies.yaml",
            "name: orders\nservice: spiffe://example.org/orders\nalow: []\n",
        )
        .unwrap();
    let place = "policies.yaml:3:1";
    let line = mesh
        .output()
        .wait_for("the mistake", |line| line.contains(place))
        .unwrap();
    assert!(line.contains("what was good before stays in force"), "{line}");
    assert!(is_allowed(&mesh));
    complaint(&mesh.exec("lab", &curl(&["http://orders:8080/"])).unwrap());
    assert_eq!(policies_of(&mesh, "orders-1"), before);
    // The same file again is no news, other files beside it are none either.
    mesh.file().write("policies.yaml~", "name: [").unwrap();
    mesh.file().write("policies.yaml", POLICIES).unwrap();
    mesh.output()
        .wait_for("the good file", |line| line.contains("took over the changed mesh file"))
        .unwrap();
    assert_eq!(told(&mesh, place), 1, "{}", mesh.output().text());
    assert!(is_allowed(&mesh));
}

/// Writes the control plane's own file anew: `up` reads the mesh file once.
fn change_directory(mesh: &Mesh, change: impl FnOnce(&mut Value)) {
    let path = mesh.run_folder().unwrap().join("control-plane.yaml");
    let mut file: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    change(&mut file["services"]["orders"]);
    std::fs::write(&path, file.to_string()).unwrap();
}

#[test]
fn a_replica_that_leaves_the_directory_gets_no_more_calls_until_it_is_back() {
    let services = "\
web: {run: [sleep, infinity]}
orders:
  run: [sh, -c, 'exec python3 server.py 8080 $(cat /proc/sys/kernel/hostname)']
  replicas: 2
  ports: {8080: http}
  healthy: {port: 8080}
";
    let policies = "name: orders\nservice: spiffe://example.org/orders\nallow:\n  - from: [spiffe://example.org/web]\n";
    let file = watchword_tests::MeshFile::new(services, policies).unwrap();
    file.write("server.py", crate::apps::SERVER).unwrap();
    let mesh = file.up().unwrap();
    let ten_calls = || -> Vec<String> {
        (0..10)
            .map(|_| mesh.exec_ok("web", &curl(&["http://orders:8080/"])).unwrap())
            .collect()
    };
    let record = mesh.record().unwrap();
    let replicas = record["replicas"].as_array().unwrap();
    let first = replicas.iter().find(|found| found["name"] == "orders-1").unwrap();
    let leaves = first["addresses"].as_array().unwrap().clone();
    let mut all = Value::Null;
    change_directory(&mesh, |orders| {
        all = orders["endpoints"].clone();
        orders["endpoints"].as_array_mut().unwrap().retain(|endpoint| {
            let endpoint: std::net::SocketAddr = endpoint.as_str().unwrap().parse().unwrap();
            !leaves.iter().any(|address| *address == endpoint.ip().to_string())
        });
    });
    wait_until("the second replica to be alone", || {
        ten_calls().iter().all(|answer| answer.contains("orders-2"))
    })
    .unwrap();
    change_directory(&mesh, |orders| orders["endpoints"] = all);
    wait_until("the first replica to be called", || {
        ten_calls().iter().any(|answer| answer.contains("orders-1"))
    })
    .unwrap();
    change_directory(&mesh, |orders| {
        orders["ports"] = serde_json::json!({"8081": "http"});
        orders["endpoints"] = serde_json::json!([]);
    });
    wait_until("the port to be gone", || {
        let finished = mesh.exec("web", &curl(&["http://orders:8080/"])).unwrap();
        !finished.status.success()
    })
    .unwrap();
    mesh.output()
        .wait_for("the reason", |line| line.contains("reason=port-not-declared"))
        .unwrap();
}
