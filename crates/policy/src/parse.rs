//! Reads a policy file: YAML text to policies that know where they stand.
//!
//! Invariant: everything in the text is either understood or reported. What
//! can be seen in one policy alone is checked here; `check` does the rest.

use std::collections::HashMap;

use crate::diagnostic::{Diagnostic, Position, Report};
use crate::document::{self, Fields, Node, Value};
use crate::model::{Policy, Rule};
use crate::pattern::IdPattern;
use crate::requests::Requests;

/// The longest name of a policy or a rule, in characters.
const MAX_NAME: usize = 128;

/// The policies of one file.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// The file as the user named it.
    pub file: String,
    /// In the order of the file.
    pub policies: Vec<ParsedPolicy>,
    /// What looks wrong but is not an error.
    pub warnings: Vec<Diagnostic>,
}

impl Parsed {
    /// The policies without their places.
    pub fn into_policies(self) -> impl Iterator<Item = Policy> {
        self.policies.into_iter().map(|parsed| parsed.policy)
    }
}

/// A policy, and where its parts stand.
#[derive(Clone, Debug)]
pub struct ParsedPolicy {
    /// What it says.
    pub policy: Policy,
    pub(crate) name_at: Position,
    pub(crate) service_at: Position,
    /// For `policy.allow` and `policy.deny`, index by index.
    pub(crate) allow_at: Vec<RulePlaces>,
    pub(crate) deny_at: Vec<RulePlaces>,
}

/// Where the parts of a rule stand; `from` and `ports` index by index.
#[derive(Clone, Debug)]
pub(crate) struct RulePlaces {
    pub(crate) rule: Position,
    pub(crate) from: Vec<Position>,
    pub(crate) ports: Vec<Position>,
}

