//! gRPC's own interoperability tests: a real client and a real server, as if
//! nobody stood in between.

use watchword_tests::{Mesh, MeshFile};

use crate::load::metric;

/// All that the client offers but those that need Google's credentials, or a
/// server that reports its load.
const CASES: [&str; 14] = [
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
];

/// `UnimplementedService` is what the case of that name calls.
const POLICIES: &str = "\
name: payments
service: spiffe://example.org/payments
allow:
  - name: web tests
    from: [spiffe://example.org/web]
    ports: [9090]
    grpc:
      - {service: grpc.testing.TestService}
      - {service: grpc.testing.UnimplementedService}
";

/// `web` and `lab` can call `payments`, the server of the tests, on port 9090.
pub(super) fn payments(policies: &str) -> Mesh {
    let services = "\
web: {run: [sleep, infinity]}
lab: {run: [sleep, infinity]}
payments: {run: [./grpc-interop-server, -port, '9090'], ports: {9090: grpc}, healthy: {port: 9090}}
";
    let file = MeshFile::new(services, policies).unwrap();
    for name in ["grpc-interop-server", "grpc-interop-client"] {
        file.lend(name).unwrap();
    }
    file.up().unwrap()
}

/// Runs a case as a service. What the client complains about, if it does.
pub(super) fn complaint(mesh: &Mesh, service: &str, case: &str) -> Option<String> {
    let client = mesh.file().folder().join("grpc-interop-client");
    let client = client.to_str().unwrap();
    let server = ["-server_host", "payments", "-server_port", "9090", "-test_case", case];
    let mut command = vec!["timeout", "60", client];
    command.extend(server);
    let finished = mesh.exec(service, &command).unwrap();
    let said = String::from_utf8_lossy(&[finished.stdout, finished.stderr].concat()).into_owned();
    (!finished.status.success()).then(|| format!("{case}: {}: {said}", finished.status))
}

#[test]
fn every_case_of_grpcs_own_tests_passes_through_the_mesh() {
    let mesh = payments(POLICIES);
    let failed: Vec<String> = CASES.iter().filter_map(|case| complaint(&mesh, "web", case)).collect();
    assert!(failed.is_empty(), "{}\n{}", failed.concat(), mesh.output().text());
    let labels = "decision=\"allow\",policy=\"payments\",rule=\"web tests\"";
    let allowed = metric(&mesh, "payments", "watchword_policy_decisions_total", labels);
    assert!(allowed >= 14, "{allowed} calls were judged");
}
