#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod naive;
mod requests;

use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, prop_assert_eq, prop_oneof, proptest};
use spiffe::SpiffeId;

use super::{Call, Decision, Gate, PolicySet, Reason, Verdict};
use crate::model::{Policy, Rule};
use crate::principal::{Callers, Mode, Principal};
use crate::protocol::Protocol;
use crate::requests::Requests;

fn id(path: &str) -> SpiffeId {
    SpiffeId::new(format!("spiffe://td{path}")).unwrap()
}

/// Who calls; `?` has proved nothing.
fn principal(path: &str) -> Principal {
    match path {
        "?" => Principal::Unauthenticated,
        path => Principal::Workload(id(path)),
    }
}

/// In `from`, `?` is who has proved nothing.
fn rule(name: &str, from: &[&str], ports: &[u16]) -> Rule {
    Rule {
        name: name.to_owned(),
        from: from
            .iter()
            .map(|path| match *path {
                "?" => Callers::Unauthenticated,
                path => format!("spiffe://td{path}").parse().unwrap(),
            })
            .collect(),
        ports: ports.to_vec(),
        requests: Requests::All,
    }
}

fn policy(name: &str, service: &str, allow: Vec<Rule>, deny: Vec<Rule>) -> Policy {
    Policy {
        name: name.to_owned(),
        service: format!("spiffe://td{service}").parse().unwrap(),
        allow,
        deny,
        audit: false,
    }
}

fn audit(policy: Policy) -> Policy {
    Policy { audit: true, ..policy }
}

fn decide(set: &[Policy], peer: &str, port: u16) -> Decision {
    PolicySet::new(set.to_vec()).decide(&Call {
        service: &id("/orders"),
        peer: &principal(peer),
        port,
        protocol: Protocol::Tcp,
    })
}

/// Verdict, reason, and `policy/rule` of a decision.
fn told(decision: &Decision) -> (Verdict, Reason, String) {
    let name = |part: &Option<std::sync::Arc<str>>| part.as_deref().unwrap_or("-").to_owned();
    let by = format!("{}/{}", name(&decision.policy), name(&decision.rule));
    (decision.verdict, decision.reason, by)
}

#[track_caller]
fn assert_told(decision: &Decision, verdict: Verdict, reason: Reason, by: &str) {
    assert_eq!(told(decision), (verdict, reason, by.to_owned()));
}

#[track_caller]
fn assert_would_deny(decision: &Decision, reason: Reason, by: &str) {
    let denial = decision.would_deny.clone().expect("a recorded denial");
    let recorded = Decision {
        verdict: Verdict::Deny,
        reason: denial.reason,
        policy: denial.policy,
        rule: denial.rule,
        would_deny: None,
    };
    assert_told(&recorded, Verdict::Deny, reason, by);
}

#[test]
fn nothing_is_allowed_unless_a_rule_says_so() {
    let set = [policy("p", "/orders", vec![rule("web", &["/web"], &[8080])], vec![])];
    assert_told(&decide(&set, "/web", 8080), Verdict::Allow, Reason::AllowRule, "p/web");
    assert_told(&decide(&set, "/web", 8081), Verdict::Deny, Reason::NoAllowRule, "p/-");
    assert_told(&decide(&set, "/else", 8080), Verdict::Deny, Reason::NoAllowRule, "p/-");
    assert_told(&decide(&[], "/web", 8080), Verdict::Deny, Reason::NoPolicy, "-/-");
    let other = [policy("p", "/other", vec![rule("web", &["/web"], &[])], vec![])];
    assert_told(&decide(&other, "/web", 8080), Verdict::Deny, Reason::NoPolicy, "-/-");
}

