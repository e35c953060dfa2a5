//! Allow rules of which deny rules leave nothing.
//!
//! Invariant: what is reported can never match. Not everything that can never
//! match is reported: each alternative of the allow rule (a caller, a port, a
//! path or a gRPC method) must be covered by one item of one deny rule.

use super::policies;
use crate::diagnostic::{Diagnostic, Report};
use crate::id_map::IdMap;
use crate::model::Rule;
use crate::parse::{Parsed, PlacedRule};
use crate::principal::Callers;
use crate::requests::{GrpcMatch, GrpcMethod, HttpMatch, PathPattern, Requests};

/// Reports allow rules that are shadowed by deny rules of the same policy.
pub(crate) fn report_shadowed(allow: &[PlacedRule], deny: &[PlacedRule], report: &mut Report) {
    let mut denied = DenyRules::default();
    for (rule, _) in deny {
        denied.add(None, rule);
    }
    for (rule, places) in allow {
        if let Some(shadows) = shadows(rule, &[&denied]) {
            report.error(places.rule, message(rule, &shadows));
        }
    }
}

/// Reports those that are shadowed by deny rules of all policies together. An
/// enforcing policy shadows all allow rules of the services that it protects,
/// an audit policy only those of audit policies.
pub(super) fn check(files: &[Parsed], findings: &mut Vec<Diagnostic>) {
    let mut enforcing: IdMap<DenyRules<'_>> = IdMap::default();
    let mut audit: IdMap<DenyRules<'_>> = IdMap::default();
    for (_, parsed) in policies(files) {
        let policy = &parsed.policy;
        let map = if policy.audit { &mut audit } else { &mut enforcing };
        for rule in &policy.deny {
            map.entry(&policy.service).add(Some(&policy.name), rule);
        }
    }
    for (file, parsed) in policies(files) {
        let policy = &parsed.policy;
        let mut denied: Vec<&DenyRules<'_>> = enforcing.covering(&policy.service).collect();
        if policy.audit {
            denied.extend(audit.covering(&policy.service));
        }
        for (rule, places) in policy.allow.iter().zip(&parsed.allow_at) {
            if let Some(shadows) = shadows(rule, &denied) {
                findings.push(Diagnostic::error(file, places.rule, message(rule, &shadows)));
            }
        }
    }
}

/// Deny rules by whom they are about.
#[derive(Default)]
struct DenyRules<'p> {
    by_caller: IdMap<Vec<DenyRule<'p>>>,
    unauthenticated: Vec<DenyRule<'p>>,
}

#[derive(Clone, Copy)]
struct DenyRule<'p> {
    /// Nothing where it is the allow rule's own.
    policy: Option<&'p str>,
    rule: &'p Rule,
}

impl<'p> DenyRules<'p> {
    fn add(&mut self, policy: Option<&'p str>, rule: &'p Rule) {
        for callers in &rule.from {
            let rules = match callers {
                Callers::Workloads(pattern) => self.by_caller.entry(pattern),
                Callers::Unauthenticated => &mut self.unauthenticated,
            };
            rules.push(DenyRule { policy, rule });
        }
    }

    /// Those that are about all of `callers`.
    fn covering(&self, callers: &Callers) -> impl Iterator<Item = DenyRule<'p>> {
        let (pattern, anybody) = match callers {
            Callers::Workloads(pattern) => (Some(pattern), None),
            Callers::Unauthenticated => (None, Some(&self.unauthenticated)),
        };
        let by_id = pattern.into_iter().flat_map(|pattern| self.by_caller.covering(pattern));
        by_id.chain(anybody).flatten().copied()
    }
}

impl DenyRule<'_> {
    fn name(self) -> String {
        match self.policy {
            Some(policy) => format!("`{}` of policy `{policy}`", self.rule.name),
            None => format!("`{}`", self.rule.name),
        }
    }
}

