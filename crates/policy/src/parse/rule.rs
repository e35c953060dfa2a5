//! Reads the rules of a policy.

use super::list::{List, places};
use super::{Side, read_name, read_pattern, requests};
use crate::diagnostic::{Position, Report};
use crate::document::{Fields, Node, Value};
use crate::model::{MAX_RULE_WEIGHT, Rule};
use crate::principal::{Callers, UNAUTHENTICATED};

/// The keys of a rule.
pub(super) const KEYS: &[&str] = &["name", "from", "ports", "http", "grpc"];

const FROM: List = List {
    key: "from",
    items: "SPIFFE IDs",
    instead: "at least one SPIFFE ID, or leave the rule out",
};
const PORTS: List = List {
    key: "ports",
    items: "ports",
    instead: "at least one port, or leave `ports` out to mean all",
};

/// Where the parts of a rule stand; `from` and `ports` index by index.
#[derive(Clone, Debug)]
pub(crate) struct RulePlaces {
    pub(crate) rule: Position,
    pub(crate) from: Vec<Position>,
    pub(crate) ports: Vec<Position>,
    /// The key of its block, or the rule itself where it has none.
    pub(crate) requests: Position,
}

pub(crate) type PlacedRule = (Rule, RulePlaces);

/// The rules of one side of a policy.
pub(super) fn read_all(fields: &Fields<'_>, side: Side, report: &mut Report) -> Option<Vec<PlacedRule>> {
    let Some(list) = fields.optional(side.key()) else {
        return Some(Vec::new());
    };
    let rules = list.list("rules", report)?.iter().enumerate();
    let rules: Vec<Option<PlacedRule>> = rules
        .map(|(index, rule)| read_rule(rule, side, index, report))
        .collect();
    rules.into_iter().collect()
}

fn read_rule(node: &Node, side: Side, index: usize, report: &mut Report) -> Option<PlacedRule> {
    let fields = node.fields("a rule", KEYS, report)?;
    let name = match fields.optional("name") {
        Some(name) => read_name(name, "the name of a rule", report),
        None => Some(format!("{}[{index}]", side.key())),
    };
    let hint = "the list of those who call; a rule for nobody means nothing";
    let from = fields
        .required("from", hint, report)
        .and_then(|from| Some((read_from(from, side, report)?, places(from))));
    let ports = match fields.optional("ports") {
        Some(ports) => read_ports(ports, report).map(|list| (list, places(ports))),
        None => Some((Vec::new(), Vec::new())),
    };
    let requests = requests::read(&fields, side, report);
    let ((from, from_at), (ports, ports_at)) = (from?, ports?);
    let rule = Rule {
        name: name?,
        from,
        ports,
        requests: requests?,
    };
    report_weight(&rule, node.at, report);
    let block = ["http", "grpc"].iter().find_map(|key| fields.place_of(key));
    let places = RulePlaces {
        rule: node.at,
        from: from_at,
        ports: ports_at,
        requests: block.unwrap_or(node.at),
    };
    Some((rule, places))
}

fn report_weight(rule: &Rule, at: Position, report: &mut Report) {
    let weight = rule.weight();
    if weight > MAX_RULE_WEIGHT {
        let message = format!(
            "the rule spells out {weight} combinations of caller, port, method, path and host, of {MAX_RULE_WEIGHT} at \
             most: write patterns that end in /*, or leave out what need not be told apart"
        );
        report.error(at, message);
    }
}

fn read_from(node: &Node, side: Side, report: &mut Report) -> Option<Vec<Callers>> {
    FROM.read(node, report, |item, report| {
        if matches!(&item.value, Value::Text(text) if text == UNAUTHENTICATED) {
            return Some(Callers::Unauthenticated);
        }
        let pattern = read_pattern(item, report)?;
        if pattern.is_whole_trust_domain() && side == Side::Allow {
            report.warning(
                item.at,
                format!("`{pattern}` allows every workload of the trust domain"),
            );
        }
        Some(Callers::Workloads(pattern))
    })
}

fn read_ports(node: &Node, report: &mut Report) -> Option<Vec<u16>> {
    PORTS.read(node, report, |item, report| {
        item.integer(1..=u16::MAX, "a port", report)
    })
}
