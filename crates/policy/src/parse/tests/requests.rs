//! `http` and `grpc` blocks: what is read, and each thing that is refused.

use super::{errors, rule_error};
use crate::parse::parse;
use crate::requests::{GrpcMatch, HeaderCondition, HeaderMatch, HttpMatch, Requests};

/// The requests of the only allow rule of a good file, and the warnings.
fn read(block: &str) -> (Requests, Vec<String>) {
    let text = format!("name: p\nservice: spiffe://td/s\nallow:\n- from: [spiffe://td/a]\n  {block}\n");
    let parsed = parse("p.yaml", &text).unwrap_or_else(|found| panic!("{block}: {found:?}"));
    let warnings = parsed.warnings.iter().map(ToString::to_string).collect();
    let policy = parsed.into_policies().next().unwrap();
    (policy.allow[0].requests.clone(), warnings)
}

fn parsed<T: std::str::FromStr<Err: std::fmt::Debug>>(texts: &[&str]) -> Vec<T> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn a_block_is_read_whole() {
    let header = |name, condition| HeaderMatch::new(name, condition).unwrap();
    let block = "http:
    - methods: [GET, HEAD]
      paths: [/orders/*, /a/*/b]
      hosts: [Orders.shop., '[::1]']
      headers:
        X-Tenant: {exact: blue}
        authorization: {prefix: 'Bearer '}
        x-debug: {present: false}
    - methods: [POST]";
    let first = HttpMatch {
        methods: parsed(&["GET", "HEAD"]),
        paths: parsed(&["/orders/*", "/a/*/b"]),
        hosts: parsed(&["orders.shop", "[::1]"]),
        headers: vec![
            header("x-tenant", HeaderCondition::Exact("blue".parse().unwrap())),
            header("authorization", HeaderCondition::Prefix("Bearer ".parse().unwrap())),
            header("x-debug", HeaderCondition::Present(false)),
        ],
    };
    let second = HttpMatch {
        methods: parsed(&["POST"]),
        ..HttpMatch::default()
    };
    assert_eq!(read(block), (Requests::Http(vec![first, second]), vec![]));
    let calls = vec![
        GrpcMatch {
            service: "shop.v1.Payments".parse().unwrap(),
            methods: parsed(&["Charge", "Refund_2"]),
        },
        GrpcMatch {
            service: "Health".parse().unwrap(),
            methods: vec![],
        },
    ];
    let block = "grpc: [{service: shop.v1.Payments, methods: [Charge, Refund_2]}, {service: Health}]";
    assert_eq!(read(block), (Requests::Grpc(calls), vec![]));
    assert_eq!(read("ports: [80]").0, Requests::All);
}