fn message(rule: &Rule, shadows: &[String]) -> String {
    format!(
        "allow rule `{}` can never match, for deny beats allow: it is shadowed by deny rule {}; remove one",
        rule.name,
        shadows.join(" and ")
    )
}

/// The names of the deny rules that together cover all of `rule`, if they do.
fn shadows(rule: &Rule, denied: &[&DenyRules<'_>]) -> Option<Vec<String>> {
    // One that covers no named port stands for "all ports".
    let ports: Vec<Option<u16>> = match rule.ports.as_slice() {
        [] => vec![None],
        ports => ports.iter().copied().map(Some).collect(),
    };
    let alternatives = alternatives(&rule.requests);
    let mut names: Vec<String> = Vec::new();
    for from in &rule.from {
        for port in &ports {
            for alternative in &alternatives {
                let name = covering(denied, from, *port, alternative)?.name();
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
    }
    Some(names)
}

/// The first deny rule that covers all of these calls.
fn covering<'p>(
    denied: &[&DenyRules<'p>],
    from: &Callers,
    port: Option<u16>,
    alternative: &Alternative<'_>,
) -> Option<DenyRule<'p>> {
    let mut candidates = denied.iter().flat_map(|denied| denied.covering(from));
    candidates.find(|candidate| {
        let rule = candidate.rule;
        let covers_port = rule.ports.is_empty() || port.is_some_and(|port| rule.ports.contains(&port));
        covers_port && alternative.is_covered_by(&rule.requests)
    })
}

/// A part of what a rule allows.
enum Alternative<'r> {
    All,
    /// With one of its paths, or all of them.
    Http(&'r HttpMatch, Option<&'r PathPattern>),
    /// With one of its methods, or all of them.
    Grpc(&'r GrpcMatch, Option<&'r GrpcMethod>),
}

fn alternatives(requests: &Requests) -> Vec<Alternative<'_>> {
    let mut alternatives = Vec::new();
    match requests {
        Requests::All => alternatives.push(Alternative::All),
        Requests::Http(items) => {
            for item in items {
                alternatives.extend(each_or_none(&item.paths).map(|path| Alternative::Http(item, path)));
            }
        }
        Requests::Grpc(items) => {
            for item in items {
                alternatives.extend(each_or_none(&item.methods).map(|method| Alternative::Grpc(item, method)));
            }
        }
    }
    alternatives
}

/// An empty list means all.
fn each_or_none<T>(list: &[T]) -> impl Iterator<Item = Option<&T>> {
    let none = list.is_empty().then_some(None);
    none.into_iter().chain(list.iter().map(Some))
}

impl Alternative<'_> {
    fn is_covered_by(&self, denied: &Requests) -> bool {
        match (self, denied) {
            (_, Requests::All) => true,
            (Self::Http(item, path), Requests::Http(denied)) => {
                denied.iter().any(|denied| http_covers(denied, item, *path))
            }
            (Self::Grpc(item, method), Requests::Grpc(denied)) => denied.iter().any(|denied| {
                let covers_method = method.is_some_and(|method| denied.methods.contains(method));
                denied.service == item.service && (denied.methods.is_empty() || covers_method)
            }),
            _ => false,
        }
    }
}

fn http_covers(denied: &HttpMatch, item: &HttpMatch, path: Option<&PathPattern>) -> bool {
    let paths =
        denied.paths.is_empty() || path.is_some_and(|path| denied.paths.iter().any(|denied| denied.covers(path)));
    let headers = denied
        .headers
        .iter()
        .all(|denied| item.headers.iter().any(|allowed| denied.follows_from(allowed)));
    paths && headers && is_superset(&denied.methods, &item.methods) && is_superset(&denied.hosts, &item.hosts)
}

/// Of lists of which an empty one means all.
fn is_superset<T: PartialEq>(wide: &[T], narrow: &[T]) -> bool {
    wide.is_empty() || (!narrow.is_empty() && narrow.iter().all(|item| wide.contains(item)))
}
