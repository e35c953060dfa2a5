//! A compiled set of policies, and its decision on a call.
//!
//! Semantics: default deny; deny beats allow over all enforcing policies of
//! the service; a service that no policy names is denied. `audit` belongs to a
//! policy: where all policies of a service are audit, everything passes; as
//! soon as one enforces, only enforcing ones decide. In both cases it is told
//! whether the call would be denied if the audit policies were enforced too.
//!
//! Invariants: a `PolicySet` never changes; a decision costs the same with ten
//! rules as with ten thousand, and allocates nothing. Where several rules
//! match, the first one in the order of the set is named.

use std::collections::HashMap;
use std::sync::Arc;

use spiffe::SpiffeId;

use crate::id_map::IdMap;
use crate::model::{Policy, Rule};

/// What is to be decided: may `peer` open a connection to `port` of `service`?
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Who is called.
    pub service: &'a SpiffeId,
    /// Who calls, authenticated.
    pub peer: &'a SpiffeId,
    /// The port of the service.
    pub port: u16,
}

/// Whether a call passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It passes.
    Allow,
    /// It is refused.
    Deny,
}

impl Verdict {
    /// `allow` or `deny`: the label in logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// What made a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// An allow rule matched, and no deny rule.
    AllowRule,
    /// A deny rule matched.
    DenyRule,
    /// The service is protected, and no allow rule matched.
    NoAllowRule,
    /// No policy names the service.
    NoPolicy,
    /// Only audit policies name the service, so everything passes.
    AuditOnly,
}

impl Reason {
    /// The label in logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AllowRule => "allow-rule",
            Self::DenyRule => "deny-rule",
            Self::NoAllowRule => "no-allow-rule",
            Self::NoPolicy => "no-policy",
            Self::AuditOnly => "audit-only",
        }
    }
}

/// The outcome for a call, with the rule that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether it passes.
    pub verdict: Verdict,
    /// What made the decision.
    pub reason: Reason,
    /// The policy of `rule`; without a rule the first one that protects the
    /// service; nothing where none does.
    pub policy: Option<Arc<str>>,
    /// The rule that matched.
    pub rule: Option<Arc<str>>,
    /// The call passes, but would be denied if the audit policies of the
    /// service were enforced: for the record.
    pub would_deny: Option<Denial>,
}

impl Decision {
    /// Whether the call passes.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.verdict == Verdict::Allow
    }
}

/// A denial that is only recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// [`Reason::DenyRule`] or [`Reason::NoAllowRule`].
    pub reason: Reason,
    /// As in [`Decision`].
    pub policy: Option<Arc<str>>,
    /// As in [`Decision`].
    pub rule: Option<Arc<str>>,
}

/// Policies, compiled. The default one is empty and so denies everything.
#[derive(Clone, Debug, Default)]
pub struct PolicySet {
    services: IdMap<Protection>,
}

impl PolicySet {
    /// Compiles `policies`. Their order only decides which rule is named where
    /// several match.
    #[must_use]
    pub fn new(policies: Vec<Policy>) -> Self {
        let mut services: IdMap<Protection> = IdMap::default();
        let mut rules = 0;
        for (order, policy) in policies.into_iter().enumerate() {
            let name: Arc<str> = policy.name.into();
            let protection = services.entry(&policy.service);
            let side = if policy.audit {
                &mut protection.audit
            } else {
                &mut protection.enforcing
            };
            side.first.get_or_insert_with(|| Named {
                order,
                policy: Arc::clone(&name),
                rule: None,
            });
            for (table, list) in [(&mut side.deny, policy.deny), (&mut side.allow, policy.allow)] {
                for rule in list {
                    table.insert(rules, &name, rule);
                    rules += 1;
                }
            }
        }
        Self { services }
    }

    /// Decides on a call.
    #[must_use]
    pub fn decide(&self, call: &Call<'_>) -> Decision {
        let mut enforcing = Found::default();
        let mut audit = Found::default();
        for protection in self.services.matching(call.service) {
            enforcing.add(&protection.enforcing, call);
            audit.add(&protection.audit, call);
        }
        if enforcing.first.is_some() {
            return decide_enforcing(&enforcing, &audit);
        }
        if audit.first.is_some() {
            return pass_audited(&audit);
        }
        Decision {
            verdict: Verdict::Deny,
            reason: Reason::NoPolicy,
            policy: None,
            rule: None,
            would_deny: None,
        }
    }
}