#[test]
fn deny_beats_allow_across_policies() {
    let set = [
        policy("a", "/orders", vec![rule("web", &["/web"], &[])], vec![]),
        policy("b", "/*", vec![], vec![rule("not 22", &["/*"], &[22])]),
    ];
    assert_told(&decide(&set, "/web", 22), Verdict::Deny, Reason::DenyRule, "b/not 22");
    assert_told(&decide(&set, "/web", 80), Verdict::Allow, Reason::AllowRule, "a/web");
}

#[test]
fn the_first_matching_rule_is_named() {
    let set = [policy(
        "p",
        "/orders",
        vec![
            rule("below", &["/team/*"], &[]),
            rule("exact", &["/team/web"], &[]),
            rule("port", &["/team/web"], &[80]),
        ],
        vec![],
    )];
    assert_told(
        &decide(&set, "/team/web", 80),
        Verdict::Allow,
        Reason::AllowRule,
        "p/below",
    );
}

#[test]
fn a_service_with_audit_policies_only_lets_everything_pass_and_records() {
    let allow = vec![rule("web", &["/web"], &[])];
    let deny = vec![rule("lab", &["/lab"], &[])];
    let set = [audit(policy("p", "/orders", allow, deny))];
    let web = decide(&set, "/web", 80);
    assert_told(&web, Verdict::Allow, Reason::AuditOnly, "p/web");
    assert_eq!(web.would_deny, None);
    let lab = decide(&set, "/lab", 80);
    assert_told(&lab, Verdict::Allow, Reason::AuditOnly, "p/-");
    assert_would_deny(&lab, Reason::DenyRule, "p/lab");
    let unknown = decide(&set, "/unknown", 80);
    assert_told(&unknown, Verdict::Allow, Reason::AuditOnly, "p/-");
    assert_would_deny(&unknown, Reason::NoAllowRule, "p/-");
}

#[test]
fn one_enforcing_policy_makes_audit_ones_only_record() {
    let set = [
        audit(policy(
            "trial",
            "/orders",
            vec![rule("new", &["/new"], &[])],
            vec![rule("no lab", &["/lab"], &[])],
        )),
        policy("live", "/orders", vec![rule("all", &["/web", "/lab"], &[])], vec![]),
    ];
    let web = decide(&set, "/web", 80);
    assert_told(&web, Verdict::Allow, Reason::AllowRule, "live/all");
    assert_eq!(web.would_deny, None);
    let lab = decide(&set, "/lab", 80);
    assert_told(&lab, Verdict::Allow, Reason::AllowRule, "live/all");
    assert_would_deny(&lab, Reason::DenyRule, "trial/no lab");
    let new = decide(&set, "/new", 80);
    assert_told(&new, Verdict::Deny, Reason::NoAllowRule, "live/-");
    assert_eq!(new.would_deny, None);
}

#[test]
fn an_enforcing_policy_on_a_prefix_ends_the_audit_of_an_exact_one() {
    let set = [
        audit(policy("trial", "/orders", vec![], vec![])),
        policy("live", "/*", vec![], vec![]),
    ];
    assert_told(&decide(&set, "/web", 80), Verdict::Deny, Reason::NoAllowRule, "live/-");
}

#[test]
fn who_has_proved_nothing_is_judged_in_permissive_mode_by_rules_that_say_so() {
    let everybody = rule("everybody", &["/*"], &[]);
    let anybody = rule("anybody", &["?"], &[80]);
    let not_there = rule("not there", &["?"], &[81]);
    let set = [policy("p", "/orders", vec![everybody, anybody], vec![not_there])];
    let ask = |set: &[Policy], mode, peer, port| {
        let call = Call {
            service: &id("/orders"),
            peer: &principal(peer),
            port,
            protocol: Protocol::Tcp,
        };
        let set = PolicySet::new(set.to_vec()).in_mode(mode);
        (set.decide(&call), set.gate(&call))
    };
    let permissive = |peer, port| ask(&set, Mode::Permissive, peer, port).0;
    assert_told(&permissive("?", 80), Verdict::Allow, Reason::AllowRule, "p/anybody");
    assert_told(&permissive("?", 81), Verdict::Deny, Reason::DenyRule, "p/not there");
    // What everybody may is not what nobody in particular may.
    assert_told(&permissive("?", 82), Verdict::Deny, Reason::NoAllowRule, "p/-");
    assert_told(
        &permissive("/web", 81),
        Verdict::Allow,
        Reason::AllowRule,
        "p/everybody",
    );
    // In strict mode not even where nothing is enforced.
    let open = [audit(policy("p", "/orders", vec![], vec![]))];
    for set in [&set[..], &open, &[]] {
        let (decision, gate) = ask(set, Mode::Strict, "?", 80);
        assert_told(&decision, Verdict::Deny, Reason::StrictMode, "-/-");
        assert_eq!(gate, Gate::Closed(decision));
    }
}

