//! The files that parts of the mesh are started with. Pure.
//!
//! Invariant: nothing secret in any of them; tokens go through pipes.

use std::fmt::Write as _;
use std::path::Path;

use ipnet::IpNet;
use serde_json::{Value, json};
use watchword_control_plane::mesh_file::EgressEntry;

use super::addresses;
use super::plan::{Plan, Replica};

/// `/etc/hosts` of a replica: every service under its virtual addresses,
/// every replica under its own (so that a replica's host name resolves, too).
///
/// A program that does its own TLS is not captured: virtual addresses lead
/// nowhere there, so it finds the first replica of each service.
pub(crate) fn hosts(plan: &Plan, of: &Replica) -> String {
    let mut text = String::from("127.0.0.1\tlocalhost\n");
    if plan.ipv6 {
        text.push_str("::1\tlocalhost ip6-localhost ip6-loopback\n");
    }
    let services = plan.services.iter().filter_map(|service| {
        let mut replicas = plan.replicas.iter().filter(|replica| replica.service == service.name);
        let addresses = match of.is_foreign {
            true => &replicas.next()?.addresses,
            false => &service.virtual_addresses,
        };
        Some((addresses, &service.name))
    });
    let replicas = plan.replicas.iter().map(|replica| (&replica.addresses, &replica.name));
    for (addresses, name) in services.chain(replicas) {
        for address in addresses {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{address}\t{name}");
        }
    }
    if !of.is_foreign {
        text.push_str(&outside_hosts(plan));
    }
    text
}

/// What `egress` lists under the name of a host, address by address.
fn outside_hosts(plan: &Plan) -> String {
    let is_ours = |name: &str| {
        let services = plan.services.iter().map(|service| &service.name);
        let mut ours = services.chain(plan.replicas.iter().map(|replica| &replica.name));
        name == "localhost" || ours.any(|ours| ours == name)
    };
    let mut text = String::new();
    for entry in plan
        .egress
        .entries
        .iter()
        .filter(|entry| is_host_name(&entry.name) && !is_ours(&entry.name))
    {
        let is_single = |range: &&IpNet| range.prefix_len() == range.max_prefix_len();
        for range in entry.to.iter().filter(is_single) {
            let _ = writeln!(text, "{}\t{}", range.addr(), entry.name);
        }
    }
    text
}

/// In lower case, as resolvers compare names.
fn is_host_name(name: &str) -> bool {
    name.split('.').all(|label| {
        let plain = label.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '-'));
        plain && !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
    })
}

/// `/etc/resolv.conf` of a replica: a name that hosts does not have fails at
/// once, rather than after seconds of unanswered questions.
pub(crate) fn resolver() -> &'static str {
    "# The mesh's names are in /etc/hosts. No other name is known here.\n\
     nameserver 127.0.0.1\noptions timeout:1 attempts:1\n"
}

/// `/etc/gai.conf` of a replica: the C library offers IPv4 first (gai.conf(5)),
/// as RFC 6724 has it for unique local IPv6 addresses. Most servers that
/// listen on one family only listen on IPv4.
pub(crate) fn address_order() -> &'static str {
    "precedence ::ffff:0:0/96 100\n"
}

/// The control plane's configuration; JSON is YAML.
pub(crate) fn control_plane(plan: &Plan) -> Value {
    let services = plan.services.iter().map(|service| {
        let ports = service
            .ports
            .iter()
            .map(|(port, protocol)| (port.to_string(), json!(protocol)));
        let value = json!({
            "id": service.spiffe_id,
            "ports": ports.collect::<serde_json::Map<_, _>>(),
            "endpoints": service.endpoints,
            "addresses": service.addresses,
            "virtualAddresses": service.virtual_addresses,
            "peer": if service.is_foreign { "mtls" } else { "watchword" },
        });
        (service.name.clone(), value)
    });
    json!({
        "name": plan.name,
        "trustDomain": plan.trust_domain,
        "mode": plan.mode,
        "certificates": {"ttl": format!("{}s", plan.certificate_ttl_seconds)},
        "authority": plan.authority,
        "trustBundles": plan.trust_bundles,
        "policies": plan.policies,
        "meshRanges": addresses::mesh_ranges(plan.ipv6),
        "stateDir": plan.folder.join("state"),
        "runDir": plan.folder,
        "registry": plan.registry,
        "egressMode": plan.egress.mode,
        "egress": plan.egress.entries.iter().map(egress_entry).collect::<Vec<_>>(),
        "services": services.collect::<serde_json::Map<_, _>>(),
    })
}

