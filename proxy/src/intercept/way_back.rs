//! How the app's answers reach the sidecar that dials it from an address that
//! no interface of this namespace has (docs/decisions/0007-dialling-the-app.md).
//!
//! Rules and routes of a fixed table and priority, so that they can be removed
//! without knowing what was asked for. Kernel settings stay when they are
//! removed: without our marks they do nothing of ours, and they may have been
//! set before.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use super::install::{InstallError, feed, find};
use crate::config::{APP_MARK, DialFrom};

/// Of the routing table, and of the rule that leads there: "WW".
const TABLE: u32 = 0x5757;
/// RFC 5737: for documentation, so nobody has them.
const RESERVED_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 0);
/// RFC 6666: what is sent there is thrown away.
const RESERVED_V6: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0);

/// Each must be 1 for the caller's address: the first two let the socket that
/// the app accepts, and what the kernel answers by itself, have the mark of
/// what came in; the third is the second for IPv6.
const SETTINGS: [&str; 3] = [
    "/proc/sys/net/ipv4/tcp_fwmark_accept",
    "/proc/sys/net/ipv4/fwmark_reflect",
    "/proc/sys/net/ipv6/fwmark_reflect",
];

/// Lets a port that waits after a connection serve again after a second, where
/// timestamps tell old packets from new. Or one caller could have 28,000 short
/// connections a minute, and connect() would look through all ports for each
/// long before that, which keeps everybody else waiting.
const REUSE: &str = "/proc/sys/net/ipv4/tcp_tw_reuse";

/// Any of the reserved addresses.
pub fn reserved(ipv6: bool) -> IpAddr {
    let number = fastrand::u8(1..=254);
    if ipv6 {
        let [head @ .., _] = RESERVED_V6.segments();
        let mut segments = [0; 8];
        segments[..7].copy_from_slice(&head);
        segments[7] = u16::from(number);
        Ipv6Addr::from(segments).into()
    } else {
        let [a, b, c, _] = RESERVED_V4.octets();
        Ipv4Addr::new(a, b, c, number).into()
    }
}

/// What stands in the way of dialling like this, as far as settings say.
///
/// # Errors
/// In words, with what to do.
pub fn check_settings(from: DialFrom, ipv6: bool) -> Result<(), String> {
    for file in settings(from, ipv6).filter(|file| *file != REUSE) {
        if std::fs::read_to_string(file).is_ok_and(|value| value.trim() == "0") {
            return Err(format!("{file} is 0; `watchword-proxy intercept install` sets it"));
        }
    }
    Ok(())
}

/// Makes it, in the place of what was there.
///
/// # Errors
/// See [`InstallError`]; part of it may have been made, which harms nobody.
pub fn install(from: DialFrom) -> Result<(), InstallError> {
    remove()?;
    for ipv6 in families() {
        for file in settings(from, ipv6) {
            std::fs::write(file, "1").map_err(|problem| InstallError::Setting { file, problem })?;
        }
        let batch = routes(from, ipv6);
        if !batch.is_empty() {
            let said = ip(&[family(ipv6), "-batch", "-"], &batch)?;
            said.map_err(|said| InstallError::Routes {
                family: family(ipv6),
                said,
            })?;
        }
    }
    Ok(())
}

/// Removes rules and routes, whether they are there or not.
///
/// # Errors
/// See [`InstallError`].
pub fn remove() -> Result<(), InstallError> {
    for ipv6 in families() {
        match ip(&[family(ipv6), "-force", "-batch", "-"], &removal(ipv6)) {
            // It complains of each that is not there. Without it none can be.
            Ok(_) | Err(InstallError::NoIp) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The same as commands, each a comment for `nft -f`.
pub fn print(from: DialFrom) -> String {
    let mut text = String::new();
    for ipv6 in [false, true] {
        for file in settings(from, ipv6) {
            let _ = writeln!(text, "# echo 1 > {file}");
        }
        for line in routes(from, ipv6).lines() {
            let _ = writeln!(text, "# ip {} {line}", family(ipv6));
        }
    }
    text
}

fn settings(from: DialFrom, ipv6: bool) -> impl Iterator<Item = &'static str> {
    SETTINGS
        .into_iter()
        .chain([REUSE])
        .filter(move |file| from == DialFrom::Client && file.contains("ipv6") == ipv6)
}

fn routes(from: DialFrom, ipv6: bool) -> String {
    match from {
        DialFrom::Client => format!(
            "rule add fwmark {APP_MARK:#x} lookup {TABLE} pref {TABLE}\nroute add local default dev lo table {TABLE}\n"
        ),
        DialFrom::Reserved => format!("route add local {} dev lo table local\n", reserved_range(ipv6)),
        DialFrom::Own => String::new(),
    }
}

fn removal(ipv6: bool) -> String {
    format!(
        "rule del pref {TABLE}\nroute flush table {TABLE}\nroute del local {} dev lo table local\n",
        reserved_range(ipv6)
    )
}

fn reserved_range(ipv6: bool) -> String {
    match ipv6 {
        false => format!("{RESERVED_V4}/24"),
        true => format!("{RESERVED_V6}/64"),
    }
}

fn family(ipv6: bool) -> &'static str {
    if ipv6 { "-6" } else { "-4" }
}

/// IPv6 only where this namespace has it.
fn families() -> impl Iterator<Item = bool> {
    let has_ipv6 = std::fs::read(Path::new("/proc/self/net/if_inet6")).is_ok_and(|lines| !lines.is_empty());
    [false, true].into_iter().filter(move |ipv6| !ipv6 || has_ipv6)
}

fn ip(arguments: &[&str], batch: &str) -> Result<Result<(), String>, InstallError> {
    let command = find("ip").ok_or(InstallError::NoIp)?;
    feed(&command, arguments, batch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_back_reads_as_it_is_made() {
        let expected = "\
# echo 1 > /proc/sys/net/ipv4/tcp_fwmark_accept
# echo 1 > /proc/sys/net/ipv4/fwmark_reflect
# echo 1 > /proc/sys/net/ipv4/tcp_tw_reuse
# ip -4 rule add fwmark 0x57570002 lookup 22359 pref 22359
# ip -4 route add local default dev lo table 22359
# echo 1 > /proc/sys/net/ipv6/fwmark_reflect
# ip -6 rule add fwmark 0x57570002 lookup 22359 pref 22359
# ip -6 route add local default dev lo table 22359
";
        assert_eq!(print(DialFrom::Client), expected);
        let expected = "\
# ip -4 route add local 192.0.2.0/24 dev lo table local
# ip -6 route add local 100::/64 dev lo table local
";
        assert_eq!(print(DialFrom::Reserved), expected);
        assert_eq!(print(DialFrom::Own), "");
    }

    #[test]
    fn reserved_addresses_lie_in_the_range_that_is_routed() {
        for ipv6 in [false, true] {
            let range: ipnet::IpNet = reserved_range(ipv6).parse().unwrap_or_default();
            let found: std::collections::BTreeSet<_> = (0..2_000).map(|_| reserved(ipv6)).collect();
            assert!(
                found.iter().all(|address| range.contains(address)),
                "{range}: {found:?}"
            );
            assert!(found.len() > 100, "{}", found.len());
        }
    }
}
