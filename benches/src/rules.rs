//! Policies of a given number of rules, and who calls under them.
//!
//! Invariant: each caller of `0..rules` is allowed by exactly one rule, which
//! is a rule of its own; [`stranger`] by none.

use watchword_identity::SpiffeId;
use watchword_policy::{IdPattern, Policy, Requests, Rule};

use crate::mesh::{ORDERS, id};

/// The port that the rules allow.
pub const PORT: u16 = 8080;

/// All rules in one policy of one service, [`ORDERS`]; each allows one caller.
#[must_use]
pub fn one_service(rules: usize) -> Vec<Policy> {
    vec![policy("orders", ORDERS, (0..rules).map(rule).collect())]
}

/// The same rules, ten to a service: [`service`] 0 has those of the callers
/// 0 to 9, and so on.
#[must_use]
pub fn many_services(rules: usize) -> Vec<Policy> {
    let first_callers = (0..rules).step_by(10);
    first_callers
        .map(|first| {
            let allow = (first..rules.min(first + 10)).map(rule).collect();
            policy(&format!("policy-{first}"), &service(first / 10).to_string(), allow)
        })
        .collect()
}

/// A service of [`many_services`].
#[must_use]
pub fn service(number: usize) -> SpiffeId {
    id(&format!("spiffe://example.org/shop/service-{number}"))
}

/// A caller whom one rule allows.
#[must_use]
pub fn caller(number: usize) -> SpiffeId {
    id(&caller_id(number))
}

/// A caller whom no rule allows.
#[must_use]
pub fn stranger() -> SpiffeId {
    id("spiffe://example.org/lab/somebody")
}

/// `0..count`, each once, far from the order in which it was stored. `count`
/// must not be a multiple of 7919, a prime.
pub fn scattered(count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |step| step * 7919 % count)
}

fn caller_id(number: usize) -> String {
    format!("spiffe://example.org/shop/caller-{number}")
}

fn rule(number: usize) -> Rule {
    Rule {
        name: format!("rule-{number}"),
        from: vec![pattern(&caller_id(number))],
        ports: vec![PORT],
        requests: Requests::All,
    }
}

fn policy(name: &str, service: &str, allow: Vec<Rule>) -> Policy {
    let nobody = Rule {
        name: "not from the lab".to_owned(),
        from: vec![pattern("spiffe://example.org/lab/*")],
        ports: Vec::new(),
        requests: Requests::All,
    };
    Policy {
        name: name.to_owned(),
        service: pattern(service),
        allow,
        deny: vec![nobody],
        audit: false,
    }
}

fn pattern(text: &str) -> IdPattern {
    text.parse().expect("a pattern")
}
