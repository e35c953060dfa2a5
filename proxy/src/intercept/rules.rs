//! What is captured, as data: chains of rules, each a list of matches and a
//! verdict. Knows nothing of the tool that puts them in force.

use ipnet::IpNet;

use super::{CANARY_PORT, HEALTH_PORT, INBOUND_PORT, OUTBOUND_PORT};
use crate::config::{APP_MARK, DialFrom, Interception, LOCAL_MARK, LoopProtection, PROXY_MARK, PROXY_UID};

/// Where in a packet's way a chain looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Addresses of what this namespace sends may be changed.
    NatOutput,
    /// Addresses of what comes from outside may be changed.
    NatPrerouting,
    /// What this namespace sends may be refused.
    FilterOutput,
    /// What this namespace sends, before connections are tracked.
    RawOutput,
}

/// What a rule looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// The packet carries this mark.
    Mark(u32),
    /// The sending process has this uid.
    Uid(u32),
    /// It came in by the loopback interface.
    FromLoopback,
    /// It goes out by the loopback interface.
    ToLoopback,
    /// Its destination is an address of this namespace.
    ToLocal,
    /// TCP.
    Tcp,
    /// ICMP or ICMPv6.
    Icmp,
    /// TCP to one of these ports.
    TcpPorts(Vec<u16>),
    /// Its destination lies in this range.
    To(IpNet),
    /// It belongs to a connection that was let through before.
    Established,
}

/// What happens to a packet that matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Left alone by this chain.
    Return,
    /// Sent to this port here.
    Redirect(u16),
    /// Refused with an ICMP error, so that the sender notices at once.
    Reject,
    /// Not tracked, and so never redirected.
    Untracked,
}

/// All matches must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What it looks at.
    pub matches: Vec<Match>,
    /// What happens.
    pub verdict: Verdict,
    /// Why, for who reads the rules on a machine.
    pub comment: &'static str,
}

/// Rules in order: the first that matches decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name in the table.
    pub name: &'static str,
    /// Where it looks.
    pub hook: Hook,
    /// In order.
    pub rules: Vec<Rule>,
}

fn rule(matches: Vec<Match>, verdict: Verdict, comment: &'static str) -> Rule {
    Rule {
        matches,
        verdict,
        comment,
    }
}

/// Everything of this network namespace but the sidecar's own connections.
/// IPv4 and IPv6 alike: a chain that knows one family only would let the other
/// pass in plaintext.
pub fn whole_namespace(config: &Interception) -> Vec<Chain> {
    let mut chains = vec![outbound(config), inbound(config), other_protocols(config)];
    if config.dial_from() == DialFrom::Client {
        chains.push(to_the_app());
    }
    chains
}

/// The sidecar's call to the app may have the very addresses and ports of the
/// caller's tunnel, which tracking would take it for. Only by loopback: a mark
/// on a socket of the app must not let it leave.
fn to_the_app() -> Chain {
    Chain {
        name: "to_the_app",
        hook: Hook::RawOutput,
        rules: vec![rule(
            vec![Match::Mark(APP_MARK), Match::ToLoopback],
            Verdict::Untracked,
            "the sidecar's to the app, and the answers",
        )],
    }
}

fn own(config: &Interception) -> Match {
    match config.loop_protection {
        LoopProtection::Uid => Match::Uid(PROXY_UID),
        LoopProtection::Mark => Match::Mark(PROXY_MARK),
    }
}

fn loopback_ranges() -> [Match; 2] {
    let ipv4 = std::net::Ipv4Addr::new(127, 0, 0, 0);
    [
        Match::To(IpNet::new_assert(ipv4.into(), 8)),
        Match::To(IpNet::new_assert(std::net::Ipv6Addr::LOCALHOST.into(), 128)),
    ]
}

fn outbound(config: &Interception) -> Chain {
    let mut rules = vec![rule(vec![own(config)], Verdict::Return, "the sidecar's own")];
    if config.loop_protection == LoopProtection::Mark {
        let to_the_app = vec![Match::Mark(LOCAL_MARK), Match::ToLoopback];
        rules.push(rule(to_the_app, Verdict::Return, "the sidecar's to the app"));
    }
    // By address, not by interface: a call to this namespace's own address
    // leaves by loopback too, and policies hold for it.
    let loopback = loopback_ranges().map(|range| rule(vec![range], Verdict::Return, "within the workload"));
    rules.extend(loopback);
    if !config.exclude_outbound_ports.is_empty() {
        let ports = Match::TcpPorts(config.exclude_outbound_ports.clone());
        rules.push(rule(vec![ports], Verdict::Return, "excluded by configuration"));
    }
    for range in &config.exclude_outbound_ranges {
        rules.push(rule(
            vec![Match::To(*range)],
            Verdict::Return,
            "excluded by configuration",
        ));
    }
    rules.push(rule(
        vec![Match::Tcp],
        Verdict::Redirect(OUTBOUND_PORT),
        "to the sidecar",
    ));
    Chain {
        name: "outbound",
        hook: Hook::NatOutput,
        rules,
    }
}

fn inbound(config: &Interception) -> Chain {
    let mut rules = vec![
        rule(vec![Match::FromLoopback], Verdict::Return, "within the workload"),
        rule(
            vec![Match::TcpPorts(vec![CANARY_PORT])],
            Verdict::Redirect(INBOUND_PORT),
            "shows that interception is there",
        ),
    ];
    let mut direct = vec![HEALTH_PORT];
    direct.extend(config.exclude_inbound_ports.iter().filter(|port| **port != CANARY_PORT));
    rules.push(rule(
        vec![Match::TcpPorts(direct)],
        Verdict::Return,
        "health, and excluded by configuration",
    ));
    rules.push(rule(
        vec![Match::ToLocal, Match::Tcp],
        Verdict::Redirect(INBOUND_PORT),
        "to the sidecar",
    ));
    Chain {
        name: "inbound",
        hook: Hook::NatPrerouting,
        rules,
    }
}

/// Other protocols can't be authenticated, so they do not leave.
fn other_protocols(config: &Interception) -> Chain {
    let mut rules = vec![
        // First, since each packet of a connection comes by here: as the third
        // it took 3 % of a request's CPU.
        rule(vec![Match::Tcp], Verdict::Return, "redirected, or excluded"),
        rule(vec![own(config)], Verdict::Return, "the sidecar's own"),
        rule(vec![Match::ToLoopback], Verdict::Return, "within the workload"),
        rule(vec![Match::Icmp], Verdict::Return, "errors and neighbours"),
        rule(vec![Match::Established], Verdict::Return, "answers"),
    ];
    for range in &config.exclude_outbound_ranges {
        rules.push(rule(
            vec![Match::To(*range)],
            Verdict::Return,
            "excluded by configuration",
        ));
    }
    rules.push(rule(Vec::new(), Verdict::Reject, "other protocols do not leave"));
    Chain {
        name: "other_protocols",
        hook: Hook::FilterOutput,
        rules,
    }
}
