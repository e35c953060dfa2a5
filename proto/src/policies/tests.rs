#![allow(clippy::unwrap_used)]

use watchword_policy::{
    Callers, GrpcMatch, HeaderCondition, HeaderMatch, HttpMatch, MAX_RULE_WEIGHT, Mode, Policy, Requests, Rule,
};

use super::{POLICY_SCHEMA, Policies, policies_from_proto, policy_set_to_proto};
use crate::control;
use crate::control::header_match::Condition;
use crate::control::rule::Requests as Sent;

fn rule(name: &str, requests: Requests) -> Rule {
    Rule {
        name: name.to_owned(),
        from: vec!["spiffe://td/web".parse().unwrap(), "spiffe://td/lab/*".parse().unwrap()],
        ports: vec![80, 65535],
        requests,
    }
}

fn http() -> HttpMatch {
    let header = |name, condition| HeaderMatch::new(name, condition).unwrap();
    HttpMatch {
        methods: vec!["GET".parse().unwrap()],
        paths: vec!["/a/*/b".parse().unwrap(), "/*".parse().unwrap()],
        hosts: vec!["shop".parse().unwrap(), "[::1]".parse().unwrap()],
        headers: vec![
            header("x-a", HeaderCondition::Exact("1".parse().unwrap())),
            header("x-b", HeaderCondition::Prefix("2 ".parse().unwrap())),
            header("x-c", HeaderCondition::Present(false)),
            header("x-d", HeaderCondition::Present(true)),
        ],
    }
}

fn grpc() -> GrpcMatch {
    GrpcMatch {
        service: "shop.Payments".parse().unwrap(),
        methods: vec!["Charge".parse().unwrap()],
    }
}

fn policy(name: &str, allow: Vec<Rule>, deny: Vec<Rule>) -> Policy {
    Policy {
        name: name.to_owned(),
        service: "spiffe://td/*".parse().unwrap(),
        allow,
        deny,
        audit: true,
    }
}

fn policies() -> Vec<Policy> {
    let some = HttpMatch {
        methods: vec!["PUT".parse().unwrap()],
        ..HttpMatch::default()
    };
    vec![
        policy(
            "one",
            vec![
                rule("http", Requests::Http(vec![http(), some])),
                rule("all", Requests::All),
            ],
            vec![rule("grpc", Requests::Grpc(vec![grpc()]))],
        ),
        policy("two", vec![], vec![]),
    ]
}

fn strict(policies: Vec<Policy>) -> Policies {
    Policies {
        mode: Mode::Strict,
        policies,
    }
}

#[test]
fn a_permissive_mode_is_never_dropped_by_an_older_proxy() {
    let mut anybody = rule("anybody", Requests::All);
    anybody.from.push(Callers::Unauthenticated);
    for policies in [vec![policy("one", vec![anybody], vec![])], vec![]] {
        let mode = Mode::Permissive;
        let message = policy_set_to_proto(mode, &policies);
        assert_eq!(message.schema, 3);
        assert_eq!(policies_from_proto(message).unwrap(), Policies { mode, policies });
    }
}

#[test]
fn a_mode_that_does_not_fit_is_refused() {
    type Change = fn(&mut control::PolicySet);
    let table: &[(Change, &str)] = &[
        (|set| set.mode = 7, "mode: unknown mode"),
        (
            |set| set.mode = control::Mode::Permissive.into(),
            "schema: only 3 has a permissive mode",
        ),
        (
            |set| set.policies[0].allow[0].from.push("unauthenticated".into()),
            "`unauthenticated` calls in permissive mode only",
        ),
    ];
    for (change, expected) in table {
        let mut message = policy_set_to_proto(Mode::Strict, &policies());
        change(&mut message);
        let error = policies_from_proto(message).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}: expected {expected}");
    }
}

#[test]
fn policies_survive_the_wire() {
    let message = policy_set_to_proto(Mode::Strict, &policies());
    assert_eq!(message.schema, 2);
    assert_eq!(policies_from_proto(message).unwrap(), strict(policies()));
}

#[test]
fn policies_without_requests_are_said_so_that_an_older_proxy_understands() {
    let old = vec![policy(
        "one",
        vec![rule("a", Requests::All)],
        vec![rule("d", Requests::All)],
    )];
    let mut message = policy_set_to_proto(Mode::Strict, &old);
    assert_eq!(message.schema, 1);
    assert_eq!(policies_from_proto(message.clone()).unwrap(), strict(old.clone()));
    message.schema = POLICY_SCHEMA;
    assert_eq!(policies_from_proto(message).unwrap(), strict(old));
    assert_eq!(policy_set_to_proto(Mode::Strict, &[]).schema, 1);
    for (allow, deny) in [
        (Requests::Grpc(vec![grpc()]), Requests::All),
        (Requests::All, Requests::Http(vec![http()])),
    ] {
        let mut message = policy_set_to_proto(
            Mode::Strict,
            &[policy("p", vec![rule("a", allow)], vec![rule("d", deny)])],
        );
        assert_eq!(message.schema, 2);
        message.schema = 1;
        assert!(policies_from_proto(message).is_err(), "an older proxy would drop it");
    }
}

