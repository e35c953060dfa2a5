//! The commands beside `up`.

mod bench;
mod certificates;
mod doctor;
mod page;
mod watching;

use std::process::Command;

use crate::apps::{complaint, curl, mesh};

fn watchword() -> Command {
    Command::new(watchword_tests::binary("watchword").unwrap())
}

#[test]
fn exec_returns_the_exit_status_and_status_shows_the_last_denial() {
    let mesh = mesh();
    assert_eq!(
        mesh.exec("web", &["sh", "-c", "exit 7"]).unwrap().status.code(),
        Some(7)
    );
    complaint(&mesh.exec("lab", &curl(&["http://orders:8080/"])).unwrap());
    let status = mesh.status().unwrap();
    let replicas = status["replicas"].as_array().unwrap();
    let orders = replicas
        .iter()
        .find(|replica| replica["replica"] == "orders-1")
        .unwrap();
    assert_eq!(orders["last_denial"]["rule"], "not from the lab");
    assert_eq!(orders["last_denial"]["peer"], "spiffe://example.org/lab");
    assert!(orders["seconds_left"].as_u64().unwrap() > 3000);
    let table = watchword_tests::run(watchword().args(["status", "--mesh", mesh.file().name()])).unwrap();
    assert!(
        table.contains("spiffe://example.org/orders") && table.contains("not from the lab"),
        "{table}"
    );
}

#[test]
fn an_unknown_service_or_mesh_is_an_error_that_lists_what_there_is() {
    let mesh = mesh();
    let said = complaint(&mesh.exec("order", &["true"]).unwrap());
    assert!(said.contains("orders") && said.contains("web"), "{said}");
    let said = complaint(&watchword().args(["status", "--mesh", "no-such-mesh"]).output().unwrap());
    assert!(said.contains("no-such-mesh"), "{said}");
}

#[test]
fn policy_check_says_where_a_mistake_is_and_exits_with_2() {
    let folder = tempfile::tempdir().unwrap();
    let good = folder.path().join("good.yaml");
    std::fs::write(&good, crate::apps::POLICIES).unwrap();
    let checked = watchword().args(["policy", "check"]).arg(&good).output().unwrap();
    assert!(checked.status.success());
    let warned = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(warned.contains("warning") && warned.contains("--mesh-file"), "{warned}");

    let bad = folder.path().join("bad.yaml");
    std::fs::write(
        &bad,
        "name: x\nservice: spiffe://example.org/orders\nallow:\n  - {from: []}\n",
    )
    .unwrap();
    let checked = watchword().args(["policy", "check"]).arg(&bad).output().unwrap();
    assert_eq!(checked.status.code(), Some(2));
    assert!(complaint(&checked).contains("bad.yaml:4:"), "{}", complaint(&checked));

    let file = crate::apps::mesh_file();
    let unknown = "name: x\nservice: spiffe://example.org/nobody\nallow: []\n";
    std::fs::write(&bad, unknown).unwrap();
    let mesh = file.folder().join("mesh.yaml");
    let checked = watchword()
        .args(["policy", "check", "--mesh-file"])
        .arg(mesh)
        .arg(&bad)
        .output()
        .unwrap();
    assert_eq!(checked.status.code(), Some(2));
    assert!(complaint(&checked).contains("bad.yaml:2:"), "{}", complaint(&checked));
}

