//! Decisions on requests: each rule of matching by an example, and all of them
//! together against a naive search.

use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{Just, ProptestConfig, Strategy, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::sample::select;

use super::{
    any_callers, any_path, any_pattern, any_peer, assert_told, assert_would_deny, audit, id, naive, policy, principal,
    rule,
};
use crate::model::{Policy, Rule};
use crate::requests::{GrpcMatch, HeaderCondition, HeaderMatch, HttpMatch, Requests};
use crate::{Call, Decision, Gate, Mode, PolicySet, Protocol, Reason, Request, Verdict};

/// Parts of a block or of a request, as `key=value` with spaces in between:
/// `method=GET path=/a host=h x=1 y^=2 z? w!`.
fn http(text: &str) -> HttpMatch {
    let mut item = HttpMatch::default();
    for part in text.split_whitespace() {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        match key {
            "method" => item.methods.push(value.parse().unwrap()),
            "path" => item.paths.push(value.parse().unwrap()),
            "host" => item.hosts.push(value.parse().unwrap()),
            _ => item.headers.push(header(key, value)),
        }
    }
    item
}

fn header(key: &str, value: &str) -> HeaderMatch {
    let value = || value.parse().unwrap();
    let condition = match key.chars().last() {
        Some('^') => HeaderCondition::Prefix(value()),
        Some('?') => HeaderCondition::Present(true),
        Some('!') => HeaderCondition::Present(false),
        _ => HeaderCondition::Exact(value()),
    };
    HeaderMatch::new(key.trim_end_matches(['^', '?', '!']), condition).unwrap()
}

fn grpc(service: &str, methods: &[&str]) -> GrpcMatch {
    GrpcMatch {
        service: service.parse().unwrap(),
        methods: methods.iter().map(|method| method.parse().unwrap()).collect(),
    }
}

fn http_rule(name: &str, items: &[&str]) -> Rule {
    Rule {
        requests: Requests::Http(items.iter().map(|item| http(item)).collect()),
        ..rule(name, &["/web"], &[])
    }
}

fn grpc_rule(name: &str, items: Vec<GrpcMatch>) -> Rule {
    Rule {
        requests: Requests::Grpc(items),
        ..rule(name, &["/web"], &[])
    }
}

fn on(ports: &[u16], rule: Rule) -> Rule {
    Rule {
        ports: ports.to_vec(),
        ..rule
    }
}

struct Sent {
    method: String,
    path: String,
    host: Option<String>,
    headers: HeaderMap,
}

impl Sent {
    /// As for [`http`]; header names repeat as they do on the wire.
    fn new(text: &str) -> Self {
        let mut sent = Self {
            method: "GET".to_owned(),
            path: "/".to_owned(),
            host: None,
            headers: HeaderMap::new(),
        };
        for part in text.split_whitespace() {
            let (key, value) = part.split_once('=').unwrap();
            match key {
                "method" => sent.method = value.to_owned(),
                "path" => sent.path = value.to_owned(),
                "host" => sent.host = Some(value.to_owned()),
                _ => {
                    let name: HeaderName = key.parse().unwrap();
                    sent.headers.append(name, value.parse().unwrap());
                }
            }
        }
        sent
    }

    fn request(&self) -> Request<'_> {
        Request {
            method: &self.method,
            path: &self.path,
            host: self.host.as_deref(),
            headers: &self.headers,
        }
    }
}

fn with_call<T>(protocol: Protocol, port: u16, ask: impl FnOnce(&Call<'_>) -> T) -> T {
    ask(&Call {
        service: &id("/orders"),
        peer: &principal("/web"),
        port,
        protocol,
    })
}

fn decide_request(set: &[Policy], protocol: Protocol, text: &str) -> Decision {
    with_call(protocol, 80, |call| {
        PolicySet::new(set.to_vec()).decide_request(call, &Sent::new(text).request())
    })
}

fn gate(set: &[Policy], protocol: Protocol) -> Gate {
    with_call(protocol, 80, |call| PolicySet::new(set.to_vec()).gate(call))
}

fn connect(set: &[Policy], protocol: Protocol) -> Decision {
    with_call(protocol, 80, |call| PolicySet::new(set.to_vec()).decide(call))
}

/// Whether an allow rule, and whether a deny rule, with this block matches.
fn matches(items: &[&str], request: &str) -> (bool, bool) {
    let allow = [policy("p", "/orders", vec![http_rule("x", items)], vec![])];
    let everything = vec![rule("all", &["/web"], &[])];
    let deny = [policy("p", "/orders", everything, vec![http_rule("x", items)])];
    (
        decide_request(&allow, Protocol::Http, request).is_allowed(),
        !decide_request(&deny, Protocol::Http, request).is_allowed(),
    )
}

/// Against each block: the requests that it matches, and those that it does not.
type Case = (
    &'static [&'static str],
    &'static [&'static str],
    &'static [&'static str],
);