/// A block, where the mistake is, and what is said. `{…}` alone is an item of
/// `http`.
const MISTAKES: &[(&str, &str, &str)] = &[
    // Nothing must not read as everything.
    (
        "http: []",
        "5:9",
        "`http` is empty: list at least one item, or leave `http` out",
    ),
    ("grpc: []", "5:9", "`grpc` is empty"),
    (
        "http: ~",
        "5:9",
        "expected what HTTP requests to match (a list), found nothing",
    ),
    ("http: {methods: [GET]}", "5:9", "(a list), found a mapping"),
    (
        "http: [GET]",
        "5:10",
        "expected an item of `http` (a mapping), found \"GET\"",
    ),
    ("http: [{}]", "5:10", "this item says nothing"),
    (
        "{methods: []}",
        "5:20",
        "`methods` is empty: list at least one method, or leave `methods` out",
    ),
    ("{paths: []}", "5:18", "`paths` is empty"),
    ("{hosts: []}", "5:18", "`hosts` is empty"),
    ("{headers: {}}", "5:20", "`headers` is empty"),
    ("{headers: [x]}", "5:20", "expected headers by name"),
    ("grpc: [{service: A, methods: []}]", "5:32", "`methods` is empty"),
    // Both blocks, and unknown keys.
    (
        "http: [{methods: [GET]}]\n  grpc: [{service: A}]",
        "6:3",
        "write two rules",
    ),
    (
        "grpc: [{service: A}]\n  http: [{methods: [GET]}]",
        "6:3",
        "write two rules",
    ),
    (
        "{method: [GET]}",
        "5:11",
        "unknown key `method` in an item of `http`: did you mean `methods`?",
    ),
    ("grpc: [{service: A, method: [B]}]", "5:23", "did you mean `methods`?"),
    (
        "{headers: {x: {regex: a}}}",
        "5:25",
        "unknown key `regex` in a condition on a header",
    ),
    // Methods.
    (
        "{methods: [get]}",
        "5:21",
        "\"get\": methods are case-sensitive, so this can never match: write GET",
    ),
    ("{methods: [Get]}", "5:21", "write GET"),
    ("{methods: ['*']}", "5:21", "leave `methods` out to mean all"),
    ("{methods: [CONNECT]}", "5:21", "CONNECT is never passed on"),
    ("{methods: [connect]}", "5:21", "CONNECT is never passed on"),
    ("{methods: ['G T']}", "5:21", "expected a method such as GET"),
    ("{methods: ['']}", "5:21", "expected a method such as GET"),
    ("{methods: [1]}", "5:21", "found the number 1: put it in quotes"),
    // Paths; all of them stand with `PathPattern`.
    ("{paths: ['*']}", "5:19", "\"*\": a pattern begins with `/`: write /*"),
    (
        "{paths: [/a/../b]}",
        "5:19",
        "paths are normalised, so this can never match: write /b",
    ),
    ("{paths: [/a*]}", "5:19", "a part of a segment can't be matched"),
    // Hosts; all of them stand with `Host`.
    ("{hosts: ['a:80']}", "5:19", "without their port: write a"),
    ("{hosts: ['*.a']}", "5:19", "a host has no `*`"),
    // Headers.
    ("{headers: {te: {exact: a}}}", "5:21", "`te` concerns one hop"),
    (
        "{headers: {x: {}}}",
        "5:24",
        "expected exactly one of `exact`, `prefix` and `present`",
    ),
    (
        "{headers: {x: {exact: a, present: true}}}",
        "5:24",
        "expected exactly one of",
    ),
    (
        "{headers: {x: {exact: a, prefix: a}}}",
        "5:24",
        "expected exactly one of",
    ),
    (
        "{headers: {x: {present: 'true'}}}",
        "5:34",
        "expected `true` or `false`",
    ),
    (
        "{headers: {x: {exact: 1}}}",
        "5:32",
        "found the number 1: put it in quotes",
    ),
    (
        "{headers: {x: {exact: ' a'}}}",
        "5:32",
        "has no spaces around it, so this can never match: write \"a\"",
    ),
    (
        "{headers: {x: {exact: 'a '}}}",
        "5:21",
        "has no spaces around it, so this can never match: write \"a\"",
    ),
    ("{headers: {x: {prefix: ''}}}", "5:21", "write {present: true}"),
    ("{headers: {x: {exact: \"a\\tb\"}}}", "5:32", "no control characters"),
    (
        "{headers: {X: {present: true}, x: {exact: a}}}",
        "5:41",
        "`x` is named twice, first on line 5",
    ),
    // gRPC.
    (
        "grpc: [{methods: [A]}]",
        "5:10",
        "`service` is missing in an item of `grpc`",
    ),
    ("grpc: [{service: '*'}]", "5:20", "name each service"),
    ("grpc: [{service: a.*}]", "5:20", "name each service"),
    ("grpc: [{service: A, methods: ['*']}]", "5:33", "leave `methods` out"),
    (
        "grpc: [{service: /a.B/C}]",
        "5:20",
        "service and method are given apart",
    ),
    (
        "grpc: [{service: A, methods: [A/B]}]",
        "5:33",
        "service and method are given apart",
    ),
    ("grpc: [{service: a..B}]", "5:20", "full name of a service"),
    ("grpc: [{service: .B}]", "5:20", "full name of a service"),
    ("grpc: [{service: 1B}]", "5:20", "full name of a service"),
    ("grpc: [{service: A, methods: [a.B]}]", "5:33", "name of a method"),
    ("grpc: [{service: A, methods: [a-b]}]", "5:33", "name of a method"),
];

#[test]
fn every_mistake_in_a_block_is_told_at_its_place() {
    for (block, place, expected) in MISTAKES {
        let block = if block.starts_with('{') {
            format!("http: [{block}]")
        } else {
            (*block).to_owned()
        };
        let error = rule_error(&format!("- from: [spiffe://td/a]\n  {block}\n"));
        assert!(
            error.starts_with(&format!("p.yaml:{place}: error: ")),
            "{block}: {error}"
        );
        assert!(error.contains(expected), "{block}: {error}");
    }
}

