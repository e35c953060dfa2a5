//! What lies outside of the mesh and may be called: `egressMode` and `egress`.

use ipnet::IpNet;
use watchword_policy::diagnostic::Report;
use watchword_policy::document::{Fields, Node};
use watchword_proto::directory::NEVER_EGRESS;

use super::read::{list, optional};
use super::{Egress, EgressEntry, EgressMode, values};

const MAX_NAME: usize = 253;
/// In all entries together: each connection to the outside is compared with them.
const MAX_RANGES: usize = 1024;

/// Reads both keys.
pub(super) fn read(fields: &Fields<'_>, report: &mut Report) -> Option<Egress> {
    let mode = optional(fields, "egressMode", report, read_mode);
    let mut entries: Vec<EgressEntry> = Vec::new();
    let read = list(fields, "egress", "entries", report, |node, report| {
        let entry = read_entry(node, report)?;
        if entries.iter().any(|other| other.name == entry.name) {
            report.error(
                node.at,
                format!("an entry of `egress` is named `{}` already: rename one", entry.name),
            );
            return None;
        }
        entries.push(entry);
        Some(())
    });
    if let Some(at) = fields
        .place_of("egress")
        .filter(|_| entries.iter().map(|entry| entry.to.len()).sum::<usize>() > MAX_RANGES)
    {
        report.error(
            at,
            format!("`egress` has more than {MAX_RANGES} ranges: join some of them"),
        );
        return None;
    }
    read?;
    Some(Egress {
        mode: mode?.unwrap_or_default(),
        entries,
    })
}

fn read_mode(node: &Node, report: &mut Report) -> Option<EgressMode> {
    let expected = "`deny`, `audit` or `allow`";
    match node.text(expected, report)? {
        "deny" => Some(EgressMode::Deny),
        "audit" => Some(EgressMode::Audit),
        "allow" => Some(EgressMode::Allow),
        _ => {
            node.mismatch(expected, report);
            None
        }
    }
}

fn read_entry(node: &Node, report: &mut Report) -> Option<EgressEntry> {
    let fields = node.fields("an entry of `egress`", &["name", "to", "ports"], report)?;
    let name = fields
        .required("name", "what the log calls it", report)
        .and_then(|node| read_name(node, report));
    let to = fields
        .required("to", "ranges of addresses, such as [10.0.0.9/32]", report)
        .and_then(|node| not_empty(node, "ranges of addresses", report, read_range));
    let ports = match fields.optional("ports") {
        Some(node) => not_empty(node, "ports", report, read_port),
        None => Some(Vec::new()),
    };
    Some(EgressEntry {
        name: name?,
        to: to?,
        ports: ports?,
    })
}

/// Nothing must not read as everything.
fn not_empty<T>(
    node: &Node,
    expected: &str,
    report: &mut Report,
    read: impl FnMut(&Node, &mut Report) -> Option<T>,
) -> Option<Vec<T>> {
    let items = values::each(node, expected, report, read)?;
    if items.is_empty() {
        node.mismatch(&format!("{expected}: at least one"), report);
        return None;
    }
    Some(items)
}

fn read_name(node: &Node, report: &mut Report) -> Option<String> {
    let expected = "a name of 1 to 253 printable characters";
    let name = node.text(expected, report)?;
    if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
        node.mismatch(expected, report);
        return None;
    }
    Some(name.to_owned())
}

/// Ports of others: also those that the sidecar has here.
fn read_port(node: &Node, report: &mut Report) -> Option<u16> {
    node.integer(1..=u16::MAX, "a port", report)
}

fn read_range(node: &Node, report: &mut Report) -> Option<IpNet> {
    let range = values::range(node, report)?;
    if let IpNet::V6(v6) = range
        && v6.addr().to_ipv4_mapped().is_some()
    {
        report.error(
            node.at,
            format!("`{range}` stands for IPv4 addresses: write them as such"),
        );
        return None;
    }
    if NEVER_EGRESS.iter().any(|never| never.contains(&range)) {
        let message = format!(
            "`{range}` can't be called: link-local, loopback and multicast addresses are always denied: remove it"
        );
        report.error(node.at, message);
        return None;
    }
    Some(range)
}
