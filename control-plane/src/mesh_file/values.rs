//! The values that stand in a mesh file: each reads one node, and reports what
//! was expected.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use spiffe::{SpiffeId, TrustDomain};
use watchword_policy::diagnostic::Report;
use watchword_policy::document::{Node, Value};
use watchword_policy::parse_workload_id;

use crate::registry::PUBLISHER;

/// The path of Watchword's own parts in a trust domain.
const OWN_PATH: &str = "/watchword";
/// The sidecar's: its listeners, its health, and the canary.
const RESERVED_PORTS: [u16; 4] = [15001, 15006, 15020, 15099];
const MAX_MESH_NAME: usize = 32;
const MAX_DNS_LABEL: usize = 63;
const TTL_SECONDS: std::ops::RangeInclusive<u64> = 2..=24 * 60 * 60;

/// A name that is safe as that of a folder.
pub(super) fn mesh_name(node: &Node, report: &mut Report) -> Option<String> {
    let expected = "the name of a mesh: at most 32 of a-z, 0-9 and -, not beginning with -";
    let name = node.text(expected, report)?;
    let plain = name.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '-'));
    if name.is_empty() || name.len() > MAX_MESH_NAME || name.starts_with('-') || !plain {
        node.mismatch(expected, report);
        return None;
    }
    Some(name.to_owned())
}

/// The name that a mesh has by the name of its file.
pub(super) fn mesh_name_from(file: &str) -> Option<String> {
    let stem = Path::new(file).file_stem()?.to_str()?;
    let plain = |c: char| match c.to_ascii_lowercase() {
        c @ ('a'..='z' | '0'..='9') => c,
        _ => '-',
    };
    let name: String = stem.chars().map(plain).collect();
    let name: String = name.trim_matches('-').chars().take(MAX_MESH_NAME).collect();
    (!name.is_empty()).then_some(name)
}

/// A DNS label (RFC 1035, section 2.3.1, as RFC 1123 widened it), lower case.
pub(super) fn service_name(node: &Node, report: &mut Report) -> Option<String> {
    let expected = "the name of a service: at most 63 of a-z, 0-9 and -, neither beginning nor ending with -";
    let name = node.text(expected, report)?;
    let plain = name.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '-'));
    if name.is_empty() || name.len() > MAX_DNS_LABEL || name.starts_with('-') || name.ends_with('-') || !plain {
        node.mismatch(expected, report);
        return None;
    }
    if name == "localhost" {
        report.error(
            node.at,
            "`localhost` always means the caller itself: give the service another name",
        );
        return None;
    }
    Some(name.to_owned())
}

/// A trust domain in its canonical form.
pub(super) fn trust_domain(node: &Node, report: &mut Report) -> Option<TrustDomain> {
    let expected = "a trust domain in lower case, such as example.org";
    let text = node.text(expected, report)?;
    let domain = TrustDomain::new(text).ok().filter(|domain| domain.as_str() == text);
    if domain.is_none() {
        node.mismatch(expected, report);
    }
    domain
}

/// A SPIFFE ID that a workload of the mesh may have. Without a trust domain
/// (which was reported) only its form is checked.
pub(super) fn workload_id(node: &Node, domain: Option<&TrustDomain>, report: &mut Report) -> Option<SpiffeId> {
    let id = own_id(node, domain, report)?;
    refuse_reserved(id, node, report)
}

/// A SPIFFE ID that a join token may be made for.
pub(super) fn registered_id(node: &Node, domain: Option<&TrustDomain>, report: &mut Report) -> Option<SpiffeId> {
    let id = own_id(node, domain, report)?;
    match is_publisher(&id) {
        true => Some(id),
        false => refuse_reserved(id, node, report),
    }
}

/// Whether it carries calls in from outside of the mesh.
pub(super) fn is_publisher(id: &SpiffeId) -> bool {
    id.path() == PUBLISHER
}

fn own_id(node: &Node, domain: Option<&TrustDomain>, report: &mut Report) -> Option<SpiffeId> {
    let text = node.text("a SPIFFE ID", report)?;
    let id = match parse_workload_id(text) {
        Ok(id) => id,
        Err(error) => {
            report.error(node.at, format!("{} is not a SPIFFE ID: {error}", node.describe()));
            return None;
        }
    };
    if let Some(domain) = domain.filter(|domain| !id.is_member_of(domain)) {
        report.error(
            node.at,
            format!("`{id}` lies outside of the trust domain: expected spiffe://{domain}/…"),
        );
        return None;
    }
    Some(id)
}

fn refuse_reserved(id: SpiffeId, node: &Node, report: &mut Report) -> Option<SpiffeId> {
    if is_reserved(&id) {
        report.error(
            node.at,
            format!("`{id}` is reserved: {OWN_PATH} and what lies below it belongs to Watchword's own parts"),
        );
        return None;
    }
    Some(id)
}

/// Whether an ID belongs to Watchword's own parts.
pub(super) fn is_reserved(id: &SpiffeId) -> bool {
    let below = id.path().strip_prefix(OWN_PATH);
    below.is_some_and(|below| below.is_empty() || below.starts_with('/'))
}

