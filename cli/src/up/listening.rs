//! Whether somebody listens on a TCP port of a network namespace.
//!
//! Read from the kernel's tables (proc(5), `/proc/PID/net/tcp`) rather than by
//! dialling: the program sees no connection that nobody made.

/// The state LISTEN in the kernel's tables.
const LISTEN: &str = "0A";

/// Whether the network namespace of process `holder` has a listener on `port`,
/// on any address of either family.
pub(crate) fn listens(holder: u32, port: u16) -> bool {
    ["tcp", "tcp6"].iter().any(|table| {
        std::fs::read_to_string(format!("/proc/{holder}/net/{table}")).is_ok_and(|text| has_listener(&text, port))
    })
}

fn has_listener(table: &str, port: u16) -> bool {
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let local = fields.next().and_then(|address| address.rsplit(':').next());
        let state = fields.nth(1);
        state == Some(LISTEN) && local.and_then(|hex| u16::from_str_radix(hex, 16).ok()) == Some(port)
    })
}

#[cfg(test)]
mod tests {
    use super::has_listener;

    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue\n\
        0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000\n\
        1: 0200570A:1F91 0300570A:C350 01 00000000:00000000 00:00000000 00000000  1000\n\
        2: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A 0:0\n";

    #[test]
    fn a_listener_counts_and_a_connection_does_not() {
        assert!(has_listener(TABLE, 8080));
        assert!(has_listener(TABLE, 80));
        assert!(!has_listener(TABLE, 8081));
        assert!(!has_listener(TABLE, 8082));
    }

    #[test]
    fn nonsense_is_no_listener() {
        assert!(!has_listener("", 80));
        assert!(!has_listener("header\n\n x\n 0: 0050 y 0A\n 1: :zz 00 0A\n", 81));
    }
}