fn http_of(set: &mut control::PolicySet) -> &mut Vec<control::HttpMatch> {
    match &mut set.policies[0].allow[0].requests {
        Some(Sent::Http(matches)) => &mut matches.any_of,
        other => unreachable!("{other:?}"),
    }
}

fn grpc_of(set: &mut control::PolicySet) -> &mut Vec<control::GrpcMatch> {
    match &mut set.policies[0].deny[0].requests {
        Some(Sent::Grpc(matches)) => &mut matches.any_of,
        other => unreachable!("{other:?}"),
    }
}

fn first_header(set: &mut control::PolicySet) -> &mut control::HeaderMatch {
    &mut http_of(set)[0].headers[0]
}

#[test]
fn what_a_file_could_not_say_is_refused_with_its_place() {
    type Change = fn(&mut control::PolicySet);
    let table: &[(Change, &str)] = &[
        (|set| set.schema = 0, "schema: none"),
        (|set| set.schema = 4, "schema: 4 is newer"),
        (|set| set.policies[0].name = String::new(), "policy \"\": its name"),
        (
            |set| set.policies[0].name = "two".into(),
            "policies: two are named \"two\"",
        ),
        (|set| set.policies[0].service = "*".into(), "policy \"one\""),
        (
            |set| set.policies[0].allow[0].name = "a\nb".into(),
            "rule \"a\\nb\": its name",
        ),
        (|set| set.policies[0].allow[0].name = "x".repeat(129), "its name"),
        (
            |set| set.policies[0].allow[0].name = "grpc".into(),
            "two are named \"grpc\"",
        ),
        (
            |set| set.policies[0].allow[0].from.clear(),
            "rule \"http\": `from` is empty",
        ),
        (|set| set.policies[0].allow[0].from.push("x".into()), "rule \"http\""),
        (|set| set.policies[0].allow[0].ports.push(0), "0 is not a port"),
        (|set| set.policies[0].allow[0].ports.push(65536), "65536 is not a port"),
        (|set| http_of(set).clear(), "rule \"http\", http: it is empty"),
        (
            |set| http_of(set).push(control::HttpMatch::default()),
            "http: an item says nothing",
        ),
        (|set| http_of(set)[0].methods.push("get".into()), "write GET"),
        (|set| http_of(set)[0].paths.push("/a/../b".into()), "write /b"),
        (|set| http_of(set)[0].hosts.push("a:80".into()), "write a"),
        (
            |set| first_header(set).name = "te".into(),
            "header \"te\": `te` concerns one hop",
        ),
        (
            |set| first_header(set).condition = None,
            "no condition that this build knows",
        ),
        (
            |set| first_header(set).condition = Some(Condition::Exact("\n".into())),
            "control characters",
        ),
        (
            |set| first_header(set).condition = Some(Condition::Prefix(String::new())),
            "present: true",
        ),
        (|set| grpc_of(set).clear(), "rule \"grpc\", grpc: it is empty"),
        (|set| grpc_of(set)[0].service = "*".into(), "name each service"),
        (|set| grpc_of(set)[0].methods.push("a-b".into()), "name of a method"),
    ];
    for (change, expected) in table {
        let mut message = policy_set_to_proto(Mode::Strict, &policies());
        change(&mut message);
        let error = policies_from_proto(message).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}: expected {expected}");
    }
}

#[test]
fn what_a_set_takes_is_bounded() {
    let wide = |name: &str, paths: usize| {
        let mut item = http();
        item.paths = (0..paths).map(|number| format!("/{number}").parse().unwrap()).collect();
        rule(name, Requests::Http(vec![item]))
    };
    // Two callers, two ports, two hosts.
    let most = MAX_RULE_WEIGHT / 8;
    let refused =
        |allow: Vec<Rule>| policies_from_proto(policy_set_to_proto(Mode::Strict, &[policy("p", allow, vec![])])).err();
    assert_eq!(refused(vec![wide("a", most)]), None);
    assert!(refused(vec![wide("a", most + 1)]).unwrap().field.contains("rule \"a\""));
    let rules = |count: usize| (0..count).map(|number| wide(&number.to_string(), most)).collect();
    assert_eq!(refused(rules(10)), None);
    assert_eq!(refused(rules(11)).unwrap().field, "policies");
}
