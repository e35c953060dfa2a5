//! Whether somebody listens on a TCP port of a network namespace.
//!
//! Read from the kernel's tables (proc(5), `/proc/PID/net/tcp`) rather than by
//! dialling: the program sees no connection that nobody made.

use std::collections::BTreeMap;

/// The state LISTEN in the kernel's tables.
const LISTEN: &str = "0A";

/// Who can reach a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Listening {
    /// The workload itself: a sidecar dials the workload's own address.
    OnLoopback,
    /// Everybody.
    Everywhere,
}

/// The ports that somebody listens on in the network namespace of process
/// `holder`, by either family, with what the listeners on each amount to.
pub(crate) fn listeners(holder: u32) -> BTreeMap<u16, Listening> {
    let mut found = BTreeMap::new();
    for table in ["tcp", "tcp6"] {
        let text = std::fs::read_to_string(format!("/proc/{holder}/net/{table}"));
        add_table(&text.unwrap_or_default(), &mut found);
    }
    found
}

fn add_table(table: &str, found: &mut BTreeMap<u16, Listening>) {
    let listeners = table.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (address, port) = fields.next()?.rsplit_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        let who = match is_loopback(address) {
            true => Listening::OnLoopback,
            false => Listening::Everywhere,
        };
        (fields.nth(1) == Some(LISTEN)).then_some((port, who))
    });
    for (port, who) in listeners {
        let most = found.entry(port).or_insert(who);
        *most = who.max(*most);
    }
}

/// Addresses stand there in words of the machine's own byte order.
fn is_loopback(address: &str) -> bool {
    const IPV6_LOOPBACK: [&str; 2] = ["00000000000000000000000001000000", "00000000000000000000000000000001"];
    let is_ipv4_loopback = |word: &str| {
        let word = u32::from_str_radix(word, 16).map(u32::to_ne_bytes);
        word.is_ok_and(|bytes| bytes.first() == Some(&127))
    };
    match address.len() {
        8 => is_ipv4_loopback(address),
        _ => IPV6_LOOPBACK.contains(&address),
    }
}

#[cfg(test)]
mod tests {
    use super::Listening::{Everywhere, OnLoopback};
    use super::*;

    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue\n\
        0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000\n\
        1: 0200570A:1F91 0300570A:C350 01 00000000:00000000 00:00000000 00000000  1000\n\
        2: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A 0:0\n";

    fn of_table(table: &str) -> Vec<(u16, Listening)> {
        let mut found = BTreeMap::new();
        add_table(table, &mut found);
        found.into_iter().collect()
    }

    #[test]
    fn a_listener_counts_and_a_connection_does_not() {
        assert_eq!(of_table(TABLE), [(80, Everywhere), (8080, OnLoopback)]);
    }

    #[test]
    fn one_that_everybody_reaches_is_enough() {
        let both = format!("{TABLE}        3: 00000000:1F90 00000000:0000 0A 0:0\n");
        assert_eq!(of_table(&both), [(80, Everywhere), (8080, Everywhere)]);
        let own = TABLE.replace("0100007F", "0200570A");
        assert_eq!(of_table(&own), [(80, Everywhere), (8080, Everywhere)]);
        let ipv6 = "head\n 0: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 0:0\n";
        assert_eq!(of_table(ipv6), [(80, OnLoopback)]);
    }

    #[test]
    fn nonsense_is_no_listener() {
        assert_eq!(of_table(""), []);
        assert_eq!(of_table("header\n\n x\n 0: 0050 y 0A\n 1: :zz 00 0A\n"), []);
    }
}
