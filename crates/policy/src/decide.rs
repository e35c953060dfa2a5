//! A compiled set of policies, and its decision on a call or a request.
//!
//! Semantics: default deny; deny beats allow over all enforcing policies of
//! the service; a service that no policy names is denied. `audit` belongs to a
//! policy: where all policies of a service are audit, everything passes; as
//! soon as one enforces, only enforcing ones decide. In both cases it is told
//! whether the call would be denied if the audit policies were enforced too.
//!
//! In strict mode, which is the default, who has no identity is denied before any policy is asked.
//!
//! Invariants: a `PolicySet` never changes; a decision costs the same with ten
//! rules as with ten thousand, and allocates nothing (what stays linear stands
//! in `path_trie` and `conditions`). Where several rules match, the first one in the
//! order of the set is named.

mod blocks;
mod conditions;
mod decision;
mod effect;
mod path_trie;
mod path_view;
mod table;

use std::sync::Arc;

pub use decision::{Call, Decision, Denial, Gate, Reason, Request, Verdict};
use effect::{Effect, RuleOrder};
use table::{Asked, Question, Table};

use crate::id_map::IdMap;
use crate::model::Policy;
use crate::principal::{Mode, Principal};

/// Policies, compiled. The default one is empty and so denies everything.
#[derive(Clone, Debug, Default)]
pub struct PolicySet {
    mode: Mode,
    services: IdMap<Protection>,
    policies: Vec<Arc<str>>,
    /// By their order.
    rules: Vec<NamedRule>,
}

impl PolicySet {
    /// Compiles `policies`. Their order only decides which rule is named where
    /// several match.
    #[must_use]
    pub fn new(policies: Vec<Policy>) -> Self {
        let mut set = Self::default();
        for policy in policies {
            let name: Arc<str> = policy.name.into();
            let protection = set.services.entry(&policy.service);
            let side = if policy.audit {
                &mut protection.audit
            } else {
                &mut protection.enforcing
            };
            side.first.get_or_insert(PolicyOrder(set.policies.len()));
            set.policies.push(Arc::clone(&name));
            for (table, list) in [(&mut side.deny, policy.deny), (&mut side.allow, policy.allow)] {
                for rule in list {
                    table.insert(RuleOrder(set.rules.len()), &rule);
                    set.rules.push(NamedRule {
                        policy: Arc::clone(&name),
                        rule: rule.name.into(),
                    });
                }
            }
        }
        set
    }

    /// The same in another mode than strict.
    #[must_use]
    pub fn in_mode(self, mode: Mode) -> Self {
        Self { mode, ..self }
    }

    /// The mode that they are for.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Decides on a connection to a `tcp` port. On another port, where
    /// [`Self::gate`] is what to ask, every rule for requests that could deny
    /// some counts as if it denied all.
    #[must_use]
    pub fn decide(&self, call: &Call<'_>) -> Decision {
        self.judge(call, Asked::Connection)
    }

    /// Decides on a connection to an `http` or `grpc` port, before any request.
    #[must_use]
    pub fn gate(&self, call: &Call<'_>) -> Gate {
        if self.refuses_unjudged(call) {
            return Gate::Closed(self.decision(Verdict::Deny, Reason::StrictMode, By::Nothing));
        }
        let (enforcing, audit) = self.find(call, Asked::Gate);
        if enforcing.first.is_none() {
            return if audit.first.is_some() {
                Gate::Open
            } else {
                Gate::Futile(Reason::NoPolicy)
            };
        }
        if enforcing.deny.is_some() {
            return Gate::Closed(self.decide_enforcing(&enforcing, &audit));
        }
        if enforcing.allow.is_some() {
            Gate::Open
        } else {
            Gate::Futile(Reason::NoAllowRule)
        }
    }

    /// Decides on one request on such a connection. Allocates nothing.
    #[must_use]
    pub fn decide_request(&self, call: &Call<'_>, request: &Request<'_>) -> Decision {
        self.judge(call, Asked::Request(request))
    }

    fn judge(&self, call: &Call<'_>, asked: Asked<'_>) -> Decision {
        if self.refuses_unjudged(call) {
            return self.decision(Verdict::Deny, Reason::StrictMode, By::Nothing);
        }
        let (enforcing, audit) = self.find(call, asked);
        if enforcing.first.is_some() {
            return self.decide_enforcing(&enforcing, &audit);
        }
        if audit.first.is_some() {
            return self.pass_audited(&audit);
        }
        self.decision(Verdict::Deny, Reason::NoPolicy, By::Nothing)
    }

