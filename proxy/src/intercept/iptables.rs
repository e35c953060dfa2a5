//! The rules as scripts for `iptables-restore` and `ip6tables-restore`, for
//! machines without nft: chains of our own in up to three tables, each table
//! replaced in one transaction, and a jump to each chain.
//!
//! Pure: what is there already is told by [`Present`].

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::rules::{Chain, Hook, Match, Rule, Verdict};

/// Our chains begin with it. A name has 28 bytes at most.
const PREFIX: &str = "watchword_";
/// What `multiport` takes.
const MOST_PORTS: usize = 15;
/// In the order in which they are put in force: what lets pass comes before
/// what redirects.
pub(super) const TABLES: [&str; 3] = ["raw", "filter", "nat"];

/// One of the two programs, which know one IP family each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `iptables`.
    V4,
    /// `ip6tables`.
    V6,
}

impl Family {
    /// The program that lists rules.
    pub fn program(self) -> &'static str {
        match self {
            Self::V4 => "iptables",
            Self::V6 => "ip6tables",
        }
    }

    /// The program that takes scripts.
    pub fn restore(self) -> &'static str {
        match self {
            Self::V4 => "iptables-restore",
            Self::V6 => "ip6tables-restore",
        }
    }
}

/// What one table has of ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Present {
    /// By their whole names.
    chains: BTreeSet<String>,
    /// (built-in chain, ours): one for each jump.
    jumps: Vec<(String, String)>,
}

impl Present {
    /// From what `iptables -S` lists of a table.
    pub fn parse(listing: &str) -> Self {
        let mut present = Self::default();
        for line in listing.lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            match words.as_slice() {
                ["-N", chain] if chain.starts_with(PREFIX) => {
                    present.chains.insert((*chain).to_owned());
                }
                ["-A", from, "-j", chain] if chain.starts_with(PREFIX) && !from.starts_with(PREFIX) => {
                    present.jumps.push(((*from).to_owned(), (*chain).to_owned()));
                }
                _ => {}
            }
        }
        present
    }
}

/// A script that puts those of `chains` that belong into `table` in the place of
/// what is present; nothing when there is nothing to do.
pub fn replace(family: Family, table: &str, chains: &[Chain], present: &Present) -> String {
    let own: Vec<_> = chains.iter().filter(|chain| place(chain.hook).0 == table).collect();
    let (mut declared, mut lines) = (String::new(), String::new());
    let mut wanted = Vec::new();
    for chain in own {
        let name = format!("{PREFIX}{}", chain.name);
        // Declaring a chain of ours empties it.
        let _ = writeln!(declared, ":{name} - [0:0]");
        for line in chain.rules.iter().flat_map(|rule| render(family, rule)) {
            let _ = writeln!(lines, "-A {name} {line}");
        }
        wanted.push((place(chain.hook).1.to_owned(), name));
    }
    for jump in &wanted {
        if !present.jumps.contains(jump) {
            let _ = writeln!(lines, "-I {} -j {}", jump.0, jump.1);
        }
    }
    let mut kept = wanted.clone();
    for jump in &present.jumps {
        // The first of each that is wanted stays.
        match kept.iter().position(|wanted| wanted == jump) {
            Some(index) => drop(kept.remove(index)),
            None => drop(writeln!(lines, "-D {} -j {}", jump.0, jump.1)),
        }
    }
    for chain in &present.chains {
        if !wanted.iter().any(|(_, name)| name == chain) {
            let _ = writeln!(lines, "-F {chain}\n-X {chain}");
        }
    }
    match declared.is_empty() && lines.is_empty() {
        true => String::new(),
        false => format!("*{table}\n{declared}{lines}COMMIT\n"),
    }
}

/// Table and built-in chain.
fn place(hook: Hook) -> (&'static str, &'static str) {
    match hook {
        Hook::NatOutput => ("nat", "OUTPUT"),
        Hook::NatPrerouting => ("nat", "PREROUTING"),
        Hook::FilterOutput => ("filter", "OUTPUT"),
        Hook::RawOutput => ("raw", "OUTPUT"),
    }
}