const REQUEST_POLICIES: &str = "\
name: orders
service: spiffe://example.org/orders
allow:
  - name: web reads
    from: [spiffe://example.org/web]
    ports: [8080]
    http: [{methods: [GET], paths: [/orders/*]}]
deny:
  - {name: not from the lab, from: [spiffe://example.org/lab]}
";

#[test]
fn policy_explain_names_the_rule_and_exits_with_the_decision() {
    let file = crate::apps::mesh_file();
    let policies = file.folder().join("requests.yaml");
    std::fs::write(&policies, REQUEST_POLICIES).unwrap();
    let explain = |from: &str, flags: &[&str]| {
        let finished = watchword()
            .args([
                "policy",
                "explain",
                "--from",
                from,
                "--to",
                "spiffe://example.org/orders",
            ])
            .args(["--port", "8080"])
            .args(flags)
            .arg("--mesh-file")
            .arg(file.folder().join("mesh.yaml"))
            .arg(&policies)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&finished.stdout).into_owned();
        (
            finished.status.code(),
            said,
            String::from_utf8_lossy(&finished.stderr).into_owned(),
        )
    };
    let web = "spiffe://example.org/web";
    let (code, said, _) = explain(web, &["--path", "/x/../orders/%31"]);
    assert_eq!(code, Some(0));
    assert!(
        said.contains("allowed by rule `web reads` of policy `orders`"),
        "{said}"
    );
    assert!(said.contains("/orders/1"), "the path that is judged: {said}");
    let (code, said, _) = explain(web, &["--method", "DELETE", "--path", "/orders/1", "-o", "json"]);
    let told: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (code, &told["reason"], &told["policy"]),
        (Some(1), &"no-allow-rule".into(), &"orders".into())
    );
    let (code, said, _) = explain(web, &[]);
    assert_eq!(code, Some(0));
    assert!(said.contains("requests are judged one by one"), "{said}");
    let (code, said, _) = explain("spiffe://example.org/lab", &[]);
    assert_eq!(code, Some(1));
    assert!(said.contains("denied by rule `not from the lab`"), "{said}");
    let (code, said, _) = explain(web, &["--path", "/orders/%2e%2e%2f"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("refused"), "{said}");
    let (code, _, complaint) = explain(web, &["--protocol", "tcp", "--path", "/"]);
    assert_eq!(code, Some(2));
    assert!(complaint.contains("speaks tcp"), "{complaint}");
    std::fs::write(&policies, REQUEST_POLICIES.replace("GET", "get")).unwrap();
    let (code, _, complaint) = explain(web, &[]);
    assert_eq!(code, Some(2));
    assert!(
        complaint.contains("requests.yaml:7:23: error") && complaint.contains("write GET"),
        "{complaint}"
    );
}

#[test]
fn policy_test_tells_each_case_that_differs() {
    let folder = tempfile::tempdir().unwrap();
    let (policies, cases) = (folder.path().join("policies.yaml"), folder.path().join("cases.yaml"));
    std::fs::write(&policies, REQUEST_POLICIES).unwrap();
    let good = "\
- {name: reading, from: &web spiffe://example.org/web, to: &orders spiffe://example.org/orders, port: 8080,
   path: /orders/1, expect: allow, rule: orders/web reads}
- {from: *web, to: *orders, port: 8080, method: DELETE, path: /orders/1, expect: deny}
- {from: spiffe://example.org/lab, to: *orders, port: 8080, path: /, expect: deny, rule: not from the lab}
";
    let test = |text: &str, flags: &[&str]| {
        std::fs::write(&cases, text).unwrap();
        let finished = watchword()
            .args(["policy", "test"])
            .args(flags)
            .arg(&cases)
            .arg(&policies)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&finished.stdout).into_owned();
        (
            finished.status.code(),
            said,
            String::from_utf8_lossy(&finished.stderr).into_owned(),
        )
    };
    assert_eq!(
        test(good, &[]),
        (Some(0), "3 passed, 0 failed\n".to_owned(), String::new())
    );
    let wrong = good
        .replace("expect: allow", "expect: deny")
        .replace("rule: not from", "rule: x from");
    let (code, said, _) = test(&wrong, &[]);
    assert_eq!(code, Some(1));
    let lines: Vec<&str> = said.lines().collect();
    assert!(
        lines[0].ends_with(
            "cases.yaml:1:3: reading: expected deny by rule `orders/web reads`, but it is allowed by rule `web reads` of \
             policy `orders`"
        ),
        "{said}"
    );
    assert!(
        lines[1].contains("cases.yaml:4:3: case 3: expected deny by rule `x from the lab`"),
        "{said}"
    );
    assert_eq!(lines[2], "1 passed, 2 failed");
    let (code, said, _) = test(&wrong, &["-o", "json"]);
    let told: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (code, &told["failed"], &told["cases"][1]["passed"]),
        (Some(1), &2.into(), &true.into())
    );
    let (code, said, complaint) = test("- {from: web, expect: allow}\n", &[]);
    assert_eq!((code, said.as_str()), (Some(2), ""));
    assert!(
        complaint.contains("cases.yaml:1:10: error") && complaint.contains("`port` is missing"),
        "{complaint}"
    );
}

#[test]
fn a_token_is_made_for_a_registered_id_only() {
    let mesh = crate::apps::mesh_file_with("registry: [{id: 'spiffe://example.org/batch'}]")
        .up()
        .unwrap();
    let name = mesh.file().name();
    let token = |id: &str| {
        watchword()
            .args(["token", "create", "--mesh", name, "--id", id])
            .output()
            .unwrap()
    };
    assert!(token("spiffe://example.org/batch").status.success());
    let made = token("spiffe://example.org/web");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let text = String::from_utf8_lossy(&made.stdout).into_owned();
    assert!(
        text.starts_with("wwjt-") && text.trim().ends_with(":spiffe://example.org/web"),
        "{text}"
    );
    for id in [
        "spiffe://example.org/nobody",
        "spiffe://example.org/watchword/control-plane",
        "web",
    ] {
        assert!(complaint(&token(id)).contains(id));
    }
}