/// A port that a program may listen on. Quotes are let pass: a key of JSON
/// always has them.
pub(super) fn port(node: &Node, report: &mut Report) -> Option<u16> {
    let number = match &node.value {
        Value::Integer(number, _) => u16::try_from(*number).ok(),
        Value::Text(text) if text.chars().all(|c| c.is_ascii_digit()) => text.parse().ok(),
        _ => None,
    };
    let Some(port) = number.filter(|port| *port != 0) else {
        node.mismatch("a port from 1 to 65535", report);
        return None;
    };
    if RESERVED_PORTS.contains(&port) {
        report.error(
            node.at,
            format!("port {port} is the sidecar's own: let the service listen on another port"),
        );
        return None;
    }
    Some(port)
}

/// How long an SVID is valid.
pub(super) fn ttl(node: &Node, report: &mut Report) -> Option<Duration> {
    let expected = "a duration from 2s to 24h, such as 1h, 30m or 1h30m";
    let text = node.scalar(expected, report)?;
    let seconds = seconds(text).filter(|seconds| TTL_SECONDS.contains(seconds));
    if seconds.is_none() {
        node.mismatch(expected, report);
    }
    seconds.map(Duration::from_secs)
}

/// A path, absolute or relative to `base`.
pub(super) fn path(node: &Node, base: &Path, report: &mut Report) -> Option<PathBuf> {
    let expected = "a path";
    let text = node.scalar(expected, report)?;
    if text.is_empty() || text.contains('\0') {
        node.mismatch(expected, report);
        return None;
    }
    // Otherwise `.` and `./` would show in messages and logs.
    Some(base.join(text).components().collect())
}

/// `IP:PORT`, where the port is not 0.
pub(super) fn socket_address(node: &Node, report: &mut Report) -> Option<SocketAddr> {
    let expected = "IP:PORT, such as 10.0.0.7:8080 or [fd00::7]:8080";
    let address: SocketAddr = parsed(node, expected, report)?;
    if address.port() == 0 {
        node.mismatch(expected, report);
        return None;
    }
    Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

/// An address of one machine.
pub(super) fn is_host(address: IpAddr) -> bool {
    !address.is_unspecified() && !address.is_multicast() && address != IpAddr::from([255; 4])
}

/// An IP address, in its canonical form.
pub(super) fn ip_address(node: &Node, report: &mut Report) -> Option<IpAddr> {
    let address: IpAddr = parsed(node, "an IP address", report)?;
    Some(address.to_canonical())
}

/// A range of addresses, as CIDR without bits beyond its mask.
pub(super) fn range(node: &Node, report: &mut Report) -> Option<IpNet> {
    let range: IpNet = parsed(node, "a range of addresses, such as 10.0.0.0/16 or fd00::/64", report)?;
    if range != range.trunc() {
        report.error(
            node.at,
            format!(
                "`{range}` has bits set beyond its mask: did you mean {}?",
                range.trunc()
            ),
        );
        return None;
    }
    Some(range)
}

/// Each item of a list, by `read`; nothing if one of them is wrong.
pub(super) fn each<T>(
    node: &Node,
    expected: &str,
    report: &mut Report,
    mut read: impl FnMut(&Node, &mut Report) -> Option<T>,
) -> Option<Vec<T>> {
    let items = node.list(expected, report)?;
    let values: Vec<Option<T>> = items.iter().map(|item| read(item, report)).collect();
    values.into_iter().collect()
}

fn parsed<T: FromStr>(node: &Node, expected: &str, report: &mut Report) -> Option<T> {
    let value = node.scalar(expected, report)?.parse().ok();
    if value.is_none() {
        node.mismatch(expected, report);
    }
    value
}

/// `1h30m` in seconds: numbers with the units h, m and s.
fn seconds(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at(digits);
        let unit = match tail.chars().next()? {
            'h' => 3600,
            'm' => 60,
            's' => 1,
            _ => return None,
        };
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(unit)?)?;
        rest = tail.get(1..)?;
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::{mesh_name_from, seconds};

    #[test]
    fn durations() {
        let cases = [
            ("1h", Some(3600)),
            ("90s", Some(90)),
            ("1h30m", Some(5400)),
            ("0s", Some(0)),
            ("", None),
            ("h", None),
            ("1", None),
            ("1h30", None),
            ("1d", None),
            ("-1h", None),
            ("1.5h", None),
            ("1 h", None),
            ("1ü", None),
            ("99999999999999999999s", None),
            ("18446744073709551615h", None),
        ];
        for (text, expected) in cases {
            assert_eq!(seconds(text), expected, "{text}");
        }
    }

    #[test]
    fn names_from_files() {
        let cases = [
            ("mesh.yaml", Some("mesh")),
            ("/a/b/Two_Programs.v2.yaml", Some("two-programs-v2")),
            ("-.yaml", None),
            ("ü.yaml", None),
            (
                "a123456789012345678901234567890123456789.yaml",
                Some("a1234567890123456789012345678901"),
            ),
        ];
        for (file, expected) in cases {
            assert_eq!(mesh_name_from(file).as_deref(), expected, "{file}");
        }
    }
}
