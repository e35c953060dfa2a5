#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use watchword_control_plane::mesh_file::Egress;

use super::addresses;
use super::plan::{Plan, PlannedService, Replica, Tools};
use super::render;
use crate::launcher::privileges::Privileges;

/// `web` with one replica, `orders` with two.
pub(super) fn plan(ipv6: bool) -> Plan {
    let replica = |service: &str, number: u16, index: u16| Replica {
        name: format!("{service}-{number}"),
        service: service.to_owned(),
        number,
        spiffe_id: format!("spiffe://example.org/{service}"),
        addresses: addresses::replica(index, ipv6),
        command: vec!["true".to_owned()],
        environment: BTreeMap::from([("SECRET".to_owned(), "hunter2".to_owned())]),
        directory: PathBuf::from("/srv"),
        privileges: Privileges::OwnNamespace { uid: 1000, gid: 1000 },
        healthy: None,
        is_foreign: false,
    };
    let replicas = vec![replica("orders", 1, 0), replica("orders", 2, 1), replica("web", 1, 2)];
    let service = |name: &str, index: u16| PlannedService {
        name: name.to_owned(),
        spiffe_id: format!("spiffe://example.org/{name}"),
        ports: BTreeMap::from([(8080, "http".to_owned())]),
        virtual_addresses: addresses::virtual_service(index, ipv6),
        endpoints: replicas
            .iter()
            .filter(|replica| replica.service == name)
            .flat_map(|replica| &replica.addresses)
            .map(|address: &IpAddr| SocketAddr::new(*address, 8080))
            .collect(),
        addresses: replicas
            .iter()
            .filter(|replica| replica.service == name)
            .flat_map(|replica| replica.addresses.clone())
            .collect(),
        is_foreign: false,
    };
    Plan {
        name: "shop".to_owned(),
        trust_domain: "example.org".to_owned(),
        mode: "strict".to_owned(),
        folder: PathBuf::from("/run/watchword/shop"),
        base: PathBuf::from("/run/watchword"),
        root: true,
        ipv6,
        certificate_ttl_seconds: 90,
        authority: "embedded".into(),
        trust_bundles: BTreeMap::from([("partner.example".to_owned(), PathBuf::from("/home/me/partner.pem"))]),
        policies: vec![PathBuf::from("/home/me/policies")],
        tracing: None,
        workload_folder: PathBuf::from("/run/watchword"),
        tools: Tools {
            ip: PathBuf::from("/sbin/ip"),
            proxy: PathBuf::from("/bin/watchword-proxy"),
            control_plane: PathBuf::from("/bin/watchword-control-plane"),
        },
        registry: vec![super::plan::Registered {
            id: "spiffe://example.org/batch".to_owned(),
            agents: vec!["spiffe://example.org/host".to_owned()],
        }],
        services: vec![service("orders", 0), service("web", 1)],
        replicas,
        publisher: None,
        egress: Egress::default(),
    }
}

#[test]
fn hosts_names_services_and_replicas_in_both_families() {
    let expected = "127.0.0.1\tlocalhost\n\
        ::1\tlocalhost ip6-localhost ip6-loopback\n\
        240.0.0.1\torders\nfd77::1\torders\n240.0.0.2\tweb\nfd77::2\tweb\n\
        10.87.0.2\torders-1\nfd87::2\torders-1\n\
        10.87.0.3\torders-2\nfd87::3\torders-2\n\
        10.87.0.4\tweb-1\nfd87::4\tweb-1\n";
    let hosts = |plan: &Plan| render::hosts(plan, &plan.replicas[0]);
    assert_eq!(hosts(&plan(true)), expected);
    assert!(!hosts(&plan(false)).contains("::"));
}

#[test]
fn a_program_that_is_not_captured_finds_replicas_in_place_of_virtual_addresses() {
    let mut plan = plan(false);
    plan.replicas[2].is_foreign = true;
    let hosts = render::hosts(&plan, &plan.replicas[2]);
    assert!(hosts.contains("10.87.0.2\torders\n"), "{hosts}");
    assert!(!hosts.contains("240."), "{hosts}");
}