/// A rule as lines: none where it is about the other family, several where it
/// has many ports.
fn render(family: Family, rule: &Rule) -> Vec<String> {
    let other_family = |condition: &Match| match condition {
        Match::To(range) => range.addr().is_ipv4() != (family == Family::V4),
        _ => false,
    };
    if rule.matches.iter().any(other_family) {
        return Vec::new();
    }
    let ports = rule.matches.iter().find_map(|condition| match condition {
        Match::TcpPorts(ports) => Some(ports.as_slice()),
        _ => None,
    });
    let words: Vec<String> = rule.matches.iter().filter_map(|it| condition(family, it)).collect();
    let line = |ports: &[u16]| {
        let mut line = words.clone();
        if !ports.is_empty() {
            let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
            line.push(format!("-p tcp -m multiport --dports {}", ports.join(",")));
        }
        line.push(format!("-m comment --comment \"{}\"", rule.comment));
        line.push(verdict(family, rule.verdict));
        line.join(" ")
    };
    match ports {
        Some(ports) => ports.chunks(MOST_PORTS).map(line).collect(),
        None => vec![line(&[])],
    }
}

fn condition(family: Family, condition: &Match) -> Option<String> {
    Some(match condition {
        Match::Mark(mark) => format!("-m mark --mark {mark:#x}"),
        Match::Uid(uid) => format!("-m owner --uid-owner {uid}"),
        Match::FromLoopback => "-i lo".to_owned(),
        Match::ToLoopback => "-o lo".to_owned(),
        Match::ToLocal => "-m addrtype --dst-type LOCAL".to_owned(),
        Match::Tcp => "-p tcp".to_owned(),
        Match::Icmp if family == Family::V4 => "-p icmp".to_owned(),
        Match::Icmp => "-p ipv6-icmp".to_owned(),
        Match::To(range) => format!("-d {range}"),
        Match::Established => "-m conntrack --ctstate ESTABLISHED,RELATED".to_owned(),
        Match::TcpPorts(_) => return None,
    })
}

