#![allow(clippy::unwrap_used)]

use std::path::Path;

use watchword_control_plane::mesh_file::MeshFile;

use super::plan::{Machine, Plan, PlanError};
use super::render_tests;
use super::users::Users;

fn plan(top: &str) -> Result<Plan, PlanError> {
    let text = format!("name: shop\ntrustDomain: td\n{top}\nservices: {{web: {{run: [web]}}}}\n");
    let mesh = MeshFile::parse("mesh.yaml", &text, Path::new("/home/me")).unwrap();
    let Plan { base, ipv6, tools, .. } = render_tests::plan(false);
    Plan::new(
        &mesh,
        Machine {
            workload_folder: base.clone(),
            base,
            ipv6,
            tools,
        },
        &Users::Caller { uid: 1000, gid: 1000 },
    )
}

#[test]
fn spans_leave_a_sidecars_network_by_unix_socket_alone() {
    assert_eq!(plan("").unwrap().tracing, None);
    let tracing = plan("tracing: {address: 'unix:otel.sock', sampleRatio: 1}")
        .unwrap()
        .tracing;
    assert_eq!(
        tracing,
        Some(serde_json::json!({"address": "unix:/home/me/otel.sock", "sampleRatio": 1.0}))
    );
    let refused = plan("tracing: {address: 'localhost:4317'}").unwrap_err().to_string();
    assert!(
        refused.starts_with("`tracing.address: localhost:4317` can't be reached"),
        "{refused}"
    );
}

#[test]
fn the_control_plane_gets_other_trust_domains_with_whole_paths() {
    let plan = plan("trustBundles: {partner.example: keys/partner.pem, second.example: /etc/second.pem}").unwrap();
    let text = super::render::control_plane(&plan).to_string();
    let read = MeshFile::parse("control-plane.yaml", &text, Path::new("/elsewhere")).unwrap();
    let files: Vec<_> = read.trust_bundles.values().collect();
    assert_eq!(
        files,
        [Path::new("/home/me/keys/partner.pem"), Path::new("/etc/second.pem")]
    );
}

/// A client that is told nothing else looks there (SPIFFE Workload Endpoint,
/// section 4).
#[test]
fn programs_find_the_workload_socket_by_the_variable_of_the_standard() {
    let plan = plan("").unwrap();
    let socket = &plan.replicas[0].environment["SPIFFE_ENDPOINT_SOCKET"];
    assert_eq!(socket, "unix:///run/watchword/workload.sock");
}
