//! Who gets which identity.

use std::collections::HashSet;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use watchword_tests::MeshFile;

use super::{POLICIES, Watch, agent, connect, mesh};
use tonic::{Code, Request};
use watchword_proto::workload_api::{SpiffeWorkloadApiClient, X509BundlesRequest, X509svidRequest};
use watchword_tests::{Agent, tool};

fn serials(updates: &[Value]) -> HashSet<String> {
    let serial = |update: &Value| update["serial"].as_str().unwrap().to_owned();
    updates.iter().map(serial).collect()
}

#[test]
fn each_process_that_an_agent_serves_has_keys_of_its_own_and_they_are_replaced_in_time() {
    let mesh = mesh();
    let agent = agent(&mesh, &["spiffe://example.org/batch"]);
    let (one, other) = (Watch::on(&agent), Watch::on(&agent));
    let (one, other) = (one.updates(3), other.updates(3));
    for update in one.iter().chain(&other) {
        assert_eq!(update["id"], "spiffe://example.org/batch", "{update}");
        assert_eq!(update["trustDomains"], serde_json::json!(["example.org"]));
    }
    let (one, other) = (serials(&one), serials(&other));
    assert!(
        one.len() >= 3 && other.len() >= 3 && one.is_disjoint(&other),
        "{one:?} {other:?}"
    );
    let own: Value = serde_json::from_str(&agent.page("/certs").unwrap()).unwrap();
    assert!(!one.contains(own["serial"].as_str().unwrap()));
}

#[test]
fn the_workload_api_is_served_by_its_socket_alone() {
    let services = "web: {run: [sleep, infinity]}\nguest: {run: [sleep, infinity], peer: mtls}\n";
    let mesh = MeshFile::new(services, POLICIES).unwrap().up().unwrap();
    // A sidecar's redirects and its health; of an agent its health alone.
    for (service, expected) in [("web", &["15001", "15006", "15020"][..]), ("guest", &["15020"])] {
        let listening = mesh.exec_ok(service, &["ss", "-Hltn"]).unwrap();
        let port = |line: &str| Some(line.split_whitespace().nth(3)?.rsplit(':').next()?.to_owned());
        let ports: std::collections::BTreeSet<String> = listening.lines().filter_map(port).collect();
        assert_eq!(ports.iter().collect::<Vec<_>>(), expected, "{service}: {listening}");
    }
}

#[test]
fn a_program_beside_a_sidecar_has_another_key_than_it_and_goes_on_when_the_sidecar_was_killed() {
    let file = MeshFile::with("certificates: {ttl: 6s}", "web: {run: [sleep, infinity]}\n", POLICIES).unwrap();
    file.lend("spiffe-go").unwrap();
    let mesh = file.up().unwrap();
    let program = mesh.file().folder().join("spiffe-go");
    let watch = Watch::start(mesh.exec_command("web", &[program.to_str().unwrap(), "watch"]).unwrap());
    let before = serials(&watch.updates(2));
    let sidecar = || mesh.record().unwrap()["replicas"][0]["proxyPid"].as_i64();
    let own = mesh.status().unwrap().to_string();
    assert!(before.iter().all(|serial| !own.contains(serial.as_str())), "{own}");
    let killed = sidecar().unwrap();
    kill(Pid::from_raw(i32::try_from(killed).unwrap()), Signal::SIGKILL).unwrap();
    watchword_tests::wait_until("another sidecar", || sidecar().is_some_and(|pid| pid != killed)).unwrap();
    let known = watch.updates(0).len();
    let after = watch.updates(known + 2);
    assert_eq!(after.last().unwrap()["id"], "spiffe://example.org/web");
}

#[test]
fn grpcurl_shows_what_the_api_gives() {
    let mesh = mesh();
    let agent = agent(&mesh, &["spiffe://example.org/batch"]);
    let protos = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/spiffe");
    // The stream goes on: what ends it is the deadline.
    let shown = Command::new(tool("grpcurl").unwrap())
        .args([
            "-plaintext",
            "-unix",
            "-max-time",
            "3",
            "-H",
            "workload.spiffe.io: true",
        ])
        .arg("-import-path")
        .arg(protos)
        .args(["-proto", "workload.proto"])
        .arg(agent.socket())
        .arg("SpiffeWorkloadAPI/FetchX509SVID")
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout);
    assert!(shown.contains(r#""spiffeId": "spiffe://example.org/batch""#), "{shown}");
    assert!(shown.contains("x509SvidKey"), "{shown}");
}

#[test]
fn who_is_not_entitled_gets_nothing_and_is_told_where_to_say_so() {
    let mesh = mesh();
    let uid = nix::unistd::geteuid().as_raw();
    let own = "spiffe://example.org/host";
    let table = [
        // Another user of this machine.
        (format!("[{{uid: {}}}]", uid + 1), "under `workloadApi.callers`"),
        // The control plane has the last word on which IDs an agent hands out.
        (
            format!("[{{uid: {uid}, id: 'spiffe://example.org/elsewhere'}}]"),
            "may not hand out spiffe://example.org/elsewhere",
        ),
        (
            format!("[{{uid: {uid}, id: 'spiffe://example.org/nowhere'}}]"),
            "spiffe://example.org/nowhere is not registered",
        ),
        (
            format!("[{{uid: {uid}, id: 'spiffe://example.org/watchword/control-plane'}}]"),
            "is reserved",
        ),
        (
            format!("[{{uid: {uid}, id: 'spiffe://partner.example/x'}}]"),
            "is not of the trust domain",
        ),
    ];
    for (callers, expected) in table {
        let agent = Agent::start(&mesh, own, &callers).unwrap();
        let bundles = runtime().block_on(async {
            let mut client = SpiffeWorkloadApiClient::new(connect(&agent).await);
            let mut request = Request::new(X509BundlesRequest {});
            request
                .metadata_mut()
                .insert("workload.spiffe.io", "true".parse().unwrap());
            match client.fetch_x509_bundles(request).await {
                Ok(stream) => stream.into_inner().message().await.unwrap_err(),
                Err(status) => status,
            }
        });
        assert_eq!(bundles.code(), Code::PermissionDenied, "{callers}: {bundles}");
        let refused = runtime().block_on(async {
            let mut client = SpiffeWorkloadApiClient::new(connect(&agent).await);
            let mut request = Request::new(X509svidRequest {});
            request
                .metadata_mut()
                .insert("workload.spiffe.io", "true".parse().unwrap());
            match client.fetch_x509svid(request).await {
                Ok(stream) => stream.into_inner().message().await.unwrap_err(),
                Err(status) => status,
            }
        });
        assert_eq!(refused.code(), Code::PermissionDenied, "{callers}: {refused}");
        assert!(refused.message().contains(expected), "{callers}: {refused}");
    }
}

pub(super) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}
