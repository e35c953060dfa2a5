//! Interception is whole, or the replica is not ready.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use watchword_tests::{Mesh, wait_until};

use crate::apps::mesh;
use crate::strangers::{address, in_network, replica};

/// None while it is not ready.
fn proxy_pid(mesh: &Mesh, name: &str) -> Option<Pid> {
    let pid = replica(mesh, name)["proxyPid"].as_i64()?;
    i32::try_from(pid).ok().map(Pid::from_raw)
}

fn trouble(mesh: &Mesh, name: &str) -> Option<String> {
    let status = mesh.status().unwrap();
    let replicas = status["replicas"].as_array().unwrap();
    let found = replicas.iter().find(|replica| replica["replica"] == name).unwrap();
    found["error"].as_str().map(str::to_owned)
}

#[test]
fn a_replica_that_is_captured_for_one_family_only_is_noticed_and_not_ready_until_it_is_captured_whole() {
    let mesh = mesh();
    let rule = ["inet", "watchword", "inbound", "meta", "nfproto", "ipv6", "accept"];
    let mut insert = vec!["nft", "insert", "rule"];
    insert.extend(rule);
    in_network(&mesh, "orders-1", &insert);

    // A sidecar that starts is looked at before it counts as ready.
    kill(proxy_pid(&mesh, "orders-1").unwrap(), Signal::SIGKILL).unwrap();
    let ipv6 = address(&mesh, "orders-1", 1);
    let expected = format!("calls to orders-1 by IPv6 ({ipv6}) do not reach its sidecar: port 15099 does not answer");
    mesh.output()
        .wait_for(&expected, |line| line.contains(&expected))
        .unwrap();
    wait_until("status to show it", || {
        trouble(&mesh, "orders-1").is_some_and(|error| error.contains(&expected))
    })
    .unwrap();
    assert_eq!(
        replica(&mesh, "orders-1")["proxyPid"],
        serde_json::Value::Null,
        "not ready"
    );
    assert_eq!(trouble(&mesh, "web-1"), None);
    // The sidecar itself says so, too.
    let admin = mesh.run_folder().unwrap().join("orders-1/proxy-admin.sock");
    let readyz = std::process::Command::new("curl")
        .args([
            "--silent",
            "--unix-socket",
            admin.to_str().unwrap(),
            "http://sidecar/readyz",
        ])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&readyz.stdout).into_owned();
    assert!(
        said.contains("interception: port 15099 was not reached from outside by IPv6"),
        "{said}"
    );

    // Installing the rules again replaces what was changed.
    let proxy = watchword_tests::binary("watchword-proxy").unwrap();
    let config = mesh.run_folder().unwrap().join("orders-1.json");
    let (proxy, config) = (proxy.to_str().unwrap(), config.to_str().unwrap());
    in_network(&mesh, "orders-1", &[proxy, "intercept", "install", "--config", config]);
    let healed = "calls to orders-1 reach its sidecar again";
    mesh.output().wait_for(healed, |line| line.contains(healed)).unwrap();
    wait_until("it to be ready", || proxy_pid(&mesh, "orders-1").is_some()).unwrap();
    assert_eq!(trouble(&mesh, "orders-1"), None);
}
