//! A request that is denied says by what: to its caller, in the log, in the
//! metrics, and in `watchword status`.

use super::{answer, got, got_so_many, mesh, mesh_file};
use crate::load::metric;

const URL: &str = "http://orders:8080";

#[test]
fn a_denied_method_and_a_denied_path_name_their_rule_to_caller_log_metric_and_status() {
    let mesh = mesh();
    let table = [
        (
            "web",
            vec!["--request", "DELETE", "http://orders:8080/x"],
            "orders/no-allow-rule",
        ),
        ("web", vec!["http://orders:8080/admin/keys"], "orders/nobody is admin"),
        ("lab", vec!["http://orders:8080/other"], "orders/no-allow-rule"),
    ];
    for (service, arguments, named) in &table {
        for version in ["--http1.1", "--http2-prior-knowledge"] {
            let mut arguments = arguments.clone();
            arguments.push(version);
            let answer = answer(&mesh, service, &arguments);
            assert!(answer.contains(" 403"), "{answer}");
            assert!(answer.contains(&format!("watchword-denied: {named}\r\n")), "{answer}");
        }
    }
    assert_eq!(got(&mesh), [""; 0], "a denied request reached the app");
    mesh.output()
        .wait_for("the rule in the access log", |line| {
            line.contains("request ")
                && line.contains("decision=deny")
                && line.contains("policy=orders")
                && line.contains("rule=nobody is admin")
                && line.contains("method=GET")
                && line.contains("path=/admin/keys")
                && line.contains("status=403")
                && line.contains("client_id=spiffe://example.org/web")
        })
        .unwrap();
    let labels = "rule=\"nobody is admin\"";
    let denied = metric(&mesh, "orders", "watchword_policy_decisions_total", labels);
    assert_eq!(denied, 2, "{labels}");
    let requests = metric(&mesh, "orders", "watchword_http_requests_total", "status=\"403\"");
    assert_eq!(requests, 6);
    let status = mesh.status().unwrap();
    let replicas = status["replicas"].as_array().unwrap();
    let orders = replicas.iter().find(|replica| replica["service"] == "orders").unwrap();
    assert_eq!(orders["last_denial"]["request"], "GET /other", "{orders}");
}

#[test]
fn what_is_allowed_passes_beside_what_is_not_on_one_connection() {
    let mesh = mesh();
    let both = answer(
        &mesh,
        "lab",
        &[
            "http://orders:8080/lab/1",
            "http://orders:8080/other",
            "http://orders:8080/lab/2",
        ],
    );
    let statuses: Vec<&str> = both
        .lines()
        .filter(|line| line.starts_with("HTTP/1.1"))
        .map(|line| &line[9..12])
        .collect();
    assert_eq!(statuses, ["200", "403", "200"], "{both}");
    let paths: Vec<String> = got_so_many(&mesh, 2)
        .iter()
        .map(|line| line.split_whitespace().nth(1).unwrap().to_owned())
        .collect();
    assert_eq!(paths, ["/lab/1", "/lab/2"]);
}

#[test]
fn the_app_gets_the_path_that_was_judged() {
    let mesh = mesh();
    let table = [
        ("/lab/../admin", "403"),
        ("//admin", "403"),
        ("/%61dmin", "403"),
        ("/x/%2e%2E/admin/", "403"),
        ("/admin;x=y/keys", "403"),
        ("/ADMIN", "200"),
        ("/a/./b//c/../d?q=/admin", "200"),
        ("/%2fadmin", "400"),
        ("/x%5c..%5cadmin", "400"),
        ("/..;/admin", "400"),
        ("/%00", "400"),
        ("/%c0%afadmin", "400"),
        ("/%zz", "400"),
        ("/../admin", "400"),
    ];
    for (path, status) in table {
        let answer = answer(&mesh, "web", &[&format!("{URL}{path}")]);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
    }
    let firsts: Vec<String> = got_so_many(&mesh, 2)
        .iter()
        .map(|line| line.split(" | ").next().unwrap().to_owned())
        .collect();
    assert_eq!(firsts, ["GET /ADMIN HTTP/1.1", "GET /a/b/d?q=/admin HTTP/1.1"]);
}

#[test]
fn a_caller_whom_no_rule_can_let_pass_never_opens_a_connection_to_the_app() {
    let policies = "name: orders\nservice: spiffe://example.org/orders\nallow:\n  - {name: nobody yet, from: \
                    [spiffe://example.org/lab]}\n";
    let mesh = mesh_file("", policies).up().unwrap();
    let answer = answer(&mesh, "web", &[URL]);
    assert!(answer.contains("watchword-denied: orders/no-allow-rule"), "{answer}");
    assert!(answer.contains("denied: no rule of policy \"orders\""), "{answer}");
}

#[test]
fn audit_lets_pass_and_records_as_if_it_enforced() {
    let policies = super::POLICIES.replace(
        "service: spiffe://example.org/orders\n",
        "service: spiffe://example.org/orders\naudit: true\n",
    );
    let mesh = mesh_file("", &policies).up().unwrap();
    let answer = answer(&mesh, "web", &["http://orders:8080/admin/keys"]);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    mesh.output()
        .wait_for("what would be denied", |line| {
            line.contains("decision=would-deny") && line.contains("rule=nobody is admin") && line.contains("status=200")
        })
        .unwrap();
    let labels = "decision=\"would-deny\"";
    assert_eq!(metric(&mesh, "orders", "watchword_policy_decisions_total", labels), 1);
}

#[test]
fn an_app_that_is_away_is_told_apart_from_a_denial() {
    let policies = super::POLICIES;
    let mesh = mesh_file("", policies).up().unwrap();
    // An answer that closes the app's connection leaves the caller's open.
    let both = answer(&mesh, "web", &["http://orders:8080/once", "http://orders:8080/once"]);
    assert_eq!(both.matches("HTTP/1.1 200").count(), 2, "{both}");
}
