//! Interception where there is no nft: the same, with iptables and ip6tables,
//! by either of their interfaces to the kernel.

use std::process::Command;

use watchword_tests::{binary, is_root, without};

use crate::apps::{complaint, curl, mesh_file};
use crate::strangers::{address, on_the_switch};

/// The older interface, in the place of the one by nf_tables.
const LEGACY: &str = "for name in nft; do \
                      mount --bind /usr/sbin/xtables-legacy-multi /usr/sbin/xtables-$name-multi; done\n";

fn intercepts(interface: &str) {
    let changes = without(&["nft"]) + interface;
    let mesh = mesh_file().on_machine(changes).up().unwrap();
    for family in ["-4", "-6"] {
        let body = mesh.exec_ok("web", &curl(&[family, "http://orders:8080/a"])).unwrap();
        assert_eq!(body, "hello from orders /a\n");
        // By its own address: out by loopback, and captured all the same.
        mesh.exec_ok("web", &curl(&[family, "http://web-1:8080/"])).unwrap();
        complaint(&mesh.exec("lab", &curl(&[family, "http://orders:8080/"])).unwrap());
    }
    mesh.output()
        .wait_for("the denial", |line| {
            line.contains("direction=inbound") && line.contains("rule=not from the lab")
        })
        .unwrap();
    for family in [0, 1] {
        let target = address(&mesh, "orders-1", family);
        let host = if family == 1 { format!("[{target}]") } else { target };
        // In plaintext, from outside of every workload.
        let call = on_the_switch(&mesh, &curl(&[&format!("http://{host}:8080/")]))
            .output()
            .unwrap();
        complaint(&call);
        // Nothing listens there: only interception makes it answer.
        let canary = format!("http://{host}:15099/");
        let canary = on_the_switch(&mesh, &curl(&["--http0.9", &canary])).output().unwrap();
        assert_ne!(canary.status.code(), Some(7), "refused: not captured");
    }
    let send = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(10); \
                s.connect(('192.0.2.7', 53)); s.send(b'x'); s.recv(1)";
    let refused = complaint(&mesh.exec("web", &["python3", "-c", send]).unwrap());
    assert!(
        refused.contains("PermissionError") || refused.contains("ConnectionRefused"),
        "{refused}"
    );
}

#[test]
fn a_mesh_without_nft_is_intercepted_by_iptables_alike() {
    intercepts("");
}

#[test]
fn a_mesh_without_nft_is_intercepted_by_the_legacy_iptables_alike() {
    intercepts(LEGACY);
}

/// Installs twice, and removes twice, in a network namespace of its own, and
/// prints what is in force in between.
const INSTALL: &str = r#"
set -eu
proxy=$1 config=$2
list() { for tool in iptables ip6tables; do for table in raw filter nat; do "$tool" -w -t "$table" -S; done; done; }
[ -w /run ] || export XTABLES_LOCKFILE=/dev/null
iptables -w -t nat -N other && iptables -w -t nat -A OUTPUT -j other
list >before
"$proxy" intercept install --config "$config"; list >once
"$proxy" intercept install --config "$config"; list >twice
cmp once twice
cat once
"$proxy" intercept remove; list >after
"$proxy" intercept remove
cmp before after
echo PRINTED
"$proxy" intercept print --config "$config"
"#;

#[test]
fn rules_of_iptables_are_replaced_not_doubled_and_go_when_removed() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("proxy.yaml");
    let text = "controlPlane: {address: 'unix:/nonexistent', id: 'spiffe://example.org/watchword/control-plane', \
                bundleFile: /nonexistent}\nattestation: {tokenFile: /nonexistent}\n\
                interception: {scope: namespace, loopProtection: mark, excludeOutboundPorts: [443]}\n";
    std::fs::write(&config, text).unwrap();
    let mut command = Command::new("unshare");
    if !is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    let script = without(&["nft"]) + INSTALL;
    command
        .args(["--mount", "--net", "--", "sh", "-euc", &script, "sh"])
        .args([binary("watchword-proxy").unwrap(), config])
        .current_dir(folder.path());
    let printed = watchword_tests::run(&mut command).unwrap();
    let (in_force, shown) = printed.split_once("PRINTED\n").unwrap();
    for wanted in [
        "-A OUTPUT -j watchword_outbound",
        "-A OUTPUT -j other",
        "--to-ports 15001",
        "--to-ports 15006",
        "--dports 443",
        "icmp-port-unreachable",
        "icmp6-port-unreachable",
    ] {
        assert!(in_force.contains(wanted), "{wanted}\n{in_force}");
    }
    // One for each family.
    assert_eq!(
        in_force.matches("-A OUTPUT -j watchword_outbound").count(),
        2,
        "{in_force}"
    );
    assert!(shown.contains("# ip6tables-restore --noflush\n*raw\n"), "{shown}");
}