#[test]
fn a_block_matches_what_it_says() {
    let table: &[Case] = &[
        (
            &["method=GET method=HEAD"],
            &["method=GET", "method=HEAD path=*"],
            &["method=POST", "method=get"],
        ),
        (
            &["path=/a/b"],
            &["path=/a/b"],
            &["path=/a", "path=/a/b/", "path=/a/b/c", "path=/A/b", "path=/"],
        ),
        (&["path=/"], &["path=/"], &["path=/a", "path=*"]),
        (
            &["path=/a/*"],
            &["path=/a/", "path=/a/b", "path=/a/b/c/"],
            &["path=/a", "path=/ab", "path=/b/a/"],
        ),
        (&["path=/*"], &["path=/", "path=/a/b"], &["path=*"]),
        (
            &["path=/*/b"],
            &["path=/a/b", "path=/b/b"],
            &["path=/b", "path=/a/b/", "path=/a/a/b", "path=/a/c"],
        ),
        (
            &["path=/a/*/c/*"],
            &["path=/a/b/c/", "path=/a/c/c/d/e"],
            &["path=/a/b/c", "path=/a/c/d"],
        ),
        (
            &["path=/a/x path=/b"],
            &["path=/a/x", "path=/b"],
            &["path=/a", "path=/x"],
        ),
        (
            &["host=shop"],
            &["host=shop", "host=SHOP:80", "host=shop."],
            &["", "host=shop.x"],
        ),
        (
            &["host=[::1]"],
            &["host=[::1]:80", "host=[0::1]"],
            &["host=[::2]", "host=::1"],
        ),
        (&["x=1"], &["x=1", "y=2 x=1"], &["", "x=2", "x=11", "y=1"]),
        (&["X-A^=1"], &["x-a=1", "x-a=12"], &["", "x-a=21", "x-a="]),
        (&["x?"], &["x=1", "x="], &["", "y=1"]),
        (&["x!"], &["", "y=1"], &["x=1", "x="]),
        (&["x=1 y=2"], &["x=1 y=2"], &["x=1", "y=2", "x=2 y=1"]),
        (&["x=1 x^=1"], &["x=1"], &["x=12"]),
        (
            &["method=GET path=/a host=h x=1"],
            &["method=GET path=/a host=h x=1"],
            &[
                "method=PUT path=/a host=h x=1",
                "path=/b host=h x=1",
                "path=/a x=1",
                "path=/a host=h",
            ],
        ),
        (
            &["method=GET path=/a", "method=PUT path=/b"],
            &["path=/a", "method=PUT path=/b"],
            &["path=/b", "method=PUT path=/a"],
        ),
    ];
    for (items, matching, others) in table {
        for request in *matching {
            assert_eq!(matches(items, request), (true, true), "{items:?} {request}");
        }
        for request in *others {
            assert_eq!(matches(items, request), (false, false), "{items:?} {request}");
        }
    }
}

#[test]
fn where_a_request_can_be_read_in_two_ways_only_a_deny_rule_matches() {
    let table = [
        ("x=1", "x=1 x=2"),
        ("x^=1", "x=2 x=12"),
        ("x=2 y=1", "x=1 x=2 y=1 y=1"),
        ("path=/a", "path=/a;x"),
        ("path=/a", "path=/a%3Bx"),
        ("path=/a/", "path=/a/;x"),
        ("path=/a/b", "path=/a;x/b;y"),
        ("path=/a/b", "path=/a/;x/b"),
        ("path=/a/b", "path=/;x/a/;/;y/b"),
        ("path=/a/*/b", "path=/a;x/;y/b"),
        ("path=/a/*", "path=/a;x/"),
    ];
    for (item, request) in table {
        assert_eq!(matches(&[item], request), (false, true), "{item} {request}");
    }
    assert_eq!(matches(&["x=1"], "x=1 x=1"), (true, true), "all lines alike");
    assert_eq!(matches(&["path=/a;x"], "path=/a;x"), (true, true), "as it is");
    assert_eq!(matches(&["path=/a;x"], "path=/a"), (false, false));
    assert_eq!(matches(&["path=/a/*"], "path=/b;x/"), (false, false));
}

