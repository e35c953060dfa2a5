//! Policies of a given number of rules, and who calls under them.
//!
//! Invariant: each caller, path or gRPC method of `0..rules` is allowed by
//! exactly one rule, which is a rule of its own; [`stranger`] by none.

use watchword_identity::SpiffeId;
use watchword_policy::{Callers, GrpcMatch, HttpMatch, IdPattern, Policy, Principal, Requests, Rule};

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

/// All rules in one policy of [`ORDERS`] and for one caller, [`caller`] 0: each
/// allows to read what is below one [`path`].
#[must_use]
pub fn many_paths(rules: usize) -> Vec<Policy> {
    let requests = |number| Requests::Http(vec![reading(&format!("/api/v1/things-{number}/*"))]);
    one_policy((0..rules).map(|number| rule_for(number, 0, requests(number))))
}

/// All rules in one policy of [`ORDERS`]: each allows one caller to read what
/// is below [`path`] 0.
#[must_use]
pub fn many_readers(rules: usize) -> Vec<Policy> {
    let requests = || Requests::Http(vec![reading("/api/v1/things-0/*")]);
    one_policy((0..rules).map(|number| rule_for(number, number, requests())))
}

/// All rules in one policy of [`ORDERS`] and for one caller, [`caller`] 0: each
/// allows one gRPC method, ten of them to a service.
#[must_use]
pub fn many_methods(rules: usize) -> Vec<Policy> {
    let requests = |number| {
        let item = GrpcMatch {
            service: format!("shop.v1.Service{}", number / 10).parse().expect("a service"),
            methods: vec![format!("Method{}", number % 10).parse().expect("a method")],
        };
        Requests::Grpc(vec![item])
    };
    one_policy((0..rules).map(|number| rule_for(number, 0, requests(number))))
}

/// A path that a rule of [`many_paths`] is about.
#[must_use]
pub fn path(number: usize) -> String {
    format!("/api/v1/things-{number}/parts/7")
}

/// The path of a call that a rule of [`many_methods`] is about.
#[must_use]
pub fn grpc_path(number: usize) -> String {
    format!("/shop.v1.Service{}/Method{}", number / 10, number % 10)
}

/// A service of [`many_services`].
#[must_use]
pub fn service(number: usize) -> SpiffeId {
    id(&format!("spiffe://example.org/shop/service-{number}"))
}

/// A caller whom one rule allows.
#[must_use]
pub fn caller(number: usize) -> Principal {
    Principal::Workload(id(&caller_id(number)))
}

/// A caller whom no rule allows.
#[must_use]
pub fn stranger() -> Principal {
    Principal::Workload(id("spiffe://example.org/lab/somebody"))
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
        from: vec![callers(&caller_id(number))],
        ports: vec![PORT],
        requests: Requests::All,
    }
}

fn rule_for(number: usize, of_caller: usize, requests: Requests) -> Rule {
    Rule {
        from: vec![callers(&caller_id(of_caller))],
        requests,
        ..rule(number)
    }
}

fn reading(path: &str) -> HttpMatch {
    HttpMatch {
        methods: vec!["GET".parse().expect("a method")],
        paths: vec![path.parse().expect("a path")],
        ..HttpMatch::default()
    }
}

fn one_policy(rules: impl Iterator<Item = Rule>) -> Vec<Policy> {
    vec![policy("orders", ORDERS, rules.collect())]
}

fn policy(name: &str, service: &str, allow: Vec<Rule>) -> Policy {
    let nobody = Rule {
        name: "not from the lab".to_owned(),
        from: vec![callers("spiffe://example.org/lab/*")],
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

fn callers(text: &str) -> Callers {
    Callers::Workloads(pattern(text))
}

fn pattern(text: &str) -> IdPattern {
    text.parse().expect("a pattern")
}