#[test]
fn headers_that_no_policy_sees_are_refused_however_they_are_spelt() {
    let table = [
        ("host", "use `hosts`"),
        ("':path'", "pseudo-headers are no headers"),
        ("connection", "one hop"),
        ("Keep-Alive", "one hop"),
        ("keep_alive", "one hop"),
        ("proxy-connection", "one hop"),
        ("TE", "one hop"),
        ("transfer-encoding", "one hop"),
        ("transfer_encoding", "one hop"),
        ("upgrade", "one hop"),
        ("trailer", "one hop"),
        ("http2-settings", "one hop"),
        ("content-length", "how a body is sent"),
        ("content_length", "how a body is sent"),
        ("x-forwarded-client-cert", "written by the sidecar"),
        ("x_forwarded-Client_cert", "written by the sidecar"),
        ("watchword-denied", "written by the sidecar"),
        ("watchword_denied", "written by the sidecar"),
        ("watchword-refused", "written by the sidecar"),
        ("'x y'", "expected the name of a header"),
        ("''", "expected the name of a header"),
        ("\u{fc}", "expected the name of a header"),
    ];
    for (name, expected) in table {
        let block = format!("http: [{{headers: {{{name}: {{present: true}}}}}}]");
        let error = rule_error(&format!("- from: [spiffe://td/a]\n  {block}\n"));
        assert!(
            error.contains("p.yaml:5:21: error: ") && error.contains(expected),
            "{error}"
        );
    }
    for name in [
        "proxy-authorization",
        "x_tenant",
        "authorization",
        "x-forwarded-for",
        "cookie",
    ] {
        read(&format!("http: [{{headers: {{{name}: {{present: true}}}}}}]"));
    }
}

#[test]
fn what_is_probably_not_meant_is_a_warning() {
    let table = [
        (
            "http: [{methods: [GET, BREW]}]",
            "5:26",
            "`BREW` is not in IANA's registry",
        ),
        (
            "http: [{paths: [/a, /*]}]",
            "5:23",
            "`/*` is every path, so it says nothing",
        ),
        (
            "http: [{methods: [GET, PUT, GET]}]",
            "5:31",
            "the same stands twice in `methods`, first on line 5",
        ),
        ("http: [{paths: [/a, /a]}]", "5:23", "twice in `paths`"),
        ("http: [{hosts: [a, A.]}]", "5:22", "twice in `hosts`"),
        ("http: [{paths: [/a]}, {paths: [/a]}]", "5:25", "twice in `http`"),
        ("grpc: [{service: A, methods: [B, B]}]", "5:36", "twice in `methods`"),
        ("grpc: [{service: A}, {service: A}]", "5:24", "twice in `grpc`"),
        ("ports: [80, 81, 80]", "5:19", "twice in `ports`"),
        (
            "ports: [80]\n- from: [spiffe://td/b, spiffe://td/b]",
            "6:25",
            "twice in `from`",
        ),
    ];
    for (block, place, expected) in table {
        let (_, warnings) = read(block);
        assert_eq!(warnings.len(), 1, "{block}: {warnings:?}");
        assert!(
            warnings[0].starts_with(&format!("p.yaml:{place}: warning: ")),
            "{warnings:?}"
        );
        assert!(warnings[0].contains(expected), "{warnings:?}");
    }
    let deny = "name: p\nservice: spiffe://td/s\ndeny: [{from: [spiffe://td/*], http: [{paths: [/*]}]}]\n";
    assert!(parse("p.yaml", deny).unwrap().warnings.is_empty());
}