#[test]
fn grpc_calls_are_told_by_service_and_method() {
    let pay = || grpc_rule("pay", vec![grpc("shop.Payments", &["Charge"]), grpc("Health", &[])]);
    let allow = [policy("p", "/orders", vec![pay()], vec![])];
    let everything = vec![rule("all", &["/web"], &[])];
    let deny = [policy("p", "/orders", everything, vec![pay()])];
    let both = |path: &str| {
        let asked = |set| decide_request(set, Protocol::Grpc, &format!("method=POST path={path}"));
        (asked(&allow).is_allowed(), !asked(&deny).is_allowed())
    };
    for path in ["/shop.Payments/Charge", "/Health/Check", "/Health/Watch"] {
        assert_eq!(both(path), (true, true), "{path}");
    }
    for path in [
        "/shop.Payments/Refund",
        "/shop.Payments",
        "/shop.Payments/",
        "/shop.Payments/Charge/",
        "/shop.Payments/Charge/x",
        "/shop.payments/Charge",
        "/Payments/Charge",
        "*",
        "/",
    ] {
        assert_eq!(both(path), (false, false), "{path}");
    }
    assert_eq!(both("/shop.Payments;x/Charge;y"), (false, true));
    assert_eq!(both("/;x/shop.Payments/Charge"), (false, true));
}

#[test]
fn a_block_is_about_its_protocol_only() {
    let set = [policy(
        "p",
        "/orders",
        vec![
            http_rule("http", &["path=/s/M"]),
            grpc_rule("grpc", vec![grpc("s", &[])]),
        ],
        vec![],
    )];
    let http = decide_request(&set, Protocol::Http, "path=/s/M");
    assert_told(&http, Verdict::Allow, Reason::AllowRule, "p/http");
    let grpc = decide_request(&set, Protocol::Grpc, "path=/s/M");
    assert_told(&grpc, Verdict::Allow, Reason::AllowRule, "p/grpc");
    assert_told(
        &decide_request(&set, Protocol::Tcp, "path=/s/M"),
        Verdict::Deny,
        Reason::NoAllowRule,
        "p/-",
    );
    for protocol in Protocol::ALL {
        assert_told(&connect(&set, protocol), Verdict::Deny, Reason::NoAllowRule, "p/-");
    }
    let all = [policy("p", "/orders", vec![rule("all", &["/web"], &[])], vec![])];
    for protocol in Protocol::ALL {
        assert!(decide_request(&all, protocol, "path=/x").is_allowed(), "{protocol}");
        assert!(connect(&all, protocol).is_allowed(), "{protocol}");
    }
}

#[test]
fn a_deny_rule_that_cannot_be_enforced_on_its_port_denies_the_connection() {
    let everything = || vec![rule("all", &["/web"], &[])];
    let deny = |deny: Rule| [policy("p", "/orders", everything(), vec![deny])];
    let named = deny(on(&[80], http_rule("no", &["path=/a"])));
    for protocol in [Protocol::Tcp, Protocol::Grpc] {
        assert_told(&connect(&named, protocol), Verdict::Deny, Reason::DenyRule, "p/no");
        let request = decide_request(&named, protocol, "path=/b");
        assert_told(&request, Verdict::Deny, Reason::DenyRule, "p/no");
        assert!(matches!(gate(&named, protocol), Gate::Closed(decision) if decision.reason == Reason::DenyRule));
    }
    assert_eq!(gate(&named, Protocol::Http), Gate::Open);
    assert!(decide_request(&named, Protocol::Http, "path=/b").is_allowed());
    let unnamed = deny(http_rule("no", &["path=/a"]));
    for protocol in [Protocol::Tcp, Protocol::Grpc] {
        assert!(connect(&unnamed, protocol).is_allowed(), "about http ports: {protocol}");
        assert_eq!(gate(&unnamed, protocol), Gate::Open);
    }
    assert!(
        !connect(&unnamed, Protocol::Http).is_allowed(),
        "there is no request to judge by"
    );
    let recorded = [audit(named[0].clone())];
    assert_eq!(gate(&recorded, Protocol::Tcp), Gate::Open, "audit closes nothing");
    assert_would_deny(&connect(&recorded, Protocol::Tcp), Reason::DenyRule, "p/no");
}

