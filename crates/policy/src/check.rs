//! Checks what no policy can see alone: the set as a whole, and the mesh that
//! it is written for.
//!
//! Invariant: pure; the caller says what the mesh is. Without that, ports and
//! services go unchecked, and the caller tells so.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use spiffe::{SpiffeId, TrustDomain};

use crate::diagnostic::{Diagnostic, Position};
use crate::model::Rule;
use crate::parse::{Parsed, ParsedPolicy, RulePlaces};
use crate::pattern::IdPattern;

/// What is known of the mesh that the policies are for.
#[derive(Clone, Debug, Default)]
pub struct MeshContext {
    /// The trust domains whose workloads can call or be called.
    pub trust_domains: BTreeSet<TrustDomain>,
    /// The services, with the ports that they declare.
    pub services: BTreeMap<SpiffeId, BTreeSet<u16>>,
}

/// Checks the policies of several files together: names are unique, and with
/// `context` each policy protects a service that there is, on ports that it
/// declares, from callers of known trust domains. Returns what is wrong, file
/// by file; nothing if all is well. The warnings of `parse` are not repeated.
#[must_use]
pub fn check_set(files: &[Parsed], context: Option<&MeshContext>) -> Vec<Diagnostic> {
    let mut findings = Vec::new();
    let mut names: HashMap<&str, (&str, Position)> = HashMap::new();
    for parsed in files {
        let file = parsed.file.as_str();
        for policy in &parsed.policies {
            let name = policy.policy.name.as_str();
            if let Some((other, at)) = names.get(name) {
                let message = format!(
                    "another policy is named `{name}` too, at {other}:{}:{}: names are unique over all files",
                    at.line, at.column
                );
                findings.push(Diagnostic::error(file, policy.name_at, message));
            } else {
                names.insert(name, (file, policy.name_at));
            }
            if let Some(context) = context {
                let mut against_mesh = AgainstMesh {
                    file,
                    context,
                    findings: &mut findings,
                };
                against_mesh.check(policy);
            }
        }
    }
    findings
}

struct AgainstMesh<'a> {
    file: &'a str,
    context: &'a MeshContext,
    findings: &'a mut Vec<Diagnostic>,
}

impl AgainstMesh<'_> {
    fn check(&mut self, parsed: &ParsedPolicy) {
        let service = &parsed.policy.service;
        let in_domain = self.check_trust_domain(service, parsed.service_at);
        let matched: Vec<(&SpiffeId, &BTreeSet<u16>)> = self
            .context
            .services
            .iter()
            .filter(|(id, _)| service.matches(id))
            .collect();
        if in_domain && matched.is_empty() {
            let known = listed(self.context.services.keys());
            let message = format!("no service of the mesh has the ID `{service}`: expected one of {known}");
            self.error(parsed.service_at, message);
        }
        let declared: Option<BTreeSet<u16>> =
            (!matched.is_empty()).then(|| matched.iter().flat_map(|(_, ports)| ports.iter().copied()).collect());
        let policy = &parsed.policy;
        let allow = policy.allow.iter().zip(&parsed.allow_at);
        let deny = policy.deny.iter().zip(&parsed.deny_at);
        for (rule, places) in allow.chain(deny) {
            self.check_rule(rule, places, declared.as_ref());
        }
    }

    /// `declared` is nothing where the service is not known.
    fn check_rule(&mut self, rule: &Rule, places: &RulePlaces, declared: Option<&BTreeSet<u16>>) {
        for (pattern, at) in rule.from.iter().zip(&places.from) {
            self.check_trust_domain(pattern, *at);
        }
        let Some(declared) = declared else {
            return;
        };
        for (port, at) in rule.ports.iter().zip(&places.ports) {
            if !declared.contains(port) {
                let message = format!(
                    "the service does not declare port {port}, so the rule can never match there: it declares {}",
                    listed(declared)
                );
                self.error(*at, message);
            }
        }
    }

    fn check_trust_domain(&mut self, pattern: &IdPattern, at: Position) -> bool {
        let known = self.context.trust_domains.contains(pattern.trust_domain());
        if !known {
            let message = format!(
                "`{pattern}` lies outside of the trust domains of the mesh: expected {}",
                listed(&self.context.trust_domains)
            );
            self.error(at, message);
        }
        known
    }

    fn error(&mut self, at: Position, message: String) {
        self.findings.push(Diagnostic::error(self.file, at, message));
    }
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