fn any_path() -> impl Strategy<Value = String> {
    vec(prop_oneof![Just("a"), Just("b"), Just("ab")], 1..4).prop_map(|parts| format!("/{}", parts.join("/")))
}

fn any_pattern() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => any_path(),
        2 => any_path().prop_map(|path| format!("{path}/*")),
        1 => Just("/*".to_owned()),
    ]
}

fn any_peer() -> impl Strategy<Value = String> {
    prop_oneof![4 => any_path(), 1 => Just("?".to_owned())]
}

fn any_callers() -> impl Strategy<Value = String> {
    prop_oneof![5 => any_pattern(), 1 => Just("?".to_owned())]
}

fn any_rules() -> impl Strategy<Value = Vec<Rule>> {
    let rule = (vec(any_callers(), 1..3), vec(1_u16..4, 0..3));
    vec(rule, 0..4).prop_map(|rules| {
        let numbered = rules.into_iter().enumerate();
        numbered
            .map(|(index, (from, ports))| {
                let from: Vec<&str> = from.iter().map(String::as_str).collect();
                rule_named(index, &from, &ports)
            })
            .collect()
    })
}

fn rule_named(index: usize, from: &[&str], ports: &[u16]) -> Rule {
    rule(&format!("r{index}"), from, ports)
}

fn any_set() -> impl Strategy<Value = Vec<Policy>> {
    let one = (any_pattern(), any_rules(), any_rules(), proptest::bool::ANY);
    vec(one, 0..6).prop_map(|policies| {
        let numbered = policies.into_iter().enumerate();
        numbered
            .map(|(index, (service, allow, deny, audit))| Policy {
                audit,
                ..policy(&format!("p{index}"), &service, allow, deny)
            })
            .collect()
    })
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(2000))]

    #[test]
    fn decides_as_reading_all_rules_would(
        set in any_set(),
        service in any_path(),
        peer in any_peer(),
        port in 1_u16..5,
    ) {
        let (service, peer) = (id(&service), principal(&peer));
        let call = Call { service: &service, peer: &peer, port, protocol: Protocol::Tcp };
        let decision = PolicySet::new(set.clone()).in_mode(Mode::Permissive).decide(&call);
        prop_assert_eq!(decision, naive::decide(&set, &call, naive::Asked::Connection));
    }

    #[test]
    fn a_deny_rule_more_never_allows_more(
        set in any_set(),
        denied in any_rules(),
        peer in any_peer(),
        port in 1_u16..5,
    ) {
        let (service, peer) = (id("/a"), principal(&peer));
        let call = Call { service: &service, peer: &peer, port, protocol: Protocol::Tcp };
        let before = PolicySet::new(set.clone()).in_mode(Mode::Permissive).decide(&call);
        let mut stricter = set;
        for policy in &mut stricter {
            policy.deny.extend(denied.iter().cloned());
        }
        let after = PolicySet::new(stricter).in_mode(Mode::Permissive).decide(&call);
        prop_assert_eq!(before.is_allowed() || !after.is_allowed(), true);
    }
}
