#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use spiffe::{SpiffeId, TrustDomain};

use super::{MeshContext, check_set};
use crate::model::MAX_SET_WEIGHT;
use crate::parse::{Parsed, parse};
use crate::principal::Mode;
use crate::protocol::Protocol;

fn parsed(file: &str, text: &str) -> Parsed {
    parse(file, text).expect("a good file")
}

fn mesh() -> MeshContext {
    let service = |path: &str, ports: &[(u16, Protocol)]| {
        let ports = ports.iter().map(|(port, protocol)| (*port, [*protocol].into()));
        (id(path), ports.collect())
    };
    MeshContext {
        trust_domains: [TrustDomain::new("td").unwrap()].into(),
        partners: [].into(),
        services: [
            service("/orders", &[(8080, Protocol::Http), (5432, Protocol::Tcp)]),
            service("/team/a", &[(80, Protocol::Http), (90, Protocol::Grpc)]),
            service("/team/b", &[(81, Protocol::Tcp), (80, Protocol::Grpc)]),
            service("/a", &[]),
        ]
        .into(),
        registry: [id("/b")].into(),
        mode: Mode::Strict,
    }
}

fn id(path: &str) -> SpiffeId {
    SpiffeId::new(format!("spiffe://td{path}")).unwrap()
}

fn findings(files: &[Parsed], context: Option<&MeshContext>) -> Vec<String> {
    check_set(files, context).iter().map(ToString::to_string).collect()
}

#[test]
fn names_are_unique_over_all_files() {
    let a = parsed(
        "a.yaml",
        "name: p\nservice: spiffe://td/orders\n---\nname: q\nservice: spiffe://td/orders\n",
    );
    let b = parsed("b.yaml", "service: spiffe://td/orders\nname: p\n");
    assert_eq!(
        findings(&[a, b], Some(&mesh())),
        ["b.yaml:2:7: error: another policy is named `p` too, at a.yaml:1:7: names are unique over all files"]
    );
}