#[test]
fn the_gate_is_closed_by_rules_for_the_connection_alone() {
    let allow = || vec![http_rule("some", &["path=/a"])];
    let set = |allow, deny| [policy("p", "/orders", allow, deny)];
    assert_eq!(gate(&set(allow(), vec![]), Protocol::Http), Gate::Open);
    let futile = Gate::Futile(Reason::NoAllowRule);
    assert_eq!(gate(&set(allow(), vec![]), Protocol::Grpc), futile);
    assert_eq!(
        gate(&set(vec![rule("all", &["/web"], &[])], vec![]), Protocol::Grpc),
        Gate::Open
    );
    assert_eq!(gate(&set(vec![], vec![]), Protocol::Http), futile);
    assert_eq!(gate(&[], Protocol::Http), Gate::Futile(Reason::NoPolicy));
    assert_eq!(
        gate(&set(allow(), vec![http_rule("no", &["path=/*"])]), Protocol::Http),
        Gate::Open
    );
    let elsewhere = vec![on(&[81], http_rule("some", &["path=/a"]))];
    assert_eq!(gate(&set(elsewhere, vec![]), Protocol::Http), futile);
    let closed = set(allow(), vec![rule("lab", &["/web"], &[80])]);
    match gate(&closed, Protocol::Http) {
        Gate::Closed(decision) => assert_told(&decision, Verdict::Deny, Reason::DenyRule, "p/lab"),
        other => panic!("{other:?}"),
    }
    let [trial] = closed;
    assert_eq!(gate(&[audit(trial.clone())], Protocol::Http), Gate::Open);
    let beside = [audit(trial), policy("live", "/orders", allow(), vec![])];
    assert_eq!(gate(&beside, Protocol::Http), Gate::Open);
}

#[test]
fn requests_are_recorded_under_audit_as_connections_are() {
    let trial = audit(policy("trial", "/orders", vec![], vec![http_rule("no", &["path=/a"])]));
    let live = policy("live", "/orders", vec![http_rule("yes", &["path=/*"])], vec![]);
    let set = [trial, live];
    let denied = decide_request(&set, Protocol::Http, "path=/a");
    assert_told(&denied, Verdict::Allow, Reason::AllowRule, "live/yes");
    assert_would_deny(&denied, Reason::DenyRule, "trial/no");
    assert_eq!(decide_request(&set, Protocol::Http, "path=/b").would_deny, None);
}

#[test]
fn the_first_of_several_matching_rules_is_named() {
    let allow = vec![
        http_rule("never", &["path=/z"]),
        http_rule("prefix", &["path=/a x^=1"]),
        http_rule("exact", &["path=/a x=11 y=1"]),
        http_rule("any", &["path=/a"]),
        http_rule("host", &["path=/a host=h"]),
        http_rule("get", &["method=GET path=/*"]),
        rule("all", &["/web"], &[]),
    ];
    let set = [policy("p", "/orders", allow, vec![])];
    for (request, by) in [
        ("path=/a x=11 y=1", "p/prefix"),
        ("path=/a x=2 host=h", "p/any"),
        ("path=/b", "p/get"),
        ("path=/b method=PUT", "p/all"),
    ] {
        assert_told(
            &decide_request(&set, Protocol::Http, request),
            Verdict::Allow,
            Reason::AllowRule,
            by,
        );
    }
}

#[test]
fn a_hostile_path_costs_what_it_is_long() {
    let deep = vec![http_rule("x", &["path=/*/*/*/*/*/*/*/*/z path=/a/a/a/a/z"])];
    let set = [policy("p", "/orders", vec![rule("all", &["/web"], &[])], deep)];
    let path = format!("/{}", ";/".repeat(4095));
    assert!(decide_request(&set, Protocol::Http, &format!("path={path}")).is_allowed());
}

