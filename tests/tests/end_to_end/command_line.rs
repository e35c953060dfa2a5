//! The commands beside `up`.

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
