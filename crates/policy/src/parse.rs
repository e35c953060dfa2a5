//! Reads a policy file: YAML text to policies that know where they stand.
//!
//! Invariant: everything in the text is either understood or reported. What
//! can be seen in one policy alone is checked here; `check` does the rest.

mod list;
mod requests;
mod rule;

use std::collections::HashMap;

pub(crate) use rule::{PlacedRule, RulePlaces};

use crate::check::report_shadowed;
use crate::diagnostic::{Diagnostic, Position, Report};
use crate::document::{self, Node};
use crate::model::{MAX_NAME, Policy, is_name};
use crate::pattern::IdPattern;

/// The keys of a policy.
const KEYS: &[&str] = &["name", "service", "allow", "deny", "audit"];

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

/// Which list of a policy a rule stands in.
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
    let fields = node.fields("a policy", KEYS, report)?;
    let name = fields
        .required("name", "give the policy a name of its own", report)
        .and_then(|name| Some((read_name(name, "the name of a policy", report)?, name.at)));
    let hint = "whom it protects, as spiffe://TRUST-DOMAIN/PATH";
    let service = fields
        .required("service", hint, report)
        .and_then(|service| Some((read_pattern(service, report)?, service.at)));
    let allow = rule::read_all(&fields, Side::Allow, report);
    let deny = rule::read_all(&fields, Side::Deny, report);
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

fn read_name(node: &Node, expected: &str, report: &mut Report) -> Option<String> {
    let name = node.text(expected, report)?;
    if !is_name(name) {
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

#[cfg(test)]
mod tests;