fn subset(choices: &[&'static str], most: usize) -> impl Strategy<Value = Vec<&'static str>> + use<> {
    vec(select(choices.to_vec()), 0..=most)
}

fn any_http() -> impl Strategy<Value = HttpMatch> {
    let paths = [
        "path=/",
        "path=/a",
        "path=/a/",
        "path=/a/b",
        "path=/*",
        "path=/a/*",
        "path=/*/b",
        "path=/a/*/b",
        "path=/*/*",
        "path=/*/",
        "path=/a;x",
        "path=/b/*/*",
        "path=/*/*/b",
    ];
    let parts = (
        subset(&["method=GET", "method=PUT"], 1),
        subset(&paths, 2),
        subset(&["host=h", "host=g.h", "host=[::1]"], 1),
        prop_oneof![2 => subset(&["x=1"], 0), 1 => subset(&["x=1", "x=12", "x^=1", "x?", "x!", "y=1", "y=", "y^=2"], 2)],
    );
    parts.prop_map(|(methods, paths, hosts, headers)| http(&[methods, paths, hosts, headers].concat().join(" ")))
}

fn any_grpc() -> impl Strategy<Value = GrpcMatch> {
    (select(vec!["s.A", "B"]), subset(&["M", "N"], 2)).prop_map(|(service, methods)| grpc(service, &methods))
}

fn any_requests() -> impl Strategy<Value = Requests> {
    prop_oneof![
        1 => Just(Requests::All),
        4 => vec(any_http(), 1..3).prop_map(Requests::Http),
        2 => vec(any_grpc(), 1..3).prop_map(Requests::Grpc),
    ]
}

fn any_rules() -> impl Strategy<Value = Vec<Rule>> {
    let from = prop_oneof![Just("/*".to_owned()), Just("/a".to_owned()), any_callers()];
    let one = (vec(from, 1..3), vec(1_u16..3, 0..2), any_requests());
    vec(one, 0..5).prop_map(|rules| {
        let numbered = rules.into_iter().enumerate();
        let named = numbered.map(|(index, (from, ports, requests))| {
            let from: Vec<&str> = from.iter().map(String::as_str).collect();
            Rule {
                requests,
                ..rule(&format!("r{index}"), &from, &ports)
            }
        });
        named.collect()
    })
}

fn any_set() -> impl Strategy<Value = Vec<Policy>> {
    let service = prop_oneof![Just("/*".to_owned()), Just("/a".to_owned()), any_pattern()];
    let one = (service, any_rules(), any_rules(), proptest::bool::weighted(0.3));
    vec(one, 0..4).prop_map(|policies| {
        let numbered = policies.into_iter().enumerate();
        let named = numbered.map(|(index, (service, allow, deny, audit))| Policy {
            audit,
            ..policy(&format!("p{index}"), &service, allow, deny)
        });
        named.collect()
    })
}

fn any_request_path() -> impl Strategy<Value = String> {
    let segments = vec![
        "a", "b", "c", "a;x", ";x", "b%3Bx", "b;", "s.A", "s.A;x", "B", "M", "N", "M;x",
    ];
    let below = vec(select(segments), 0..4).prop_map(|segments| segments.join("/"));
    prop_oneof![
        1 => Just("*".to_owned()),
        12 => below.clone().prop_map(|below| format!("/{below}")),
        3 => below.prop_map(|below| if below.is_empty() { "/".to_owned() } else { format!("/{below}/") }),
        3 => (select(vec!["s.A", "B"]), select(vec!["M", "N"])).prop_map(|(s, m)| format!("/{s}/{m}")),
    ]
}

fn any_sent() -> impl Strategy<Value = Sent> {
    let host = option::of(select(vec![
        "h", "H:80", "h.", "g.h", "G.H.:1", "[::1]", "[::1]:80", "x", "",
    ]));
    let line = (select(vec!["x", "y"]), select(vec!["1", "12", "2", "21", ""]));
    let parts = (
        select(vec!["GET", "PUT", "POST"]),
        any_request_path(),
        host,
        vec(line, 0..4),
    );
    parts.prop_map(|(method, path, host, lines)| {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        Sent {
            method: method.to_owned(),
            path,
            host: host.map(str::to_owned),
            headers,
        }
    })
}

impl std::fmt::Debug for Sent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.request().fmt(f)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn decides_as_reading_all_rules_would(
        set in any_set(),
        service in prop_oneof![Just("/a".to_owned()), any_path()],
        peer in prop_oneof![Just("/a".to_owned()), any_peer()],
        port in 1_u16..4,
        protocol in select(vec![Protocol::Http, Protocol::Http, Protocol::Grpc, Protocol::Tcp]),
        sent in vec(any_sent(), 1..6),
    ) {
        let (service, peer) = (id(&service), principal(&peer));
        let call = Call { service: &service, peer: &peer, port, protocol };
        let compiled = PolicySet::new(set.clone()).in_mode(Mode::Permissive);
        prop_assert_eq!(compiled.decide(&call), naive::decide(&set, &call, naive::Asked::Connection));
        let gate = compiled.gate(&call);
        prop_assert_eq!(&gate, &naive::gate(&set, &call));
        for sent in &sent {
            let request = sent.request();
            let decision = compiled.decide_request(&call, &request);
            prop_assert_eq!(&decision, &naive::decide(&set, &call, naive::Asked::Request(&request)));
            // What the gate says holds for each request.
            prop_assert!(gate == Gate::Open || !decision.is_allowed());
        }
    }
}