#[test]
fn all_mistakes_of_a_block_are_told() {
    let text = "name: p\nservice: spiffe://td/s\nallow:
- from: [spiffe://td/a]
  http:
  - {methods: [get, PUT], paths: [a], hosts: ['*'], headers: {te: {exact: a}, x: {}}}
  - {methods: []}
";
    let found = errors(text);
    assert_eq!(found.len(), 6, "{found:#?}");
}

#[test]
fn a_rule_that_spells_out_too_much_is_refused() {
    let list = |prefix: &str| (0..400).map(|n| format!("{prefix}{n}")).collect::<Vec<_>>().join(", ");
    let block = format!("http: [{{paths: [{}], hosts: [{}]}}]", list("/"), list("h"));
    let error = rule_error(&format!("- from: [spiffe://td/a]\n  {block}\n"));
    assert!(
        error.starts_with("p.yaml:4:3: error: the rule spells out 160000 combinations"),
        "{error}"
    );
}

/// An allow rule, deny rules, and whether they leave nothing of it. `80; …` is
/// for port 80 only.
const SHADOWS: &[(&str, &str, bool)] = &[
    ("http: [{paths: [/a]}]", "name: all", true),
    ("http: [{paths: [/a]}]", "http: [{paths: [/a]}]", true),
    ("http: [{paths: [/a/b, /a/c]}]", "http: [{paths: [/a/*]}]", true),
    (
        "http: [{paths: [/a]}, {paths: [/b]}]",
        "http: [{paths: [/a]}] + http: [{paths: [/b]}]",
        true,
    ),
    (
        "http: [{paths: [/a, /b]}]",
        "http: [{paths: [/a]}, {paths: [/b]}]",
        true,
    ),
    (
        "80; http: [{methods: [GET], paths: [/a]}]",
        "80; http: [{methods: [GET, PUT]}]",
        true,
    ),
    ("http: [{methods: [GET], hosts: [h]}]", "http: [{hosts: [g, h]}]", true),
    (
        "http: [{paths: [/a], headers: {x: {exact: ab}}}]",
        "http: [{headers: {x: {prefix: a}}}]",
        true,
    ),
    (
        "http: [{headers: {x: {prefix: ab}}}]",
        "http: [{headers: {x: {prefix: a}}}]",
        true,
    ),
    (
        "http: [{headers: {x: {exact: a}}}]",
        "http: [{headers: {x: {present: true}}}]",
        true,
    ),
    (
        "http: [{headers: {x: {exact: a}, y: {exact: a}}}]",
        "http: [{headers: {y: {exact: a}}}]",
        true,
    ),
    (
        "http: [{headers: {x: {present: false}}}]",
        "http: [{headers: {x: {present: false}}}]",
        true,
    ),
    ("grpc: [{service: A, methods: [B]}]", "grpc: [{service: A}]", true),
    (
        "grpc: [{service: A, methods: [B, C]}]",
        "grpc: [{service: A, methods: [B]}, {service: A, methods: [C]}]",
        true,
    ),
    ("grpc: [{service: A}]", "grpc: [{service: A}]", true),
    // Something is left.
    ("name: all", "http: [{paths: [/*]}]", false),
    ("http: [{methods: [GET]}]", "http: [{paths: [/*]}]", false),
    ("http: [{paths: [/a/*]}]", "http: [{paths: [/a/b]}]", false),
    ("http: [{paths: [/a]}, {paths: [/b]}]", "http: [{paths: [/a]}]", false),
    ("http: [{paths: [/a, /b]}]", "http: [{paths: [/a]}]", false),
    ("http: [{methods: [GET, PUT]}]", "http: [{methods: [GET]}]", false),
    ("http: [{paths: [/a]}]", "http: [{paths: [/a], methods: [GET]}]", false),
    ("http: [{paths: [/a]}]", "http: [{paths: [/a], hosts: [h]}]", false),
    ("http: [{hosts: [g, h]}]", "http: [{hosts: [h]}]", false),
    (
        "http: [{paths: [/a]}]",
        "http: [{headers: {x: {present: true}}}]",
        false,
    ),
    (
        "http: [{headers: {x: {prefix: a}}}]",
        "http: [{headers: {x: {prefix: ab}}}]",
        false,
    ),
    (
        "http: [{headers: {x: {prefix: a}}}]",
        "http: [{headers: {x: {exact: a}}}]",
        false,
    ),
    (
        "http: [{headers: {x: {present: true}}}]",
        "http: [{headers: {x: {prefix: a}}}]",
        false,
    ),
    (
        "http: [{headers: {x: {exact: a}}}]",
        "http: [{headers: {x: {present: false}}}]",
        false,
    ),
    (
        "http: [{headers: {x: {present: true}}}]",
        "http: [{headers: {x: {present: false}}}]",
        false,
    ),
    (
        "http: [{headers: {x: {exact: a}}}]",
        "http: [{headers: {y: {exact: a}}}]",
        false,
    ),
    ("http: [{paths: [/a]}]", "80; http: [{paths: [/a]}]", false),
    ("grpc: [{service: A}]", "grpc: [{service: A, methods: [B]}]", false),
    ("grpc: [{service: A}]", "grpc: [{service: B}]", false),
    ("grpc: [{service: A}]", "http: [{paths: [/*]}]", false),
    ("http: [{paths: [/a]}]", "grpc: [{service: A}]", false),
];

#[test]
fn an_allow_rule_whose_every_alternative_is_denied_is_told() {
    let shadowed = |allow: &str, deny: &str| {
        let rule = |rule: &str| match rule.split_once("; ") {
            Some((ports, block)) => format!("{{from: [spiffe://td/a], ports: [{ports}], {block}}}"),
            None => format!("{{from: [spiffe://td/a], {rule}}}"),
        };
        let deny: Vec<String> = deny.split(" + ").map(rule).collect();
        let (allow, deny) = (rule(allow), deny.join(", "));
        let text = format!("name: p\nservice: spiffe://td/s\nallow: [{allow}]\ndeny: [{deny}]\n");
        match parse("p.yaml", &text) {
            Ok(_) => false,
            Err(found) => {
                let errors: Vec<_> = found.iter().filter(|found| found.is_error()).collect();
                assert_eq!(errors.len(), 1, "{allow} {deny}: {found:?}");
                assert!(
                    errors[0]
                        .to_string()
                        .starts_with("p.yaml:3:9: error: allow rule `allow[0]` can never match")
                );
                true
            }
        }
    };
    for (allow, deny, expected) in SHADOWS {
        assert_eq!(shadowed(allow, deny), *expected, "{allow} against {deny}");
    }
}
