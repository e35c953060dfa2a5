//! A real Envoy: its secrets come by SDS from our socket, state of the world
//! on the side where it is called, incremental where it calls.

use watchword_tests::{Mesh, wait_until};

use super::{Load, mesh_file, printed, run};
use crate::apps::curl;

const CONFIGURATION: &str = include_str!("envoy.yaml");
/// Where the socket is, depends on who runs the mesh.
const RUN: &str = r#"far:
  run: [sh, -c, './envoy --use-dynamic-base-id --concurrency 1 --log-level warn --config-yaml "$(sed "s#/run/watchword/workload.sock#${SPIFFE_ENDPOINT_SOCKET#unix://}#" envoy.yaml)"']
  ports: {8443: http}
  healthy: {port: 8443}
  peer: mtls
"#;

fn mesh() -> Mesh {
    let file = mesh_file(RUN);
    file.lend("envoy").unwrap();
    file.write("envoy.yaml", CONFIGURATION).unwrap();
    file.up().unwrap()
}

/// One of Envoy's counters.
fn counted(mesh: &Mesh, name: &str) -> u64 {
    let stats = curl(&["http://127.0.0.1:9901/stats?format=json&filter=^sds.*update_"]);
    let stats: serde_json::Value = serde_json::from_str(&mesh.exec_ok("far", &stats).unwrap()).unwrap();
    let found = stats["stats"]
        .as_array()
        .unwrap()
        .iter()
        .find(|stat| stat["name"] == name);
    found.unwrap()["value"].as_u64().unwrap()
}

#[test]
fn an_envoy_with_secrets_from_our_socket_calls_and_is_called_and_loses_nothing_while_they_rotate() {
    let mesh = mesh();
    let calls = Load::plain(&mesh, "far", "http://127.0.0.1:9000/open", "kept");
    let called = Load::plain(&mesh, "web", "http://far:8443/", "kept");
    // The first is no rotation.
    wait_until("five rotations", || {
        counted(&mesh, "sds.default.update_success") > 5
            && counted(&mesh, "sds.spiffe_example.org/far.update_success") > 5
    })
    .unwrap();
    calls.all_went_well();
    called.all_went_well();
    for name in ["default", "ROOTCA", "ALL", "spiffe_example.org/far"] {
        assert_eq!(counted(&mesh, &format!("sds.{name}.update_rejected")), 0, "{name}");
    }
    // Roots that have not changed are not sent again.
    assert_eq!(counted(&mesh, "sds.ROOTCA.update_success"), 1);
    assert_eq!(counted(&mesh, "sds.ALL.update_success"), 1);
    // HTTP/2 from the app is HTTP/2 to the Envoy.
    let http2 = curl(&[
        "--http2-prior-knowledge",
        "--write-out",
        "%{http_version}",
        "http://far:8443/",
    ]);
    assert_eq!(mesh.exec_ok("web", &http2).unwrap(), "hello from envoy\n2");
}

#[test]
fn kept_grpc_connections_to_an_envoy_move_on_in_time_and_lose_no_call() {
    let mesh = mesh();
    let fortio = mesh.file().lend("fortio").unwrap();
    let fortio = fortio.to_str().unwrap();
    let server = [
        fortio,
        "server",
        "-http-port",
        "127.0.0.1:8078",
        "-grpc-port",
        "127.0.0.1:8079",
    ];
    let no_more = [
        "-redirect-port",
        "disabled",
        "-tcp-port",
        "disabled",
        "-udp-port",
        "disabled",
    ];
    let _server = Load::start(&mesh, "far", &[&server[..], &no_more[..]].concat());
    wait_until("the server behind the Envoy", || {
        let ping = run(&mesh, "web", &[fortio, "grpcping", "-n", "1", "far:8443"]);
        ping.status.success()
    })
    .unwrap();
    // Longer than two certificates live one after the other.
    let load = [
        fortio, "load", "-grpc", "-ping", "-c", "4", "-qps", "200", "-t", "15s", "-json", "-", "far:8443",
    ];
    let result: serde_json::Value = serde_json::from_str(&printed(&run(&mesh, "web", &load))).unwrap();
    let counts = result["RetCodes"].as_object().unwrap();
    assert_eq!(counts.keys().collect::<Vec<_>>(), ["SERVING"], "{counts:?}");
    assert!(counts["SERVING"].as_u64().unwrap() > 1000, "{counts:?}");
    // Two for each of the four at least.
    let lines = || mesh.output().text();
    wait_until("the ends of the first connections", || {
        let text = lines();
        let ended = text.lines().filter(|line| {
            line.contains("direction=outbound") && line.contains("dialled=240.") && line.contains("result=ok")
        });
        ended.count() >= 8
    })
    .unwrap();
    assert!(!lines().contains("reason=cut"), "{}", lines());
}

#[test]
fn an_envoy_is_denied_what_policies_deny_and_is_told_the_rule() {
    let mesh = mesh();
    let call = ["--write-out", "%{http_code}", "http://127.0.0.1:9000/secret"];
    let mut command = curl(&call);
    command.retain(|word| *word != "--fail");
    let answer = mesh.exec_ok("far", &command).unwrap();
    assert!(answer.ends_with("403"), "{answer}");
    assert!(answer.contains("web"), "{answer}");
    mesh.output()
        .wait_for("the denial in the log", |line| {
            line.contains("client_id=spiffe://example.org/far")
                && line.contains("path=/secret")
                && line.contains("decision=deny")
        })
        .unwrap();
}