fn verdict(family: Family, verdict: Verdict) -> String {
    match verdict {
        Verdict::Return => "-j RETURN".to_owned(),
        Verdict::Redirect(port) => format!("-j REDIRECT --to-ports {port}"),
        Verdict::Reject if family == Family::V4 => "-j REJECT --reject-with icmp-port-unreachable".to_owned(),
        Verdict::Reject => "-j REJECT --reject-with icmp6-port-unreachable".to_owned(),
        Verdict::Untracked => "-j CT --notrack".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::{Interception, LoopProtection};
    use crate::intercept::rules::whole_namespace;

    fn chains() -> Vec<Chain> {
        whole_namespace(&Interception {
            loop_protection: LoopProtection::Mark,
            exclude_inbound_ports: vec![9000],
            exclude_outbound_ports: (1..=16).collect(),
            exclude_outbound_ranges: vec!["10.9.0.0/16".parse().unwrap(), "fd09::/32".parse().unwrap()],
            ..Interception::default()
        })
    }

    fn script(family: Family) -> String {
        let none = Present::default();
        TABLES.map(|table| replace(family, table, &chains(), &none)).concat()
    }

    #[test]
    fn rules_read_as_they_are_installed() {
        let expected = r#"*raw
:watchword_to_the_app - [0:0]
-A watchword_to_the_app -m mark --mark 0x57570002 -o lo -m comment --comment "the sidecar's to the app, and the answers" -j CT --notrack
-I OUTPUT -j watchword_to_the_app
COMMIT
*filter
:watchword_other_protocols - [0:0]
-A watchword_other_protocols -p tcp -m comment --comment "redirected, or excluded" -j RETURN
-A watchword_other_protocols -m mark --mark 0x57570001 -m comment --comment "the sidecar's own" -j RETURN
-A watchword_other_protocols -o lo -m comment --comment "within the workload" -j RETURN
-A watchword_other_protocols -p icmp -m comment --comment "errors and neighbours" -j RETURN
-A watchword_other_protocols -m conntrack --ctstate ESTABLISHED,RELATED -m comment --comment "answers" -j RETURN
-A watchword_other_protocols -d 10.9.0.0/16 -m comment --comment "excluded by configuration" -j RETURN
-A watchword_other_protocols -m comment --comment "other protocols do not leave" -j REJECT --reject-with icmp-port-unreachable
-I OUTPUT -j watchword_other_protocols
COMMIT
*nat
:watchword_outbound - [0:0]
:watchword_inbound - [0:0]
-A watchword_outbound -m mark --mark 0x57570001 -m comment --comment "the sidecar's own" -j RETURN
-A watchword_outbound -m mark --mark 0x57570003 -o lo -m comment --comment "the sidecar's to the app" -j RETURN
-A watchword_outbound -d 127.0.0.0/8 -m comment --comment "within the workload" -j RETURN
-A watchword_outbound -p tcp -m multiport --dports 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15 -m comment --comment "excluded by configuration" -j RETURN
-A watchword_outbound -p tcp -m multiport --dports 16 -m comment --comment "excluded by configuration" -j RETURN
-A watchword_outbound -d 10.9.0.0/16 -m comment --comment "excluded by configuration" -j RETURN
-A watchword_outbound -p tcp -m comment --comment "to the sidecar" -j REDIRECT --to-ports 15001
-A watchword_inbound -i lo -m comment --comment "within the workload" -j RETURN
-A watchword_inbound -p tcp -m multiport --dports 15099 -m comment --comment "shows that interception is there" -j REDIRECT --to-ports 15006
-A watchword_inbound -p tcp -m multiport --dports 15020,9000 -m comment --comment "health, and excluded by configuration" -j RETURN
-A watchword_inbound -m addrtype --dst-type LOCAL -p tcp -m comment --comment "to the sidecar" -j REDIRECT --to-ports 15006
-I OUTPUT -j watchword_outbound
-I PREROUTING -j watchword_inbound
COMMIT
"#;
        assert_eq!(script(Family::V4), expected);
        let v6 = script(Family::V6);
        for line in [
            "-d ::1/128 ",
            "-d fd09::/32 ",
            "-p ipv6-icmp ",
            "icmp6-port-unreachable",
        ] {
            assert!(v6.contains(line), "{line}\n{v6}");
        }
        assert!(!v6.contains("127.0.0.0") && !v6.contains("10.9.0.0"), "{v6}");
    }

    /// What `-S` lists after the script.
    fn listing(script: &str, table: &str) -> Present {
        let begin = format!("*{table}\n");
        let part = script.split(&begin).nth(1).unwrap_or_default();
        let part = part.split("COMMIT").next().unwrap();
        let lines = part.lines().map(|line| match line.strip_prefix(':') {
            Some(chain) => format!("-N {}\n", chain.split(' ').next().unwrap()),
            None => format!("{}\n", line.replacen("-I ", "-A ", 1)),
        });
        Present::parse(&lines.collect::<String>())
    }

    #[test]
    fn a_second_time_makes_no_second_jump_and_nothing_wanted_removes_all() {
        for table in TABLES {
            let present = listing(&script(Family::V4), table);
            let again = replace(Family::V4, table, &chains(), &present);
            assert!(
                !again.contains("-I ") && !again.contains("-D ") && !again.contains("-X "),
                "{again}"
            );
            let removed = replace(Family::V4, table, &[], &present);
            assert!(!removed.contains("-A ") && !removed.contains(':'), "{removed}");
            for chain in &present.chains {
                assert!(removed.contains(&format!("-j {chain}\n")) && removed.contains(&format!("-X {chain}\n")));
            }
            assert_eq!(replace(Family::V4, table, &[], &Present::default()), "");
        }
    }

    #[test]
    fn rules_of_others_are_not_ours() {
        let listing = "-P OUTPUT ACCEPT\n-N DOCKER\n-N watchword_outbound\n-A OUTPUT -j DOCKER\n\
                       -A OUTPUT -j watchword_outbound\n-A OUTPUT -j watchword_outbound\n-A watchword_outbound -j RETURN\n";
        let present = Present::parse(listing);
        assert_eq!(present.chains.len(), 1);
        assert_eq!(present.jumps.len(), 2);
        let once = replace(Family::V4, "nat", &chains(), &present);
        assert_eq!(once.matches("-D OUTPUT -j watchword_outbound").count(), 1, "{once}");
    }
}
