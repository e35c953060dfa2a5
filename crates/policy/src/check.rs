//! Checks what no policy can see alone: the set as a whole, and the mesh that
//! it is written for.
//!
//! Invariant: pure; the caller says what the mesh is. Without that, ports and
//! services go unchecked, and the caller tells so.

mod mesh;
mod shadow;

use std::collections::HashMap;

pub use mesh::MeshContext;
pub(crate) use shadow::report_shadowed;

use crate::diagnostic::{Diagnostic, Position};
use crate::model::{MAX_SET_WEIGHT, Policy};
use crate::parse::{Parsed, ParsedPolicy};
use crate::protocol::Protocol;

/// Checks the policies of several files together: names are unique, no allow
/// rule is shadowed, and with `context` each policy protects a service that
/// there is, on ports that it declares and that speak what the rule is about,
/// from callers of known trust domains. Returns what is wrong and what looks
/// so, file by file; nothing if all is well. The warnings of `parse` are not
/// repeated.
#[must_use]
pub fn check_set(files: &[Parsed], context: Option<&MeshContext>) -> Vec<Diagnostic> {
    let mut findings = Vec::new();
    check_names(files, &mut findings);
    check_weight(files, &mut findings);
    shadow::check(files, &mut findings);
    for (file, parsed) in policies(files) {
        if denies_requests_of_nothing(&parsed.policy, files) {
            let message = "this policy denies requests, and no policy of the service allows any: everything is denied \
                           without it";
            findings.push(Diagnostic::warning(file, parsed.name_at, message));
        }
        if let Some(context) = context {
            mesh::check(file, parsed, context, &mut findings);
        }
    }
    let order: HashMap<&str, usize> = files
        .iter()
        .enumerate()
        .map(|(n, parsed)| (parsed.file.as_str(), n))
        .collect();
    findings.sort_by_key(|found| (order.get(found.file.as_str()).copied(), found.line, found.column));
    findings
}

/// All policies, each with the name of its file.
fn policies(files: &[Parsed]) -> impl Iterator<Item = (&str, &ParsedPolicy)> {
    files
        .iter()
        .flat_map(|parsed| parsed.policies.iter().map(|policy| (parsed.file.as_str(), policy)))
}

fn check_names(files: &[Parsed], findings: &mut Vec<Diagnostic>) {
    let mut names: HashMap<&str, (&str, Position)> = HashMap::new();
    for (file, parsed) in policies(files) {
        let name = parsed.policy.name.as_str();
        let Some((other, at)) = names.get(name) else {
            names.insert(name, (file, parsed.name_at));
            continue;
        };
        let message = format!(
            "another policy is named `{name}` too, at {other}:{}:{}: names are unique over all files",
            at.line, at.column
        );
        findings.push(Diagnostic::error(file, parsed.name_at, message));
    }
}

/// A sidecar would refuse what is too large for it.
fn check_weight(files: &[Parsed], findings: &mut Vec<Diagnostic>) {
    let mut sum: usize = 0;
    for (file, parsed) in policies(files) {
        let before = sum;
        sum = sum.saturating_add(parsed.policy.weight());
        if before <= MAX_SET_WEIGHT && sum > MAX_SET_WEIGHT {
            let message = format!(
                "up to here the policies spell out {sum} combinations of caller, port, method, path and host, of \
                 {MAX_SET_WEIGHT} at most: write patterns that end in /* instead of lists"
            );
            findings.push(Diagnostic::error(file, parsed.name_at, message));
        }
    }
}

/// Whether `policy` has a deny rule for HTTP requests, while no policy that
/// protects some of the same services allows anything.
fn denies_requests_of_nothing(policy: &Policy, files: &[Parsed]) -> bool {
    let is_http = |requests: &crate::Requests| requests.protocol() == Some(Protocol::Http);
    let overlaps = |other: &Policy| other.service.covers(&policy.service) || policy.service.covers(&other.service);
    // What is rare comes first, since all policies are gone through at the end.
    policy.allow.is_empty()
        && policy.deny.iter().any(|rule| is_http(&rule.requests))
        && policies(files).all(|(_, other)| other.policy.allow.is_empty() || !overlaps(&other.policy))
}

/// At most eight items, for messages.
fn listed<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    const SHOWN: usize = 8;
    let mut items = items.into_iter();
    let mut shown: Vec<String> = items.by_ref().take(SHOWN).map(|item| item.to_string()).collect();
    let hidden = items.count();
    if hidden > 0 {
        shown.push(format!("{hidden} more"));
    }
    if shown.is_empty() {
        return "none".to_owned();
    }
    shown.join(", ")
}

#[cfg(test)]
mod tests;