#[test]
fn the_switch_gets_a_port_for_each_replica() {
    let expected = "link set lo up\n\
        link add mesh type bridge mcast_snooping 0\n\
        link set mesh up\n\
        address add 10.87.0.1/16 dev mesh\n\
        address add fd87::1/64 dev mesh nodad\n\
        link add port0 type veth peer name eth0 netns /proc/71/ns/net\n\
        link set port0 master mesh up\n\
        link add port1 type veth peer name eth0 netns /proc/72/ns/net\n\
        link set port1 master mesh up\n";
    assert_eq!(render::switch_links(&plan(true), &[71, 72]), expected);
}

#[test]
fn a_replica_gets_default_routes_for_each_family_it_has() {
    let expected = "link set lo up\n\
        link set eth0 up\n\
        address add 10.87.0.2/16 dev eth0\n\
        address add fd87::2/64 dev eth0 nodad\n\
        route add default via 10.87.0.1\n\
        route add default via fd87::1\n";
    assert_eq!(render::replica_links(&plan(true).replicas[0]), expected);
    assert!(!render::replica_links(&plan(false).replicas[0]).contains(':'));
}

#[test]
fn the_control_plane_knows_every_endpoint_and_no_secret() {
    let value = render::control_plane(&plan(true));
    assert_eq!(
        value["services"]["orders"]["endpoints"],
        serde_json::json!(["10.87.0.2:8080", "[fd87::2]:8080", "10.87.0.3:8080", "[fd87::3]:8080"])
    );
    assert_eq!(
        value["services"]["orders"]["virtualAddresses"],
        serde_json::json!(["240.0.0.1", "fd77::1"])
    );
    assert_eq!(value["services"]["web"]["ports"], serde_json::json!({"8080": "http"}));
    assert_eq!(value["certificates"]["ttl"], "90s");
    assert_eq!(
        value["registry"],
        serde_json::json!([{"id": "spiffe://example.org/batch", "agents": ["spiffe://example.org/host"]}])
    );
    assert_eq!(
        value["trustBundles"],
        serde_json::json!({"partner.example": "/home/me/partner.pem"})
    );
    assert_eq!(value["runDir"], "/run/watchword/shop");
    assert_eq!(value["stateDir"], "/run/watchword/shop/state");
    assert!(!value.to_string().contains("hunter2"));
}

#[test]
fn a_sidecar_is_told_whom_to_trust() {
    let plan = plan(true);
    let value = render::sidecar(&plan, &plan.replicas[1]);
    assert_eq!(
        value["controlPlane"]["address"],
        "unix:/run/watchword/shop/control.sock"
    );
    assert_eq!(
        value["controlPlane"]["id"],
        "spiffe://example.org/watchword/control-plane"
    );
    assert_eq!(value["runDir"], "/run/watchword/shop/orders-2");
    assert_eq!(value["attestation"], serde_json::json!({"tokenFile": "-"}));
}

#[test]
fn a_program_that_does_its_own_tls_is_served_by_an_agent_that_captures_nothing() {
    let mut plan = plan(true);
    let socket = "/run/watchword/shop/orders-2/app/workload.sock";
    let expected = serde_json::json!({"socket": socket, "callers": [{"uid": 0}]});
    let sidecar = render::sidecar(&plan, &plan.replicas[1]);
    assert_eq!(sidecar["workloadApi"], expected);
    assert_eq!(sidecar["interception"]["scope"], "namespace");
    assert_eq!(sidecar.get("role"), None);
    plan.replicas[1].is_foreign = true;
    let agent = render::sidecar(&plan, &plan.replicas[1]);
    assert_eq!(agent["workloadApi"], expected);
    assert_eq!(agent["role"], "agent");
    assert_eq!(agent.get("interception"), None);
}

#[test]
fn a_sidecar_is_told_where_spans_go_if_they_go_anywhere() {
    let mut plan = plan(true);
    let without = render::sidecar(&plan, &plan.replicas[0]);
    assert!(without.get("tracing").is_none());
    let tracing = serde_json::json!({"address": "unix:/run/otel.sock", "sampleRatio": 0.5});
    plan.tracing = Some(tracing.clone());
    assert_eq!(render::sidecar(&plan, &plan.replicas[0])["tracing"], tracing);
    assert!(render::control_plane(&plan).get("tracing").is_none());
}

#[test]
fn a_plan_survives_the_way_to_the_supervisor() {
    let plan = plan(true);
    let text = serde_json::to_string(&plan).expect("a plan is plain data");
    assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
}
