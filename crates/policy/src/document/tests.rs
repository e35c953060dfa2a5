#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::{Node, Value, parse};
use crate::diagnostic::{Position, Report};

fn one(text: &str) -> Node {
    parse("f.yaml", text).unwrap().remove(0)
}

fn get<'n>(node: &'n Node, key: &str) -> &'n Node {
    let Value::Mapping(entries) = &node.value else {
        panic!("not a mapping")
    };
    let is_key = |(name, _): &&(Node, Node)| name.value == Value::Text(key.to_owned());
    &entries.iter().find(is_key).expect("the key").1
}

fn messages(node: &Node, read: impl FnOnce(&Node, &mut Report)) -> Vec<String> {
    let mut report = Report::new("f.yaml");
    read(node, &mut report);
    let diagnostics = report.finish(None::<()>).unwrap_err();
    diagnostics.iter().map(ToString::to_string).collect()
}

#[test]
fn nodes_know_their_kind_spelling_and_place() {
    let node = one("a: 007\nb:\n  - 1.10\n  - \"8080\"\n  - 8080\n  - yes\n  - true\n  - -3\nc:\n");
    assert_eq!(get(&node, "a").value, Value::Text("007".to_owned()));
    let Value::List(items) = &get(&node, "b").value else {
        panic!("not a list")
    };
    let values: Vec<&Value> = items.iter().map(|item| &item.value).collect();
    assert_eq!(
        values,
        [
            &Value::Number("1.10".to_owned()),
            &Value::Text("8080".to_owned()),
            &Value::Integer(8080, "8080".to_owned()),
            &Value::Text("yes".to_owned()),
            &Value::Boolean(true),
            &Value::Number("-3".to_owned()),
        ]
    );
    assert_eq!(items[1].at, Position { line: 4, column: 5 });
    assert_eq!(get(&node, "c").value, Value::Null);
}

#[test]
fn odd_numbers_keep_their_spelling() {
    for text in [
        "1e999",
        ".NaN",
        "-.inf",
        "+1",
        "0o17",
        "1_000",
        "99999999999999999999",
        "1.0",
    ] {
        let spelt = match one(&format!("a: {text}")) {
            Node {
                value: Value::Mapping(entries),
                ..
            } => match &entries[0].1.value {
                Value::Integer(_, spelt) | Value::Number(spelt) | Value::Text(spelt) => spelt.clone(),
                other => panic!("{text} is {other:?}"),
            },
            other => panic!("{other:?}"),
        };
        assert_eq!(spelt, text);
    }
}

#[test]
fn columns_count_characters_and_lines_count_over_documents() {
    let documents = parse("f.yaml", "ü: 1\n---\n\n---\n{é: x, b: y}\n").unwrap();
    assert_eq!(documents.len(), 2, "empty documents are left out");
    assert_eq!(get(&documents[0], "ü").at, Position { line: 1, column: 4 });
    assert_eq!(get(&documents[1], "b").at, Position { line: 5, column: 11 });
}

#[test]
fn an_alias_stands_where_it_is_used_and_reads_as_defined() {
    let node = one("a: &x 0x1F90\nb: *x\n");
    assert_eq!(get(&node, "b").at, Position { line: 2, column: 4 });
    assert_eq!(get(&node, "b").value, Value::Integer(8080, "0x1F90".to_owned()));
}

#[test]
fn broken_yaml_is_one_error_at_its_place() {
    let error = parse("f.yaml", "a: 1\nb: [1, 2\nc: 3\n").unwrap_err();
    assert!(error.line >= 2, "{error}");
    assert!(error.message.starts_with("this is not valid YAML: "), "{error}");
    assert!(!error.message.contains("at line"), "{error}");
    let error = parse("f.yaml", "a: !secret x\n").unwrap_err();
    assert_eq!((error.line, error.column), (1, 12), "{error}");
}

#[test]
fn limits_hold() {
    let deep = "[".repeat(100);
    assert!(parse("f.yaml", &deep).is_err());
    let deep: String = (0..100).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    let error = parse("f.yaml", &deep).unwrap_err();
    assert!(
        error.line > 30 && error.message.contains("too large or too deep"),
        "{error}"
    );
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let previous = format!("*a{}, ", level - 1).repeat(10);
        bomb.push_str(&format!("a{level}: &a{level} [{}]\n", previous.trim_end_matches(", ")));
    }
    assert!(parse("f.yaml", &bomb).is_err());
    assert!(parse("f.yaml", &" ".repeat((16 << 20) + 1)).is_err());
}

#[test]
fn unknown_and_repeated_keys_are_told_with_what_was_meant() {
    let node = one("trust_domain: a\npolices: b\nname: c\nname: d\nzzz: e\n1: f\n");
    let known = &["name", "policies", "trustDomain"];
    let found = messages(&node, |node, report| {
        let fields = node.fields("a mesh file", known, report).unwrap();
        assert_eq!(fields.optional("name").unwrap().value, Value::Text("c".to_owned()));
        assert!(fields.required("policies", "files or folders", report).is_none());
    });
    assert_eq!(
        found,
        [
            "f.yaml:1:1: error: unknown key `trust_domain` in a mesh file: did you mean `trustDomain`?",
            "f.yaml:1:1: error: `policies` is missing in a mesh file: files or folders",
            "f.yaml:2:1: error: unknown key `polices` in a mesh file: did you mean `policies`?",
            "f.yaml:4:1: error: `name` is given twice, first on line 3: keep one",
            "f.yaml:5:1: error: unknown key `zzz` in a mesh file: expected `name`, `policies` or `trustDomain`",
            "f.yaml:6:1: error: expected a key, found the number 1: put it in quotes if it is meant",
        ]
    );
}

#[test]
fn wrong_types_are_told_with_what_was_expected() {
    let node = one("a: 1\nb: x\nc:\nd: 65536\n");
    let found = messages(&node, |node, report| {
        assert_eq!(get(node, "a").text("a name", report), None);
        assert_eq!(get(node, "b").list("ports", report), None);
        assert_eq!(get(node, "c").boolean(report), None);
        assert_eq!(get(node, "d").integer(1..=u16::MAX, "a port", report), None);
        assert_eq!(get(node, "a").scalar("a name", report), Some("1"));
        assert!(get(node, "b").entries("services", report).is_none());
    });
    assert_eq!(
        found,
        [
            "f.yaml:1:4: error: expected a name, found the number 1: put it in quotes if it is meant",
            "f.yaml:2:4: error: expected ports (a list), found \"x\"",
            "f.yaml:2:4: error: expected services (a mapping), found \"x\"",
            "f.yaml:3:2: error: expected `true` or `false`, found nothing",
            "f.yaml:4:4: error: expected a port from 1 to 65535, found the number 65536",
        ]
    );
}
