//! Certificates while a mesh runs.

use crate::apps::{curl, mesh, mesh_file_with};
use watchword_tests::wait_until;

fn generation(mesh: &watchword_tests::Mesh, replica: &str) -> u64 {
    let status = mesh.status().unwrap();
    let replicas = status["replicas"].as_array().unwrap();
    let found = replicas.iter().find(|found| found["replica"] == replica).unwrap();
    found["generation"].as_u64().unwrap()
}

#[test]
fn certificates_of_four_seconds_are_replaced_while_calls_go_on() {
    let mesh = mesh_file_with("certificates: {ttl: 4s}").up().unwrap();
    let first = generation(&mesh, "orders-1");
    let mut calls = 0;
    wait_until("five more generations", || {
        mesh.exec_ok("web", &curl(&["http://orders:8080/"])).unwrap();
        calls += 1;
        generation(&mesh, "orders-1") >= first + 5
    })
    .unwrap();
    assert!(calls > 5);
}

#[test]
fn every_replica_has_an_identity_of_its_own() {
    let mesh = mesh();
    let status = mesh.status().unwrap();
    let mut ids: Vec<_> = status["replicas"]
        .as_array()
        .unwrap()
        .iter()
        .map(|found| found["spiffe_id"].as_str().unwrap())
        .collect();
    ids.sort_unstable();
    assert_eq!(
        ids,
        [
            "spiffe://example.org/lab",
            "spiffe://example.org/orders",
            "spiffe://example.org/web"
        ]
    );
}
