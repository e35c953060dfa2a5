//! The rules as an nftables script: one table, made or replaced in one
//! transaction, so that no moment has half of them.

use std::fmt::Write;

use super::rules::{Chain, Hook, Match, Rule, Verdict};

/// Everything is in this table of both IP families.
const TABLE: &str = "inet watchword";

/// A script for `nft -f` that puts these chains in the place of those that
/// were there.
pub fn replace(chains: &[Chain]) -> String {
    let mut script = remove();
    let _ = writeln!(script, "table {TABLE} {{");
    for chain in chains {
        render_chain(&mut script, chain);
    }
    script.push_str("}\n");
    script
}

/// A script for `nft -f` that removes our table, whether it is there or not.
pub fn remove() -> String {
    format!("table {TABLE}\ndelete table {TABLE}\n")
}

fn render_chain(script: &mut String, chain: &Chain) {
    let hook = match chain.hook {
        Hook::NatOutput => "type nat hook output priority -100",
        Hook::NatPrerouting => "type nat hook prerouting priority -100",
        Hook::FilterOutput => "type filter hook output priority 0",
        Hook::RawOutput => "type filter hook output priority -300",
    };
    let _ = writeln!(script, "    chain {} {{\n        {hook}; policy accept;", chain.name);
    for rule in &chain.rules {
        let _ = writeln!(script, "        {}", render_rule(rule));
    }
    script.push_str("    }\n");
}

fn render_rule(rule: &Rule) -> String {
    let verdict = match rule.verdict {
        Verdict::Return => "return".to_owned(),
        Verdict::Redirect(port) => format!("redirect to :{port}"),
        Verdict::Reject => "reject with icmpx port-unreachable".to_owned(),
        Verdict::Untracked => "notrack".to_owned(),
    };
    let mut words: Vec<String> = rule.matches.iter().map(render_match).collect();
    words.push(format!("counter {verdict} comment \"{}\"", rule.comment));
    words.join(" ")
}

fn render_match(condition: &Match) -> String {
    match condition {
        Match::Mark(mark) => format!("meta mark {mark:#x}"),
        Match::Uid(uid) => format!("meta skuid {uid}"),
        Match::FromLoopback => "iif lo".into(),
        Match::ToLoopback => "oif lo".into(),
        Match::ToLocal => "fib daddr type local".into(),
        Match::Tcp => "meta l4proto tcp".into(),
        Match::Icmp => "meta l4proto { icmp, ipv6-icmp }".into(),
        Match::TcpPorts(ports) => {
            let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
            format!("tcp dport {{ {} }}", ports.join(", "))
        }
        Match::To(range) if range.addr().is_ipv4() => format!("ip daddr {range}"),
        Match::To(range) => format!("ip6 daddr {range}"),
        Match::Established => "ct state established,related".into(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::{Interception, LoopProtection};
    use crate::intercept::rules::whole_namespace;

    #[test]
    fn rules_read_as_they_are_installed() {
        let config = Interception {
            loop_protection: LoopProtection::Mark,
            exclude_inbound_ports: vec![9000],
            exclude_outbound_ports: vec![443, 8443],
            exclude_outbound_ranges: vec!["10.9.0.0/16".parse().unwrap(), "fd09::/32".parse().unwrap()],
            ..Interception::default()
        };
        let expected = r#"table inet watchword
delete table inet watchword
table inet watchword {
    chain outbound {
        type nat hook output priority -100; policy accept;
        meta mark 0x57570001 counter return comment "the sidecar's own"
        meta mark 0x57570003 oif lo counter return comment "the sidecar's to the app"
        ip daddr 127.0.0.0/8 counter return comment "within the workload"
        ip6 daddr ::1/128 counter return comment "within the workload"
        tcp dport { 443, 8443 } counter return comment "excluded by configuration"
        ip daddr 10.9.0.0/16 counter return comment "excluded by configuration"
        ip6 daddr fd09::/32 counter return comment "excluded by configuration"
        meta l4proto tcp counter redirect to :15001 comment "to the sidecar"
    }
    chain inbound {
        type nat hook prerouting priority -100; policy accept;
        iif lo counter return comment "within the workload"
        tcp dport { 15099 } counter redirect to :15006 comment "shows that interception is there"
        tcp dport { 15020, 9000 } counter return comment "health, and excluded by configuration"
        fib daddr type local meta l4proto tcp counter redirect to :15006 comment "to the sidecar"
    }
    chain other_protocols {
        type filter hook output priority 0; policy accept;
        meta l4proto tcp counter return comment "redirected, or excluded"
        meta mark 0x57570001 counter return comment "the sidecar's own"
        oif lo counter return comment "within the workload"
        meta l4proto { icmp, ipv6-icmp } counter return comment "errors and neighbours"
        ct state established,related counter return comment "answers"
        ip daddr 10.9.0.0/16 counter return comment "excluded by configuration"
        ip6 daddr fd09::/32 counter return comment "excluded by configuration"
        counter reject with icmpx port-unreachable comment "other protocols do not leave"
    }
    chain to_the_app {
        type filter hook output priority -300; policy accept;
        meta mark 0x57570002 oif lo counter notrack comment "the sidecar's to the app, and the answers"
    }
}
"#;
        assert_eq!(replace(&whole_namespace(&config)), expected);
    }

    #[test]
    fn the_uid_tells_the_sidecar_where_no_mark_is_asked_for() {
        let script = replace(&whole_namespace(&Interception::default()));
        assert_eq!(script.matches("meta skuid 1337 counter return").count(), 2);
        assert!(!script.contains("meta mark"));
    }
}