    /// Also where only audit policies name the service.
    fn refuses_unjudged(&self, call: &Call<'_>) -> bool {
        self.mode == Mode::Strict && *call.peer == Principal::Unauthenticated
    }

    /// What concerns the call, of enforcing and of audit policies.
    fn find(&self, call: &Call<'_>, asked: Asked<'_>) -> (Found, Found) {
        let mut enforcing = Found::default();
        let mut audit = Found::default();
        for protection in self.services.matching(call.service) {
            enforcing.add(&protection.enforcing, call, asked);
            audit.add(&protection.audit, call, asked);
        }
        (enforcing, audit)
    }

    fn decide_enforcing(&self, enforcing: &Found, audit: &Found) -> Decision {
        match (enforcing.deny, enforcing.allow) {
            (Some(deny), _) => self.decision(Verdict::Deny, Reason::DenyRule, By::Rule(deny)),
            (None, Some(allow)) => Decision {
                // What an enforcing policy allows, only a deny rule can take back.
                would_deny: audit.deny.map(|deny| self.denial(Reason::DenyRule, By::Rule(deny))),
                ..self.decision(Verdict::Allow, Reason::AllowRule, By::Rule(allow))
            },
            (None, None) => self.decision(Verdict::Deny, Reason::NoAllowRule, By::policy(enforcing.first)),
        }
    }

    fn pass_audited(&self, audit: &Found) -> Decision {
        let first = By::policy(audit.first);
        let (by, would_deny) = match (audit.deny, audit.allow) {
            (Some(deny), _) => (first, Some(self.denial(Reason::DenyRule, By::Rule(deny)))),
            (None, Some(allow)) => (By::Rule(allow), None),
            (None, None) => (first, Some(self.denial(Reason::NoAllowRule, first))),
        };
        Decision {
            would_deny,
            ..self.decision(Verdict::Allow, Reason::AuditOnly, by)
        }
    }

    fn decision(&self, verdict: Verdict, reason: Reason, by: By) -> Decision {
        let (policy, rule) = self.names(by);
        Decision {
            verdict,
            reason,
            policy,
            rule,
            would_deny: None,
        }
    }

    fn denial(&self, reason: Reason, by: By) -> Denial {
        let (policy, rule) = self.names(by);
        Denial { reason, policy, rule }
    }

    /// Of policy and rule.
    fn names(&self, by: By) -> (Option<Arc<str>>, Option<Arc<str>>) {
        match by {
            By::Nothing => (None, None),
            By::Policy(order) => (self.policies.get(order.0).cloned(), None),
            By::Rule(order) => {
                let named = self.rules.get(order.0);
                (
                    named.map(|named| Arc::clone(&named.policy)),
                    named.map(|named| Arc::clone(&named.rule)),
                )
            }
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
    first: Option<PolicyOrder>,
    deny: Table,
    allow: Table,
}

/// Which policy it is in the order of the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct PolicyOrder(usize);

#[derive(Clone, Debug)]
struct NamedRule {
    policy: Arc<str>,
    rule: Arc<str>,
}

/// What a decision names.
#[derive(Clone, Copy)]
enum By {
    Nothing,
    Policy(PolicyOrder),
    Rule(RuleOrder),
}

impl By {
    fn policy(order: Option<PolicyOrder>) -> Self {
        order.map_or(Self::Nothing, Self::Policy)
    }
}

/// The first policy and rules that concern a call, over all protections of
/// its service.
#[derive(Default)]
struct Found {
    first: Option<PolicyOrder>,
    deny: Option<RuleOrder>,
    allow: Option<RuleOrder>,
}

impl Found {
    fn add(&mut self, side: &Side, call: &Call<'_>, asked: Asked<'_>) {
        if side.first.is_none() {
            return;
        }
        self.first = earlier(self.first, side.first);
        let question = |effect| Question { effect, call, asked };
        self.deny = earlier(self.deny, side.deny.first_match(&question(Effect::Deny)));
        self.allow = earlier(self.allow, side.allow.first_match(&question(Effect::Allow)));
    }
}

fn earlier<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
    a.into_iter().chain(b).min()
}

#[cfg(test)]
mod tests;
