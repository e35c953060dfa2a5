//! gRPC calls that policies deny are answered in gRPC's own way.

use watchword_tests::Mesh;

use super::interop::{complaint, payments};
use crate::load::metric;

/// `web` may make empty calls only, the lab others only.
const POLICIES: &str = "\
name: payments
service: spiffe://example.org/payments
allow:
  - name: web makes empty calls
    from: [spiffe://example.org/web]
    grpc: [{service: grpc.testing.TestService, methods: [EmptyCall]}]
  - name: the lab makes others
    from: [spiffe://example.org/lab]
    grpc: [{service: grpc.testing.TestService, methods: [UnaryCall]}]
deny:
  - name: web never pays
    from: [spiffe://example.org/web]
    grpc: [{service: grpc.testing.TestService, methods: [UnaryCall]}]
";
const UNARY: &str = "/grpc.testing.TestService/UnaryCall";

/// The answer to a call without a message, head and trailers: nothing is on its
/// way when it comes.
fn call(mesh: &Mesh, service: &str, path: &str, more: &[&str]) -> String {
    let url = format!("http://payments:9090{path}");
    let mut command = vec!["curl", "--silent", "--show-error", "--include", "--max-time", "20"];
    command.extend([
        "--http2-prior-knowledge",
        "--request",
        "POST",
        "--header",
        "TE: trailers",
        &url,
    ]);
    command.extend(more);
    mesh.exec_ok(service, &command).unwrap()
}

#[test]
fn a_method_that_is_denied_names_its_rule_to_a_real_client() {
    let mesh = payments(POLICIES);
    assert_eq!(complaint(&mesh, "web", "empty_unary"), None);
    // 270 kB are on their way when the answer comes.
    for _ in 0..10 {
        let denied = complaint(&mesh, "web", "large_unary").unwrap();
        assert!(denied.contains("code = PermissionDenied"), "{denied}");
        let names_its_rule = denied.contains("denied by policy \"payments\", rule \"web never pays\"");
        assert!(names_its_rule, "{denied}");
    }
    let denied = complaint(&mesh, "web", "unimplemented_service").unwrap();
    assert!(denied.contains("PermissionDenied"), "{denied}");
    // Others are judged by their own rules.
    assert_eq!(complaint(&mesh, "lab", "large_unary"), None);
    let denied = complaint(&mesh, "lab", "empty_unary").unwrap();
    assert!(denied.contains("no rule of policy \"payments\""), "{denied}");
}

#[test]
fn a_denied_call_says_so_in_its_head_in_the_log_and_in_the_metrics() {
    let mesh = payments(POLICIES);
    assert_eq!(complaint(&mesh, "web", "empty_unary"), None);
    let kind = ["--header", "Content-Type: application/grpc"];
    let denied = call(&mesh, "web", UNARY, &kind);
    let expected = [
        "HTTP/2 200",
        "\ncontent-type: application/grpc\r\n",
        "\ngrpc-status: 7\r\n",
        "\ngrpc-message: denied by policy \"payments\", rule \"web never pays\"\r\n",
        "\nwatchword-denied: payments/web never pays\r\n",
    ];
    for part in expected {
        assert!(denied.contains(part), "{part:?} is not in {denied}");
    }
    mesh.output()
        .wait_for("the rule in the access log", |line| {
            let parts = [
                "request ",
                "protocol=grpc",
                "method=POST",
                "path=/grpc.testing.TestService/UnaryCall",
                "decision=deny",
                "policy=payments",
                "rule=web never pays",
                "result=denied",
                "status=200",
                "client_id=spiffe://example.org/web",
            ];
            parts.iter().all(|part| line.contains(part))
        })
        .unwrap();
    let decisions = |labels| metric(&mesh, "payments", "watchword_policy_decisions_total", labels);
    assert_eq!(
        decisions("decision=\"deny\",policy=\"payments\",rule=\"web never pays\""),
        1
    );
    assert_eq!(decisions("rule=\"web makes empty calls\""), 1);
}

#[test]
fn no_content_type_and_no_form_of_a_path_gets_round_a_denied_method() {
    let mesh = payments(POLICIES);
    let types = [
        "application/json",
        "application/grpcx",
        "APPLICATION/GRPC",
        "text/plain",
        "",
    ];
    for kind in types {
        let answer = call(&mesh, "web", UNARY, &["--header", &format!("Content-Type: {kind}")]);
        assert!(answer.starts_with("HTTP/2 403"), "{kind}: {answer}");
        assert!(
            answer.contains("\nwatchword-denied: payments/web never pays\r\n"),
            "{kind}: {answer}"
        );
    }
    for kind in ["application/grpc+proto", "application/grpc;x=y"] {
        let answer = call(&mesh, "web", UNARY, &["--header", &format!("Content-Type: {kind}")]);
        assert!(answer.contains("\ngrpc-status: 7\r\n"), "{kind}: {answer}");
    }
    let paths = [
        "/grpc.testing.TestService//UnaryCall",
        "//grpc.testing.TestService/UnaryCall",
        "/grpc.testing.TestService/./UnaryCall",
        "/grpc.testing.TestService/%55naryCall",
        "/grpc.testing.TestService/UnaryCall?x=y",
        "/grpc.testing.TestService/UnaryCall/",
        "/grpc.testing.TestService/EmptyCall/../UnaryCall",
    ];
    for path in paths {
        let kind = ["--path-as-is", "--header", "Content-Type: application/grpc"];
        let answer = call(&mesh, "web", path, &kind);
        assert!(answer.contains("\nwatchword-denied: "), "{path}: {answer}");
        assert!(!answer.contains("grpc-status: 0"), "{path}: {answer}");
    }
    // Nor does HTTP/1.1.
    let one = ["--http1.1", "--header", "Content-Type: application/grpc"];
    let answer = call(&mesh, "web", UNARY, &one);
    assert!(
        answer.contains("\nwatchword-denied: payments/web never pays\r\n"),
        "{answer}"
    );
}

/// A caller whom no rule lets call anything is told in gRPC's way as well.
#[test]
fn a_caller_without_any_rule_gets_a_status_of_grpc() {
    let policies = POLICIES.replace("spiffe://example.org/lab", "spiffe://example.org/other");
    let mesh = payments(&policies);
    let denied = complaint(&mesh, "lab", "empty_unary").unwrap();
    assert!(denied.contains("code = PermissionDenied"), "{denied}");
}
