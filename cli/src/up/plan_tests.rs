#![allow(clippy::unwrap_used)]

use std::path::Path;

use watchword_control_plane::mesh_file::MeshFile;

use super::plan::{Machine, Plan, PlanError};
use super::render_tests;
use super::users::Users;

fn plan(top: &str) -> Result<Plan, PlanError> {
    plan_of(top, "{web: {run: [web]}}")
}

fn plan_of(top: &str, services: &str) -> Result<Plan, PlanError> {
    let text = format!("name: shop\ntrustDomain: td\n{top}\nservices: {services}\n");
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

#[test]
fn a_published_service_gets_a_publisher_that_the_control_plane_knows() {
    assert_eq!(plan("").unwrap().publisher, None);
    let services = "{web: {run: [web], ports: {80: http, 81: tcp}, publish: {80: '127.0.0.1:18080'}}}";
    let planned = plan_of("", services).unwrap();
    let publisher = planned.publisher.as_ref().unwrap();
    assert_eq!(publisher.ports.len(), 1);
    assert_eq!(publisher.ports[0].to.to_string(), "240.0.0.1:80");
    assert_eq!(
        publisher.replica.addresses[0].to_string(),
        "10.87.0.3",
        "after all replicas"
    );
    assert_eq!(planned.members().count(), 2);
    let text = super::render::control_plane(&planned).to_string();
    let read = MeshFile::parse("control-plane.yaml", &text, Path::new("/")).unwrap();
    assert_eq!(read.registry[0].id.to_string(), "spiffe://td/watchword/publish");
    assert_eq!(
        super::render::sidecar(&planned, &publisher.replica).get("workloadApi"),
        None
    );
}

#[test]
fn what_may_be_called_outside_reaches_control_plane_sidecars_and_helper_and_names_of_hosts_their_files() {
    let quiet = plan("").unwrap();
    assert_eq!(super::render::sidecar(&quiet, &quiet.replicas[0]).get("egress"), None);
    let top = "egressMode: audit\negress: [{name: db.example, to: [192.0.2.1/32, '2001:db8::1/128', 10.0.0.0/24], \
               ports: [443]}, {name: all ports, to: [198.51.100.7/32]}, {name: web, to: [198.51.100.8/32]}]";
    let planned = plan(top).unwrap();
    let text = super::render::control_plane(&planned).to_string();
    let read = MeshFile::parse("control-plane.yaml", &text, Path::new("/")).unwrap();
    assert_eq!(read.egress, planned.egress);
    let sidecar = super::render::sidecar(&planned, &planned.replicas[0]);
    assert_eq!(sidecar["egress"]["gateway"], "unix:/run/watchword/shop/egress.sock");
    assert_eq!(super::render::gateway(&planned)["egress"]["mode"], "audit");
    let hosts = super::render::hosts(&planned, &planned.replicas[0]);
    assert!(
        hosts.ends_with("192.0.2.1\tdb.example\n2001:db8::1\tdb.example\n"),
        "{hosts}"
    );
    let refused = plan("egress: [{name: x, to: [10.87.1.0/24]}]").unwrap_err().to_string();
    assert!(refused.contains("10.87.1.0/24 lies in 10.87.0.0/16"), "{refused}");
}