/// Parses the text of a policy file, which may hold several documents. `file`
/// is only named in diagnostics.
///
/// # Errors
/// Everything that is wrong, in the order of the file, with the warnings in
/// between. A mistake of syntax hides what else is wrong in the file.
pub fn parse(file: &str, text: &str) -> Result<Parsed, Vec<Diagnostic>> {
    let documents = document::parse(file, text).map_err(|error| vec![error])?;
    let mut report = Report::new(file);
    if documents.is_empty() {
        report.warning(Position::START, "there is no policy in this file");
    }
    let read = |node| read_policy(node, &mut report);
    let policies: Vec<Option<ParsedPolicy>> = documents.iter().map(read).collect();
    let policies: Option<Vec<ParsedPolicy>> = policies.into_iter().collect();
    let (policies, warnings) = report.finish(policies)?;
    Ok(Parsed {
        file: file.to_owned(),
        policies,
        warnings,
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Allow,
    Deny,
}

impl Side {
    fn key(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

fn read_policy(node: &Node, report: &mut Report) -> Option<ParsedPolicy> {
    let known = &["name", "service", "allow", "deny", "audit"];
    let fields = node.fields("a policy", known, report)?;
    let name = fields
        .required("name", "give the policy a name of its own", report)
        .and_then(|name| Some((read_name(name, "the name of a policy", report)?, name.at)));
    let hint = "whom it protects, as spiffe://TRUST-DOMAIN/PATH";
    let service = fields
        .required("service", hint, report)
        .and_then(|service| Some((read_pattern(service, report)?, service.at)));
    let allow = read_rules(&fields, Side::Allow, report);
    let deny = read_rules(&fields, Side::Deny, report);
    let audit = match fields.optional("audit") {
        Some(audit) => audit.boolean(report),
        None => Some(false),
    };
    let (allow, deny) = (allow?, deny?);
    report_repeated_names(&[&allow, &deny], report);
    report_shadowed(&allow, &deny, report);
    let ((name, name_at), (service, service_at)) = (name?, service?);
    let (allow, allow_at) = allow.into_iter().unzip();
    let (deny, deny_at) = deny.into_iter().unzip();
    Some(ParsedPolicy {
        policy: Policy {
            name,
            service,
            allow,
            deny,
            audit: audit?,
        },
        name_at,
        service_at,
        allow_at,
        deny_at,
    })
}

type PlacedRule = (Rule, RulePlaces);

fn read_rules(fields: &Fields<'_>, side: Side, report: &mut Report) -> Option<Vec<PlacedRule>> {
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
    let fields = node.fields("a rule", &["name", "from", "ports", "http", "grpc"], report)?;
    report_unsupported(&fields, side, report);
    let name = match fields.optional("name") {
        Some(name) => read_name(name, "the name of a rule", report),
        None => Some(format!("{}[{index}]", side.key())),
    };
    let from = fields
        .required(
            "from",
            "the list of those who call; a rule for nobody means nothing",
            report,
        )
        .and_then(|from| read_from(from, side, report));
    let ports = match fields.optional("ports") {
        Some(ports) => read_ports(ports, report),
        None => Some((Vec::new(), Vec::new())),
    };
    let ((from, from_at), (ports, ports_at)) = (from?, ports?);
    let places = RulePlaces {
        rule: node.at,
        from: from_at,
        ports: ports_at,
    };
    Some((
        Rule {
            name: name?,
            from,
            ports,
            requests: Requests::All,
        },
        places,
    ))
}

/// A rule that lost its `http` or `grpc` block would match all requests: an
/// allow rule too many, a deny rule more than was meant.
fn report_unsupported(fields: &Fields<'_>, side: Side, report: &mut Report) {
    for key in ["http", "grpc"] {
        if let Some(at) = fields.place_of(key) {
            let action = side.key();
            report.error(
                at,
                format!(
                    "`{key}` is not supported by this version yet, and without it the rule would {action} every \
                     request on its ports: write the rule with `from` and `ports` alone if that is meant"
                ),
            );
        }
    }
}

fn read_name(node: &Node, expected: &str, report: &mut Report) -> Option<String> {
    let name = node.text(expected, report)?;
    let length = name.chars().count();
    let plain = name.trim() == name && !name.chars().any(char::is_control);
    if length == 0 || length > MAX_NAME || !plain {
        report.error(
            node.at,
            format!(
                "expected {expected}: 1 to {MAX_NAME} characters, without control characters, and without spaces \
                 around it"
            ),
        );
        return None;
    }
    Some(name.to_owned())
}

fn read_pattern(node: &Node, report: &mut Report) -> Option<IdPattern> {
    let text = node.text("a SPIFFE ID", report)?;
    match text.parse() {
        Ok(pattern) => Some(pattern),
        Err(error) => {
            report.error(node.at, format!("{} is not a SPIFFE ID: {error}", node.describe()));
            None
        }
    }
}

fn read_from(node: &Node, side: Side, report: &mut Report) -> Option<(Vec<IdPattern>, Vec<Position>)> {
    let items = node.list("SPIFFE IDs", report)?;
    if items.is_empty() {
        report.error(
            node.at,
            "`from` is empty: list at least one SPIFFE ID, or leave the rule out",
        );
        return None;
    }
    let mut patterns = Vec::with_capacity(items.len());
    for item in items {
        if matches!(&item.value, Value::Text(text) if text == "unauthenticated") {
            report.error(
                item.at,
                "`unauthenticated` needs `mode: permissive`, which is not supported by this version yet: only SPIFFE \
                 IDs can call",
            );
            patterns.push(None);
            continue;
        }
        let pattern = read_pattern(item, report);
        if let Some(whole) = pattern.as_ref().filter(|found| found.is_whole_trust_domain())
            && side == Side::Allow
        {
            report.warning(item.at, format!("`{whole}` allows every workload of the trust domain"));
        }
        patterns.push(pattern);
    }
    let places = items.iter().map(|item| item.at).collect();
    Some((patterns.into_iter().collect::<Option<_>>()?, places))
}

fn read_ports(node: &Node, report: &mut Report) -> Option<(Vec<u16>, Vec<Position>)> {
    let items = node.list("ports", report)?;
    if items.is_empty() {
        report.error(
            node.at,
            "`ports` is empty: list at least one port, or leave `ports` out to mean all",
        );
        return None;
    }
    let ports: Vec<Option<u16>> = items
        .iter()
        .map(|item| item.integer(1..=u16::MAX, "a port", report))
        .collect();
    let places = items.iter().map(|item| item.at).collect();
    Some((ports.into_iter().collect::<Option<_>>()?, places))
}

fn report_repeated_names(lists: &[&[PlacedRule]], report: &mut Report) {
    let mut first: HashMap<&str, Position> = HashMap::new();
    for (rule, places) in lists.iter().copied().flatten() {
        match first.get(rule.name.as_str()) {
            None => {
                first.insert(&rule.name, places.rule);
            }
            Some(earlier) => report.error(
                places.rule,
                format!(
                    "two rules of this policy are named `{}`, the other one on line {}: a decision could not say which \
                     one made it",
                    rule.name, earlier.line
                ),
            ),
        }
    }
}

/// Reports allow rules of which deny rules of the same policy leave nothing.
fn report_shadowed(allow: &[PlacedRule], deny: &[PlacedRule], report: &mut Report) {
    for (rule, places) in allow {
        let Some(shadows) = shadows(rule, deny) else {
            continue;
        };
        let names: Vec<String> = shadows.iter().map(|name| format!("`{name}`")).collect();
        report.error(
            places.rule,
            format!(
                "allow rule `{}` can never match, for deny beats allow: it is shadowed by deny rule {}; remove one",
                rule.name,
                names.join(" and ")
            ),
        );
    }
}

/// The deny rules that together cover all of `rule`, if they do.
fn shadows<'d>(rule: &Rule, deny: &'d [PlacedRule]) -> Option<Vec<&'d str>> {
    // One that covers no named port stands for "all ports".
    let ports: Vec<Option<u16>> = match rule.ports.as_slice() {
        [] => vec![None],
        ports => ports.iter().copied().map(Some).collect(),
    };
    let mut names: Vec<&str> = Vec::new();
    for from in &rule.from {
        for port in &ports {
            let covers = |candidate: &&PlacedRule| covers(&candidate.0, from, *port);
            let (shadow, _) = deny.iter().find(covers)?;
            if !names.contains(&shadow.name.as_str()) {
                names.push(&shadow.name);
            }
        }
    }
    Some(names)
}

fn covers(rule: &Rule, from: &IdPattern, port: Option<u16>) -> bool {
    let port = rule.ports.is_empty() || port.is_some_and(|port| rule.ports.contains(&port));
    port && rule.from.iter().any(|pattern| pattern.covers(from))
}

#[cfg(test)]
mod tests;
