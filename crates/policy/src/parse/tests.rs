#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod requests;
mod schema;

use proptest::collection::vec;
use proptest::prelude::{Strategy, proptest};
use proptest::sample::select;

use super::parse;
use crate::model::{Policy, Rule};
use crate::requests::Requests;

const GOOD: &str = "\
name: orders
service: spiffe://example.org/orders
allow:
  - name: web reads orders
    from: [spiffe://example.org/web]
    ports: [8080]
  - from:
      - spiffe://example.org/billing/*
deny:
  - {name: not from the lab, from: [spiffe://example.org/lab/*]}
audit: true
---
# nothing here
---
name: closed
service: spiffe://example.org/team/*
";

/// `file:line:column: severity: message` of all that is wrong.
fn errors(text: &str) -> Vec<String> {
    let diagnostics = parse("p.yaml", text).expect_err("an error");
    diagnostics.iter().map(ToString::to_string).collect()
}

/// The only error; `rules` stand below a good head of three lines.
fn rule_error(rules: &str) -> String {
    let text = format!("name: p\nservice: spiffe://td/s\nallow:\n{rules}");
    let found = errors(&text);
    assert_eq!(found.len(), 1, "{found:#?}");
    found[0].clone()
}

#[test]
fn a_good_file_is_read_whole() {
    let parsed = parse("p.yaml", GOOD).unwrap();
    assert!(parsed.warnings.is_empty());
    let rule = |name: &str, from: &str, ports: &[u16]| Rule {
        name: name.to_owned(),
        from: vec![from.parse().unwrap()],
        ports: ports.to_vec(),
        requests: Requests::All,
    };
    let orders = Policy {
        name: "orders".to_owned(),
        service: "spiffe://example.org/orders".parse().unwrap(),
        allow: vec![
            rule("web reads orders", "spiffe://example.org/web", &[8080]),
            rule("allow[1]", "spiffe://example.org/billing/*", &[]),
        ],
        deny: vec![rule("not from the lab", "spiffe://example.org/lab/*", &[])],
        audit: true,
    };
    let closed = Policy {
        name: "closed".to_owned(),
        service: "spiffe://example.org/team/*".parse().unwrap(),
        allow: vec![],
        deny: vec![],
        audit: false,
    };
    assert_eq!(parsed.into_policies().collect::<Vec<_>>(), [orders, closed]);
}

#[test]
fn all_errors_of_a_file_are_told_in_its_order() {
    let text = "\
name: 7
servise: spiffe://td/s
allow:
  - from: []
  - {from: spiffe://td/a, ports: [0, 65536, web]}
  - ports: [80]
deny: everything
audit: maybe
---
- name: p
";
    assert_eq!(
        errors(text),
        [
            "p.yaml:1:1: error: `service` is missing in a policy: whom it protects, as spiffe://TRUST-DOMAIN/PATH",
            "p.yaml:1:7: error: expected the name of a policy, found the number 7: put it in quotes if it is meant",
            "p.yaml:2:1: error: unknown key `servise` in a policy: did you mean `service`?",
            "p.yaml:4:11: error: `from` is empty: list at least one SPIFFE ID, or leave the rule out",
            "p.yaml:5:12: error: expected SPIFFE IDs (a list), found \"spiffe://td/a\"",
            "p.yaml:5:35: error: expected a port from 1 to 65535, found the number 0",
            "p.yaml:5:38: error: expected a port from 1 to 65535, found the number 65536",
            "p.yaml:5:45: error: expected a port from 1 to 65535, found \"web\"",
            "p.yaml:6:5: error: `from` is missing in a rule: the list of those who call; a rule for nobody means nothing",
            "p.yaml:7:7: error: expected rules (a list), found \"everything\"",
            "p.yaml:8:8: error: expected `true` or `false`, found \"maybe\"",
            "p.yaml:10:1: error: expected a policy (a mapping), found a list",
        ]
    );
}

#[test]
fn ids_are_refused_with_what_is_wrong() {
    let cases = [
        (
            "web",
            "p.yaml:4:12: error: \"web\" is not a SPIFFE ID: expected spiffe://TRUST-DOMAIN/PATH",
        ),
        ("spiffe://td/*/x", "`*` may only be the whole last segment"),
        ("spiffe://td/x*", "`*` may only be the whole last segment"),
        ("spiffe://td", "the path is missing"),
        ("spiffe://TD/x", "canonical form: spiffe://td/x"),
        ("Unauthenticated", "\"Unauthenticated\" is not a SPIFFE ID"),
    ];
    for (id, expected) in cases {
        let error = rule_error(&format!("  - from: [\"{id}\"]\n"));
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn an_explicit_nothing_never_means_all() {
    for ports in ["[]", "~", ""] {
        let error = rule_error(&format!("  - from: [spiffe://td/a]\n    ports: {ports}\n"));
        assert!(error.starts_with("p.yaml:5:"), "{error}");
        assert!(error.contains("ports"), "{error}");
    }
    assert!(rule_error("").contains("expected rules (a list), found nothing"));
}

#[test]
fn rule_names_are_unique_within_a_policy_also_against_default_ones() {
    let error = rule_error("  - {name: a, from: [spiffe://td/a]}\n  - {name: a, from: [spiffe://td/b]}\n");
    assert!(
        error.starts_with("p.yaml:5:5: error: two rules of this policy are named `a`"),
        "{error}"
    );
    assert!(error.contains("on line 4"), "{error}");
    let error = rule_error("  - {name: 'allow[1]', from: [spiffe://td/a]}\n  - {from: [spiffe://td/b]}\n");
    assert!(error.contains("are named `allow[1]`"), "{error}");
    let error = rule_error("  - {name: a, from: [spiffe://td/a]}\ndeny:\n  - {name: a, from: [spiffe://td/b]}\n");
    assert!(error.starts_with("p.yaml:6:5: error: two rules"), "{error}");
    for name in ["''", "' a'", "\"a\\nb\"", &"x".repeat(129)] {
        let error = rule_error(&format!("  - {{name: {name}, from: [spiffe://td/a]}}\n"));
        assert!(
            error.contains("expected the name of a rule: 1 to 128 characters"),
            "{error}"
        );
    }
}

#[test]
fn an_allow_rule_without_effect_is_told() {
    let with = |allow: &str, deny: &str| {
        let text = format!("name: p\nservice: spiffe://td/s\nallow:\n  - {allow}\ndeny:\n{deny}");
        parse("p.yaml", &text).err().map(|found| found[0].to_string())
    };
    let shadowed = [
        ("{name: x, from: [spiffe://td/a]}", "  - {from: [spiffe://td/a]}\n"),
        (
            "{name: x, from: [spiffe://td/a, spiffe://td/b/*]}",
            "  - {from: [spiffe://td/*]}\n",
        ),
        (
            "{name: x, from: [spiffe://td/a], ports: [1]}",
            "  - {from: [spiffe://td/a], ports: [1, 2]}\n",
        ),
        (
            "{name: x, from: [spiffe://td/a], ports: [1, 2]}",
            "  - {from: [spiffe://td/a], ports: [1]}\n  - {from: [spiffe://td/a], ports: [2]}\n",
        ),
    ];
    for (allow, deny) in shadowed {
        let error = with(allow, deny).expect("an error");
        assert!(
            error.starts_with("p.yaml:4:5: error: allow rule `x` can never match"),
            "{error}"
        );
        assert!(error.contains("shadowed by deny rule `deny[0]`"), "{error}");
    }
    let effective = [
        (
            "{name: x, from: [spiffe://td/a]}",
            "  - {from: [spiffe://td/a], ports: [1]}\n",
        ),
        (
            "{name: x, from: [spiffe://td/a, spiffe://td/b]}",
            "  - {from: [spiffe://td/a]}\n",
        ),
        ("{name: x, from: [spiffe://td/a/*]}", "  - {from: [spiffe://td/a]}\n"),
        (
            "{name: x, from: [spiffe://td/a], ports: [1, 2]}",
            "  - {from: [spiffe://td/a], ports: [1]}\n",
        ),
    ];
    for (allow, deny) in effective {
        assert_eq!(with(allow, deny), None, "{allow} against {deny}");
    }
}

#[test]
fn a_whole_trust_domain_is_a_warning_in_allow_only() {
    let text = "name: p\nservice: spiffe://td/s\nallow:\n  - {from: [spiffe://td/*], ports: [1]}\n";
    let warnings = parse("p.yaml", text).unwrap().warnings;
    assert_eq!(warnings.len(), 1);
    assert_eq!(
        warnings[0].to_string(),
        "p.yaml:4:13: warning: `spiffe://td/*` allows every workload of the trust domain"
    );
    let deny = text.replace("allow", "deny");
    assert!(parse("p.yaml", &deny).unwrap().warnings.is_empty());
    assert_eq!(parse("p.yaml", "# later\n").unwrap().warnings.len(), 1, "an empty file");
}

#[test]
fn line_ends_of_other_systems_are_taken() {
    let parsed = parse("p.yaml", &GOOD.replace('\n', "\r\n")).unwrap();
    assert_eq!(parsed.policies.len(), 2);
    assert_eq!(parsed.policies[1].name_at.line, 15);
    assert!(parse("p.yaml", &format!("\u{feff}{GOOD}")).is_ok(), "a byte order mark");
}

fn any_yaml() -> impl Strategy<Value = String> {
    let pieces = vec![
        "name",
        "service",
        "allow",
        "deny",
        "from",
        "ports",
        "audit",
        "http",
        "grpc",
        "methods",
        "paths",
        "hosts",
        "headers",
        "exact",
        "GET",
        "/a",
        "- {from: [spiffe://td/a], http: [{",
        ": ",
        ":",
        "- ",
        "\n",
        "\n  ",
        "\n    ",
        "[",
        "]",
        "{",
        "}",
        ", ",
        "'",
        "\"",
        "&a ",
        "*a",
        "<<",
        "---\n",
        "|",
        ">",
        "!",
        "!!str ",
        "#",
        "spiffe://td/",
        "*",
        "80",
        "-1",
        "1e999",
        ".nan",
        "~",
        "true",
        "ü",
        "\t",
        "\u{0}",
    ];
    vec(select(pieces), 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(3000))]

    #[test]
    fn no_text_makes_it_panic(text in ".*") {
        let _ = parse("p.yaml", &text);
    }

    #[test]
    fn no_yaml_makes_it_panic(text in any_yaml()) {
        let _ = parse("p.yaml", &text);
        let _ = parse("p.yaml", &format!("{GOOD}\n---\n{text}"));
    }

    // A carriage return alone ends a line of YAML, and not one of Rust.
    #[test]
    fn a_cut_or_changed_file_is_told_at_a_place_that_exists(cut in 0..GOOD.len(), change in "[^\r]{0,3}") {
        let text = format!("{}{change}{}", &GOOD[..cut], &GOOD[cut..]);
        for diagnostic in parse("p.yaml", &text).err().into_iter().flatten() {
            assert!(diagnostic.line >= 1 && diagnostic.column >= 1, "{diagnostic}");
            assert!(diagnostic.line <= text.lines().count() as u64 + 1, "{diagnostic}");
        }
    }
}
