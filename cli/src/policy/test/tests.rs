#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;

use super::cases;
use crate::policy::Files;
use crate::policy::judge::Judge;
use crate::status::Format;

const MESH: &str = "
trustDomain: td
services:
  web: {run: [x]}
  lab: {run: [x]}
  orders: {run: [x], ports: {80: http, 81: grpc, 82: tcp}}
";

const POLICIES: &str = "
name: orders
service: spiffe://td/orders
allow:
  - {name: reads, from: [spiffe://td/web], ports: [80], http: [{methods: [GET], paths: [/orders/*], hosts: [shop]}]}
  - {name: posts, from: [spiffe://td/web], ports: [80], http: [{methods: [POST], paths: [/shop.Payments/*]}]}
  - {name: charges, from: [spiffe://td/web], ports: [81], grpc: [{service: shop.Payments, methods: [Charge]}]}
  - {name: queries, from: [spiffe://td/web], ports: [82]}
  - {name: blue, from: [spiffe://td/web], http: [{headers: {x-tenant: {exact: blue}}}]}
deny:
  - {name: no secrets, from: [spiffe://td/*], http: [{paths: [/orders/secret]}]}
  - {name: not from the lab, from: [spiffe://td/lab]}
---
name: trial
service: spiffe://td/orders
audit: true
deny:
  - {name: no drafts, from: [spiffe://td/web], http: [{paths: [/orders/draft]}]}
";

/// What is said to one case, given as its keys but for `from` and `to`.
fn tried(case: &str, with_mesh: bool) -> Result<String, String> {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let mesh = write("mesh.yaml", MESH);
    let files = Files {
        mesh_file: with_mesh.then_some(mesh),
        output: Format::Table,
        paths: vec![write("policies.yaml", POLICIES)],
    };
    let judge = Judge::load(&files).unwrap_or_else(|found| panic!("{found:?}"));
    let from = if case.contains("from:") {
        ""
    } else {
        "from: spiffe://td/web, "
    };
    let to = if case.contains(", to:") {
        ""
    } else {
        "to: spiffe://td/orders, "
    };
    let text = format!("[{{{from}{to}expect: allow, {case}}}]");
    let cases = cases::read("c.yaml", &text).map_err(|found| found[0].to_string())?;
    judge.answer(&cases[0].question).map(|answer| {
        let normal = answer
            .normal_path
            .map_or_else(String::new, |path| format!(" as {path}"));
        let told = answer.outcome.to_string();
        assert_eq!(answer.outcome.is_allowed(), told.starts_with("allowed"), "{told}");
        let would = answer.outcome.would_deny().map_or("", |_| ", would deny");
        format!("{} {}{normal}{would}", answer.protocol, answer.outcome)
    })
}

/// A case, and what is answered.
const ANSWERS: &[(&str, &str)] = &[
    (
        "port: 80, protocol: http, grpc: shop.Payments/Charge",
        "http allowed by rule `posts` of policy `orders`",
    ),
    (
        "port: 80, to: spiffe://td/web, protocol: http",
        "http denied because no policy protects the service; the connection is opened, and each request on it is \
         answered with a denial",
    ),
    (
        "port: 80, path: /orders/1, host: Shop:80",
        "http allowed by rule `reads` of policy `orders`",
    ),
    (
        "port: 80, path: /orders/1",
        "http denied by policy `orders`: no allow rule matches",
    ),
    (
        "port: 80, method: POST, path: /orders/1, host: shop",
        "http denied by policy `orders`: no allow rule matches",
    ),
    (
        "port: 80, path: /x/../orders/%31, host: shop",
        "http allowed by rule `reads` of policy `orders` as /orders/1",
    ),
    (
        "port: 80, path: /orders/secret, host: shop",
        "http denied by rule `no secrets` of policy `orders`",
    ),
    (
        "port: 80, path: /orders/draft, host: shop",
        "http allowed by rule `reads` of policy `orders`, would deny",
    ),
    (
        "port: 80, headers: {X-Tenant: blue}",
        "http allowed by rule `blue` of policy `orders`",
    ),
    (
        "port: 80, path: /orders/%2f",
        "http refused before policies are asked: `%2F` is refused: an app may take it for a slash",
    ),
    (
        "port: 81, grpc: shop.Payments/Charge",
        "grpc allowed by rule `charges` of policy `orders`",
    ),
    (
        "port: 81, grpc: shop.Payments/Refund",
        "grpc denied by policy `orders`: no allow rule matches",
    ),
    ("port: 82", "tcp allowed by rule `queries` of policy `orders`"),
    (
        "from: spiffe://td/lab, port: 80, path: /",
        "http denied by rule `not from the lab` of policy `orders`",
    ),
    (
        "port: 80, protocol: grpc, path: /",
        "grpc denied by policy `orders`: no allow rule matches",
    ),
    (
        "port: 80, protocol: http",
        "http allowed: the connection is opened, and its requests are judged one by one",
    ),
    (
        "from: spiffe://td/x, port: 80, protocol: http",
        "http denied by the policies of the service: no allow rule matches; the connection is opened, and each \
             request on it is answered with a denial",
    ),
    (
        "from: spiffe://td/lab, port: 80, protocol: http",
        "http denied by rule `not from the lab` of policy `orders`",
    ),
];

#[test]
fn every_kind_of_question_is_answered() {
    for (case, expected) in ANSWERS {
        for with_mesh in [false, true] {
            assert_eq!(tried(case, with_mesh).as_deref(), Ok(*expected), "{case}");
        }
    }
}

#[test]
fn what_is_spoken_comes_from_the_mesh_unless_it_is_said() {
    let starts =
        |case: &str, with_mesh: bool| tried(case, with_mesh).map(|told| told.split(' ').next().unwrap().to_owned());
    assert_eq!(starts("port: 80", false).unwrap(), "tcp");
    assert_eq!(starts("port: 80", true).unwrap(), "http");
    assert_eq!(starts("port: 81", true).unwrap(), "grpc");
    assert_eq!(starts("port: 81, path: /", true).unwrap(), "grpc");
    assert_eq!(starts("port: 80, protocol: tcp", true).unwrap(), "tcp");
    let mistake = |case: &str| tried(case, true).unwrap_err();
    assert!(mistake("port: 83").contains("does not declare port 83: it declares 80, 81, 82"));
    assert!(mistake("port: 82, path: /").contains("port 82 speaks tcp, so there is no request"));
    assert!(
        tried("port: 80, protocol: tcp, path: /", false)
            .unwrap_err()
            .contains("there is no request")
    );
}

#[test]
fn mistakes_in_cases_are_told_at_their_place() {
    let table = [
        ("port: 0", "c.yaml:1:71: error: expected a port from 1 to 65535"),
        (
            "port: 80, expects: deny",
            "unknown key `expects` in a case: did you mean `expect`?",
        ),
        ("port: 80, protocol: udp", "\"udp\": expected a protocol"),
        (
            "port: 80, path: /a?b=c",
            "policies see no query and no fragment: write /a",
        ),
        ("port: 80, grpc: A", "expected SERVICE/METHOD"),
        ("port: 80, grpc: A/B/C", "service and method are given apart"),
        ("port: 80, grpc: A/B, path: /", "`grpc` says method and path"),
        ("port: 80, headers: {'a b': c}", "\"a b\" is not the name of a header"),
        ("port: 80, from: web", "\"web\": expected spiffe://TRUST-DOMAIN/PATH"),
        ("port: 80, name: 1", "expected a name, found the number 1"),
        ("path: /", "`port` is missing in a case"),
    ];
    for (case, expected) in table {
        let told = tried(case, false).unwrap_err();
        assert!(
            told.contains(expected) && told.starts_with("c.yaml:1:"),
            "{case}: {told}"
        );
    }
    for text in [
        "",
        "[]",
        "a: b",
        "[{from: spiffe://td/a, to: spiffe://td/b, port: 1, expect: maybe}]",
    ] {
        assert!(cases::read("c.yaml", text).is_err(), "{text}");
    }
}

#[test]
fn the_cases_of_the_documentation_hold() {
    let text = include_str!("../../../../docs/mesh-file.md");
    let block = |start: &str| {
        let mut blocks = text.split("```yaml\n").filter(|block| block.starts_with(start));
        blocks.next().unwrap().split_once("```").unwrap().0
    };
    let folder = tempfile::tempdir().unwrap();
    let policies = folder.path().join("policies.yaml");
    fs::write(&policies, block("name: orders-requests")).unwrap();
    let files = Files {
        mesh_file: None,
        output: Format::Table,
        paths: vec![policies],
    };
    let judge = Judge::load(&files).unwrap_or_else(|found| panic!("{found:?}"));
    let cases = cases::read("c.yaml", block("- {name: reading")).unwrap_or_else(|found| panic!("{found:?}"));
    assert_eq!(cases.len(), 3);
    for case in &cases {
        let answer = judge.answer(&case.question).unwrap();
        assert!(super::Tried { case, answer }.passed(), "{case:?}");
    }
}