/// All policies with the same `service`.
#[derive(Clone, Debug, Default)]
struct Protection {
    enforcing: Side,
    audit: Side,
}

/// The enforcing or the audit policies of a [`Protection`].
#[derive(Clone, Debug, Default)]
struct Side {
    first: Option<Named>,
    deny: Table,
    allow: Table,
}

/// A rule, or a policy as a whole, that can be named in a decision.
#[derive(Clone, Debug)]
struct Named {
    order: usize,
    policy: Arc<str>,
    rule: Option<Arc<str>>,
}

/// Rules by who calls, then by port.
#[derive(Clone, Debug, Default)]
struct Table {
    peers: IdMap<Ports>,
}

#[derive(Clone, Debug, Default)]
struct Ports {
    all: Option<Named>,
    one: HashMap<u16, Named>,
}

impl Table {
    /// Adds a rule, which must come after those that are there already.
    fn insert(&mut self, order: usize, policy: &Arc<str>, rule: Rule) {
        let named = Named {
            order,
            policy: Arc::clone(policy),
            rule: Some(rule.name.into()),
        };
        for pattern in &rule.from {
            let ports = self.peers.entry(pattern);
            if rule.ports.is_empty() {
                ports.all.get_or_insert_with(|| named.clone());
            }
            for port in &rule.ports {
                ports.one.entry(*port).or_insert_with(|| named.clone());
            }
        }
    }

    fn first_match<'s>(&'s self, call: &Call<'_>) -> Option<&'s Named> {
        let matching = self.peers.matching(call.peer);
        let named = matching.flat_map(|ports| ports.all.iter().chain(ports.one.get(&call.port)));
        named.min_by_key(|named| named.order)
    }
}

/// The first policy and rules that concern a call, over all protections of
/// its service.
#[derive(Default)]
struct Found<'s> {
    first: Option<&'s Named>,
    deny: Option<&'s Named>,
    allow: Option<&'s Named>,
}

impl<'s> Found<'s> {
    fn add(&mut self, side: &'s Side, call: &Call<'_>) {
        if side.first.is_none() {
            return;
        }
        self.first = earlier(self.first, side.first.as_ref());
        self.deny = earlier(self.deny, side.deny.first_match(call));
        self.allow = earlier(self.allow, side.allow.first_match(call));
    }
}

fn decide_enforcing(enforcing: &Found<'_>, audit: &Found<'_>) -> Decision {
    let (verdict, reason, named) = match (enforcing.deny, enforcing.allow) {
        (Some(deny), _) => (Verdict::Deny, Reason::DenyRule, Some(deny)),
        (None, Some(allow)) => (Verdict::Allow, Reason::AllowRule, Some(allow)),
        (None, None) => (Verdict::Deny, Reason::NoAllowRule, enforcing.first),
    };
    // What an enforcing policy allows, only a deny rule can take back.
    let would_deny = audit.deny.filter(|_| verdict == Verdict::Allow);
    decision(
        verdict,
        reason,
        named,
        would_deny.map(|deny| denial(Reason::DenyRule, deny)),
    )
}

fn pass_audited(audit: &Found<'_>) -> Decision {
    let would_deny = match (audit.deny, audit.allow, audit.first) {
        (Some(deny), ..) => Some(denial(Reason::DenyRule, deny)),
        (None, None, Some(first)) => Some(denial(Reason::NoAllowRule, first)),
        (None, Some(_), _) | (None, None, None) => None,
    };
    let named = match would_deny {
        Some(_) => audit.first,
        None => audit.allow,
    };
    decision(Verdict::Allow, Reason::AuditOnly, named, would_deny)
}

fn decision(verdict: Verdict, reason: Reason, named: Option<&Named>, would_deny: Option<Denial>) -> Decision {
    Decision {
        verdict,
        reason,
        policy: named.map(|named| Arc::clone(&named.policy)),
        rule: named.and_then(|named| named.rule.clone()),
        would_deny,
    }
}

fn denial(reason: Reason, named: &Named) -> Denial {
    Denial {
        reason,
        policy: Some(Arc::clone(&named.policy)),
        rule: named.rule.clone(),
    }
}

fn earlier<'s>(a: Option<&'s Named>, b: Option<&'s Named>) -> Option<&'s Named> {
    a.into_iter().chain(b).min_by_key(|named| named.order)
}

#[cfg(test)]
mod tests;