#[test]
fn what_the_mesh_does_not_have_is_told_where_it_stands() {
    let text = "\
name: p
service: spiffe://td/ordres
allow: [{from: [spiffe://td/a, spiffe://elsewhere/a], ports: [1]}]
---
name: q
service: spiffe://td/orders
allow: [{from: [spiffe://td/a], ports: [8080, 8081]}]
deny: [{from: [spiffe://td/b], ports: [5433]}]
---
name: r
service: spiffe://td/team/*
allow: [{from: [spiffe://td/a], ports: [80, 81, 82]}]
---
name: s
service: spiffe://elsewhere/orders
";
    let file = [parsed("a.yaml", text)];
    assert_eq!(
        findings(&file, Some(&mesh())),
        [
            "a.yaml:2:10: error: no service of the mesh has the ID `spiffe://td/ordres`: expected one of \
             spiffe://td/a, spiffe://td/orders, spiffe://td/team/a, spiffe://td/team/b",
            "a.yaml:3:32: error: `spiffe://elsewhere/a` lies outside of the trust domains of the mesh: expected td",
            "a.yaml:7:47: error: the service does not declare port 8081, so the rule can never match there: it \
             declares 5432, 8080",
            "a.yaml:8:40: error: the service does not declare port 5433, so the rule can never match there: it \
             declares 5432, 8080",
            "a.yaml:12:49: error: the service does not declare port 82, so the rule can never match there: it \
             declares 80, 81, 90",
            "a.yaml:15:10: error: `spiffe://elsewhere/orders` lies outside of the trust domains of the mesh: expected \
             td",
        ]
    );
    assert!(findings(&file, None).is_empty(), "unknown without the mesh");
}

#[test]
fn partners_call_and_are_never_what_a_policy_protects() {
    let partner = TrustDomain::new("partner").unwrap();
    let mut mesh = mesh();
    mesh.trust_domains.insert(partner.clone());
    mesh.partners.insert(partner);
    let text = "\
name: p
service: spiffe://td/orders
allow: [{from: [spiffe://partner/x, spiffe://partner/team/*, spiffe://td/c, spiffe://elsewhere/x]}]
---
name: q
service: spiffe://partner/x
";
    assert_eq!(
        findings(&[parsed("a.yaml", text)], Some(&mesh)),
        [
            "a.yaml:3:62: warning: `spiffe://td/c` is no ID of a service or of `registry` in the mesh file: only a \
             workload with a join token of its own can have it",
            "a.yaml:3:77: error: `spiffe://elsewhere/x` lies outside of the trust domains of the mesh: expected \
             partner, td",
            "a.yaml:6:10: error: no service of the mesh has the ID `spiffe://partner/x`: expected one of \
             spiffe://td/a, spiffe://td/orders, spiffe://td/team/a, spiffe://td/team/b",
        ]
    );
}

#[test]
fn long_lists_are_cut_short() {
    let mut mesh = mesh();
    for number in 0..20 {
        mesh.services.insert(id(&format!("/x{number}")), [].into());
    }
    let file = [parsed("a.yaml", "name: p\nservice: spiffe://td/none\n")];
    let found = findings(&file, Some(&mesh));
    assert!(found[0].ends_with(", 16 more"), "{found:?}");
}

/// Findings on one policy for `service` with these rules.
fn of_rules(service: &str, rules: &str) -> Vec<String> {
    let text = format!("name: p\nservice: spiffe://td{service}\n{rules}\n");
    findings(&[parsed("p.yaml", &text)], Some(&mesh()))
}

#[test]
fn a_block_is_for_ports_that_speak_it() {
    let told = |service: &str, rule: &str| of_rules(service, &format!("allow: [{{from: [spiffe://td/a], {rule}}}]"));
    let table = [
        (
            "/orders",
            "ports: [8080, 5432], http: [{paths: [/a]}]",
            "p.yaml:3:47: error: port 5432 of spiffe://td/orders speaks tcp, so `http` can't be judged there: name only \
             ports that speak http, or declare it as `5432: http` in the mesh file",
        ),
        (
            "/orders",
            "ports: [8080], grpc: [{service: A}]",
            "p.yaml:3:41: error: port 8080 of spiffe://td/orders speaks http, so `grpc` can't be judged there: name \
             only ports that speak grpc, or declare it as `8080: grpc` in the mesh file",
        ),
        (
            "/team/a",
            "ports: [90], http: [{paths: [/a]}]",
            "p.yaml:3:41: error: port 90 of spiffe://td/team/a speaks grpc, so `http` can't be judged there: name only \
             ports that speak http, or declare it as `90: http` in the mesh file",
        ),
        (
            "/team/*",
            "ports: [80], http: [{paths: [/a]}]",
            "p.yaml:3:41: error: port 80 of spiffe://td/team/b speaks grpc, so `http` can't be judged there: name only \
             ports that speak http, or declare it as `80: http` in the mesh file",
        ),
        (
            "/orders",
            "grpc: [{service: A}]",
            "p.yaml:3:33: error: no port of the service speaks grpc, so the rule can never match: it declares 5432 \
             (tcp), 8080 (http)",
        ),
        (
            "/team/b",
            "http: [{paths: [/a]}]",
            "p.yaml:3:33: error: no port of the service speaks http, so the rule can never match: it declares 80 \
             (grpc), 81 (tcp)",
        ),
    ];
    for (service, rule, expected) in table {
        assert_eq!(told(service, rule), [expected]);
    }
    for (service, rule) in [
        ("/orders", "http: [{paths: [/a]}]"),
        ("/orders", "ports: [8080], http: [{paths: [/a]}]"),
        ("/team/*", "http: [{paths: [/a]}]"),
        ("/team/*", "grpc: [{service: A}]"),
        ("/team/*", "ports: [90], grpc: [{service: A}]"),
        ("/orders", "ports: [8080, 5432]"),
    ] {
        assert!(
            told(service, rule).is_empty(),
            "{service} {rule}: {:?}",
            told(service, rule)
        );
    }
    assert!(told("/orders", "ports: [1], http: [{paths: [/a]}]")[0].contains("does not declare port 1"));
}

#[test]
fn services_that_share_an_id_and_differ_are_told_apart() {
    let mut mesh = mesh();
    let orders = mesh.services.get_mut(&id("/orders")).unwrap();
    orders.insert(8080, [Protocol::Http, Protocol::Tcp].into());
    let text = "name: p\nservice: spiffe://td/orders\nallow: [{from: [spiffe://td/a], ports: [8080], http: [{paths: \
                [/a]}]}]\n";
    let found = findings(&[parsed("p.yaml", text)], Some(&mesh));
    assert!(
        found[0].contains("port 8080 of spiffe://td/orders speaks tcp"),
        "{found:?}"
    );
}

#[test]
fn callers_that_nobody_can_be_are_a_warning() {
    let told = |from: &str| of_rules("/orders", &format!("allow: [{{from: ['spiffe://td{from}']}}]"));
    for from in [
        "/a",
        "/b",
        "/team/*",
        "/team/a",
        "/watchword/publish",
        "/watchword/*",
        "/watchword",
    ] {
        assert!(told(from).is_empty(), "{from}: {:?}", told(from));
    }
    for from in ["/c", "/a/*", "/teams/*", "/team", "/watchwords"] {
        assert_eq!(
            told(from),
            [format!(
                "p.yaml:3:17: warning: `spiffe://td{from}` is no ID of a service or of `registry` in the mesh file: \
                 only a workload with a join token of its own can have it"
            )]
        );
    }
    let unknown = parsed(
        "p.yaml",
        "name: p\nservice: spiffe://td/orders\ndeny: [{from: [spiffe://td/c]}]\n",
    );
    assert!(findings(&[unknown], None).is_empty(), "unknown without the mesh");
}

#[test]
fn who_has_proved_nothing_is_meant_in_permissive_mode_alone() {
    let parsed = || {
        let text = "name: p\nservice: spiffe://td/orders\nallow: [{from: [spiffe://td/a, unauthenticated]}]\n";
        parsed("p.yaml", text)
    };
    assert_eq!(
        findings(&[parsed()], Some(&mesh())),
        [
            "p.yaml:3:32: error: `unauthenticated` needs `mode: permissive` in the mesh file: in strict mode who has no \
          SPIFFE ID is refused"
        ]
    );
    let permissive = MeshContext {
        mode: Mode::Permissive,
        ..mesh()
    };
    for context in [Some(&permissive), None] {
        assert!(findings(&[parsed()], context).is_empty());
    }
}

/// Findings on policies of one file without a mesh, each as
/// `service audit? allow|deny: rule`.
fn of_policies(policies: &[&str]) -> Vec<String> {
    let documents = policies.iter().enumerate().map(|(number, policy)| {
        let (head, rule) = policy.split_once(": ").unwrap();
        let mut words = head.split(' ');
        let (service, rest): (&str, Vec<&str>) = (words.next().unwrap(), words.collect());
        let audit = rest.contains(&"audit");
        let side = rest.last().unwrap();
        format!("name: p{number}\nservice: spiffe://td{service}\naudit: {audit}\n{side}: [{{{rule}}}]\n")
    });
    findings(&[parsed("p.yaml", &documents.collect::<Vec<_>>().join("---\n"))], None)
}

#[test]
fn a_deny_rule_of_another_policy_shadows_too() {
    let allow = "/orders allow: from: [spiffe://td/a], http: [{paths: [/a/b]}]";
    let told = of_policies(&[allow, "/* deny: from: [spiffe://td/*], http: [{paths: [/a/*]}]"]);
    assert_eq!(
        told,
        [
            "p.yaml:4:9: error: allow rule `allow[0]` can never match, for deny beats allow: it is shadowed by deny rule \
          `deny[0]` of policy `p1`; remove one"
        ]
    );
    let both = "/orders allow: from: [spiffe://td/a, spiffe://td/b]";
    let two = of_policies(&[
        both,
        "/orders deny: from: [spiffe://td/a]",
        "/* deny: from: [spiffe://td/b]",
    ]);
    assert!(
        two[0].contains("deny rule `deny[0]` of policy `p1` and `deny[0]` of policy `p2`"),
        "{two:?}"
    );
    let is_told = |policies: &[&str]| !of_policies(policies).is_empty();
    let cases: &[(&[&str], bool)] = &[
        (
            &["/x/* allow: from: [spiffe://td/a]", "/* deny: from: [spiffe://td/a]"],
            true,
        ),
        (
            &["/x/* allow: from: [spiffe://td/a]", "/x/* deny: from: [spiffe://td/a]"],
            true,
        ),
        (
            &["/x/* allow: from: [spiffe://td/a]", "/x deny: from: [spiffe://td/a]"],
            false,
        ),
        (
            &["/x/* allow: from: [spiffe://td/a]", "/x/y deny: from: [spiffe://td/a]"],
            false,
        ),
        (
            &["/* allow: from: [spiffe://td/a]", "/x/* deny: from: [spiffe://td/a]"],
            false,
        ),
        (
            &["/x allow: from: [spiffe://td/a]", "/y deny: from: [spiffe://td/a]"],
            false,
        ),
        (
            &["/x allow: from: [unauthenticated]", "/x deny: from: [unauthenticated]"],
            true,
        ),
        (
            &["/x allow: from: [unauthenticated]", "/x deny: from: [spiffe://td/*]"],
            false,
        ),
        (
            &["/x allow: from: [spiffe://td/a]", "/x deny: from: [spiffe://td/b]"],
            false,
        ),
        (
            &["/x allow: from: [spiffe://td/a/*]", "/x deny: from: [spiffe://td/a]"],
            false,
        ),
        (
            &["/x allow: from: [spiffe://td/a/*]", "/x deny: from: [spiffe://td/a/*]"],
            true,
        ),
        (
            &["/x allow: from: [spiffe://td/a/b]", "/x deny: from: [spiffe://td/a/*]"],
            true,
        ),
        (
            &[
                "/x allow: from: [spiffe://td/a]",
                "/x audit deny: from: [spiffe://td/a]",
            ],
            false,
        ),
        (
            &[
                "/x audit allow: from: [spiffe://td/a]",
                "/x audit deny: from: [spiffe://td/a]",
            ],
            true,
        ),
        (
            &[
                "/x audit allow: from: [spiffe://td/a]",
                "/x deny: from: [spiffe://td/a]",
            ],
            true,
        ),
    ];
    for (policies, expected) in cases {
        assert_eq!(is_told(policies), *expected, "{policies:?}");
    }
}

#[test]
fn denied_requests_of_a_service_that_allows_nothing_are_a_warning() {
    let deny = "/orders deny: from: [spiffe://td/*], http: [{paths: [/a]}]";
    assert_eq!(
        of_policies(&[deny]),
        [
            "p.yaml:1:7: warning: this policy denies requests, and no policy of the service allows any: everything is \
          denied without it"
        ]
    );
    assert_eq!(of_policies(&[deny, "/x allow: from: [spiffe://td/a]"]).len(), 1);
    for allowing in [
        "/orders allow: from: [spiffe://td/a]",
        "/* allow: from: [spiffe://td/a]",
    ] {
        assert!(of_policies(&[deny, allowing]).is_empty(), "{allowing}");
    }
    assert!(of_policies(&["/orders deny: from: [spiffe://td/*]"]).is_empty());
}

#[test]
fn a_set_that_is_too_large_for_a_sidecar_is_told_once() {
    let list = |prefix: &str| (0..300).map(|n| format!("{prefix}{n}")).collect::<Vec<_>>().join(", ");
    let policy = |number: usize| {
        let (paths, hosts) = (list("/"), list("h"));
        format!(
            "name: p{number}\nservice: spiffe://td/s{number}\nallow: [{{from: [spiffe://td/a], http: [{{paths: \
                 [{paths}], hosts: [{hosts}]}}]}}]\n"
        )
    };
    let file = |count: usize| {
        let policies: Vec<String> = (0..count).map(policy).collect();
        parsed("p.yaml", &policies.join("---\n"))
    };
    let most = MAX_SET_WEIGHT / 90_000;
    assert!(findings(&[file(most)], None).is_empty());
    let found = findings(&[file(most + 2)], None);
    assert_eq!(found.len(), 1);
    assert!(
        found[0].contains("up to here the policies spell out 1080000 combinations"),
        "{found:?}"
    );
}