fn egress_entry(entry: &EgressEntry) -> Value {
    let mut value = json!({"name": entry.name, "to": entry.to});
    // None means all; an empty list is refused.
    if !entry.ports.is_empty() {
        value["ports"] = json!(entry.ports);
    }
    value
}

/// A sidecar's configuration.
pub(crate) fn sidecar(plan: &Plan, replica: &Replica) -> Value {
    let mut config = json!({
        "controlPlane": {
            "address": format!("unix:{}", plan.control_socket().display()),
            "id": plan.control_plane_id(),
            "bundleFile": plan.folder.join("bundle.pem"),
        },
        "attestation": {"tokenFile": "-"},
        "runDir": replica.run_dir(&plan.folder),
        // Who presses ctrl-C waits for it.
        "drainSeconds": 2,
    });
    if replica.is_foreign {
        config["role"] = json!("agent");
    } else {
        config["interception"] = json!({
            "scope": "namespace",
            "loopProtection": "mark",
            // The supervisor dials it from the bridge.
            "canary": if plan.ipv6 { vec!["ipv4", "ipv6"] } else { vec!["ipv4"] },
        });
    }
    if !replica.command.is_empty() {
        config["workloadApi"] = json!({
            "socket": replica.workload_socket(&plan.folder),
            "callers": [{"uid": replica.uid()}],
        });
    }
    if plan.has_egress() && !replica.is_foreign {
        config["egress"] = json!({"gateway": format!("unix:{}", plan.egress_socket().display())});
    }
    if let Some(tracing) = &plan.tracing {
        config["tracing"] = tracing.clone();
    }
    config
}

/// What the egress helper is told: the same list that sidecars have.
pub(crate) fn gateway(plan: &Plan) -> Value {
    json!({"egress": plan.egress, "meshRanges": addresses::mesh_ranges(plan.ipv6)})
}

/// What `ip -batch` does in the switch's namespace. `holders` are the
/// replicas' holders in the plan's order, as /proc shows them.
pub(crate) fn switch_links(plan: &Plan, holders: &[u32]) -> String {
    let mut text = String::from("link set lo up\nlink add mesh type bridge mcast_snooping 0\nlink set mesh up\n");
    let _ = writeln!(
        text,
        "address add {}/{} dev mesh",
        addresses::SWITCH_V4,
        addresses::PREFIX_V4
    );
    if plan.ipv6 {
        let _ = writeln!(
            text,
            "address add {}/{} dev mesh nodad",
            addresses::SWITCH_V6,
            addresses::PREFIX_V6
        );
    }
    for (number, holder) in holders.iter().enumerate() {
        let _ = writeln!(
            text,
            "link add port{number} type veth peer name eth0 netns {}",
            network_of(*holder)
        );
        let _ = writeln!(text, "link set port{number} master mesh up");
    }
    text
}

/// What `ip -batch` does in a replica's namespace.
pub(crate) fn replica_links(replica: &Replica) -> String {
    let mut text = String::from("link set lo up\nlink set eth0 up\n");
    for address in &replica.addresses {
        let _ = match address {
            std::net::IpAddr::V4(_) => writeln!(text, "address add {address}/{} dev eth0", addresses::PREFIX_V4),
            // Without nodad the address is unusable for a second.
            std::net::IpAddr::V6(_) => writeln!(text, "address add {address}/{} dev eth0 nodad", addresses::PREFIX_V6),
        };
    }
    for address in &replica.addresses {
        // Without a route connect() fails before the redirect sees the call.
        let _ = match address {
            std::net::IpAddr::V4(_) => writeln!(text, "route add default via {}", addresses::SWITCH_V4),
            std::net::IpAddr::V6(_) => writeln!(text, "route add default via {}", addresses::SWITCH_V6),
        };
    }
    text
}

fn network_of(holder: u32) -> String {
    Path::new("/proc")
        .join(holder.to_string())
        .join("ns/net")
        .display()
        .to_string()
}
