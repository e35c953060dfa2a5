//! Policies against the mesh that they are for.

use std::collections::{BTreeMap, BTreeSet};

use spiffe::{SpiffeId, TrustDomain};

use super::listed;
use crate::diagnostic::{Diagnostic, Position};
use crate::model::Rule;
use crate::parse::{ParsedPolicy, RulePlaces};
use crate::pattern::IdPattern;
use crate::principal::{Callers, Mode};
use crate::protocol::Protocol;

/// What is known of the mesh that the policies are for.
#[derive(Clone, Debug, Default)]
pub struct MeshContext {
    /// The trust domains whose workloads can call or be called.
    pub trust_domains: BTreeSet<TrustDomain>,
    /// Those of them that are other meshes': their workloads can call, and
    /// nothing is known of which there are.
    pub partners: BTreeSet<TrustDomain>,
    /// The services, with the ports that they declare and what is spoken there:
    /// one protocol as a rule, several where services share an ID and differ.
    pub services: BTreeMap<SpiffeId, BTreeMap<u16, BTreeSet<Protocol>>>,
    /// IDs of workloads that are no service of the mesh, and may get a join
    /// token.
    pub registry: BTreeSet<SpiffeId>,
    /// Whether callers without an identity are judged.
    pub mode: Mode,
}

type Ports = BTreeMap<u16, BTreeSet<Protocol>>;

/// Adds what is wrong with a policy of `file` to `findings`.
pub(super) fn check(file: &str, parsed: &ParsedPolicy, context: &MeshContext, findings: &mut Vec<Diagnostic>) {
    let mut against_mesh = AgainstMesh {
        file,
        context,
        findings,
    };
    against_mesh.check(parsed);
}

struct AgainstMesh<'a> {
    file: &'a str,
    context: &'a MeshContext,
    findings: &'a mut Vec<Diagnostic>,
}

impl<'a> AgainstMesh<'a> {
    fn check(&mut self, parsed: &ParsedPolicy) {
        let service = &parsed.policy.service;
        let in_domain = self.check_trust_domain(service, parsed.service_at);
        let context: &'a MeshContext = self.context;
        let protected = context.services.iter().filter(|(id, _)| service.matches(id));
        let protected: Vec<(&SpiffeId, &Ports)> = protected.collect();
        if in_domain && protected.is_empty() {
            let known = listed(context.services.keys());
            let message = format!("no service of the mesh has the ID `{service}`: expected one of {known}");
            self.error(parsed.service_at, message);
        }
        let policy = &parsed.policy;
        let allow = policy.allow.iter().zip(&parsed.allow_at);
        let deny = policy.deny.iter().zip(&parsed.deny_at);
        for (rule, places) in allow.chain(deny) {
            for (callers, at) in rule.from.iter().zip(&places.from) {
                match callers {
                    Callers::Workloads(pattern) => self.check_caller(pattern, *at),
                    Callers::Unauthenticated => self.check_mode(*at),
                }
            }
            // Nothing is known of the ports of a service that is not known.
            if !protected.is_empty() {
                self.check_ports(rule, places, &protected);
                self.check_protocol(rule, places, &protected);
            }
        }
    }

    fn check_ports(&mut self, rule: &Rule, places: &RulePlaces, protected: &[(&SpiffeId, &Ports)]) {
        let declared: BTreeSet<u16> = protected.iter().flat_map(|(_, ports)| ports.keys().copied()).collect();
        for (port, at) in rule.ports.iter().zip(&places.ports) {
            if !declared.contains(port) {
                let message = format!(
                    "the service does not declare port {port}, so the rule can never match there: it declares {}",
                    listed(&declared)
                );
                self.error(*at, message);
            }
        }
    }

    /// A block is about ports that speak what it says.
    fn check_protocol(&mut self, rule: &Rule, places: &RulePlaces, protected: &[(&SpiffeId, &Ports)]) {
        let Some(expected) = rule.requests.protocol() else {
            return;
        };
        for (port, at) in rule.ports.iter().zip(&places.ports) {
            let other = protected.iter().find_map(|(id, ports)| {
                let spoken = ports.get(port)?.iter().find(|spoken| **spoken != expected)?;
                Some((id, *spoken))
            });
            if let Some((id, spoken)) = other {
                let message = format!(
                    "port {port} of {id} speaks {spoken}, so `{expected}` can't be judged there: name only ports that \
                     speak {expected}, or declare it as `{port}: {expected}` in the mesh file"
                );
                self.error(*at, message);
            }
        }
        let mut ports = protected.iter().flat_map(|(_, ports)| ports.values());
        if rule.ports.is_empty() && !ports.any(|spoken| spoken.contains(&expected)) {
            let declared: BTreeSet<String> = protected.iter().flat_map(|(_, ports)| with_protocols(ports)).collect();
            let message = format!(
                "no port of the service speaks {expected}, so the rule can never match: it declares {}",
                listed(declared)
            );
            self.error(places.requests, message);
        }
    }

    fn check_mode(&mut self, at: Position) {
        if self.context.mode == Mode::Strict {
            let message = "`unauthenticated` needs `mode: permissive` in the mesh file: in strict mode who has no \
                           SPIFFE ID is refused";
            self.error(at, message.to_owned());
        }
    }

    fn check_caller(&mut self, pattern: &IdPattern, at: Position) {
        if !self.check_trust_domain(pattern, at) || is_reserved(pattern) {
            return;
        }
        let context = self.context;
        if context.partners.contains(pattern.trust_domain()) {
            return;
        }
        let is_known = match pattern {
            IdPattern::Exact(id) => context.services.contains_key(id) || context.registry.contains(id),
            IdPattern::Prefix(_) => {
                let mut ids = context.services.keys().chain(&context.registry);
                ids.any(|id| pattern.matches(id))
            }
        };
        if !is_known {
            let message = format!(
                "`{pattern}` is no ID of a service or of `registry` in the mesh file: only a workload with a join \
                 token of its own can have it"
            );
            self.findings.push(Diagnostic::warning(self.file, at, message));
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

/// Whether it means parts of the mesh itself, which no mesh file names.
fn is_reserved(pattern: &IdPattern) -> bool {
    let path = match pattern {
        IdPattern::Exact(id) => id.path(),
        IdPattern::Prefix(prefix) => prefix.path(),
    };
    path.split('/').nth(1) == Some("watchword")
}

fn with_protocols(ports: &Ports) -> impl Iterator<Item = String> {
    ports.iter().map(|(port, spoken)| {
        let spoken: Vec<&str> = spoken.iter().map(|protocol| protocol.as_str()).collect();
        format!("{port} ({})", spoken.join(" and "))
    })
}
