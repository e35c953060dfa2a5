//! Programs that the world runs, unchanged, and clients of theirs: what they
//! do by themselves works through the mesh, and whom no rule lets in is
//! refused by name. Elsewhere: nginx in `http::servers` and here, gRPC in
//! `http::interop`, WebSocket in `http::websocket`, Envoy in `foreign`.

mod caches;
pub(crate) mod databases;
mod mail;
mod throughput;
mod web;

use watchword_tests::{Mesh, MeshFile};

use crate::apps::complaint;

/// `web` calls everybody, and the lab nobody.
const POLICIES: &str = "\
name: all
service: spiffe://example.org/*
allow: [{name: web calls, from: [spiffe://example.org/web]}]
deny: [{name: not from the lab, from: [spiffe://example.org/lab]}]
";

/// The callers, and the services that are given.
fn mesh_file(top: &str, services: &str) -> MeshFile {
    let callers = "web: {run: [sleep, infinity]}\nlab: {run: [sleep, infinity]}\n";
    MeshFile::with(top, &format!("{callers}{services}"), POLICIES).unwrap()
}

/// What works as `web` fails as `lab`, and both sidecars name the rule.
fn refused_by_name(mesh: &Mesh, command: &[&str]) {
    let bounded: Vec<_> = ["timeout", "30"].iter().chain(command).copied().collect();
    complaint(&mesh.exec("lab", &bounded).unwrap());
    for direction in ["inbound", "outbound"] {
        mesh.output()
            .wait_for("the rule that refused it", |line| {
                let parts = [
                    "client_id=spiffe://example.org/lab",
                    "decision=deny",
                    "rule=not from the lab",
                    "result=denied",
                ];
                parts.iter().all(|part| line.contains(part)) && line.contains(direction)
            })
            .unwrap();
    }
}
