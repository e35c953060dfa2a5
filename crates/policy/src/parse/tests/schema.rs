//! deploy/policy.schema.json says what the parser takes, as far as structure
//! goes: editors and `policy check` must not contradict each other.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use jsonschema::Validator;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{
    Just, ProptestConfig, Strategy, any, prop_assert, prop_assert_eq, prop_assume, prop_oneof, proptest,
};
use proptest::sample::{Index, select};
use serde_json::{Map, Value as Json, json};

use crate::document::{self, Node, Value};
use crate::parse::{self, parse, requests, rule};

const SCHEMA: &str = include_str!("../../../../../deploy/policy.schema.json");

fn schema() -> Json {
    serde_json::from_str(SCHEMA).unwrap()
}

fn validator() -> Validator {
    jsonschema::draft202012::new(&schema()).unwrap()
}

fn to_json(node: &Node) -> Json {
    match &node.value {
        Value::Null => Json::Null,
        Value::Boolean(value) => (*value).into(),
        Value::Integer(value, _) => (*value).into(),
        Value::Number(text) => serde_json::from_str(text).unwrap(),
        Value::Text(text) => text.as_str().into(),
        Value::List(items) => items.iter().map(to_json).collect(),
        Value::Mapping(entries) => {
            let entry = |(key, value): &(Node, Node)| (to_json(key).as_str().unwrap().to_owned(), to_json(value));
            Json::Object(entries.iter().map(entry).collect())
        }
    }
}

#[test]
fn the_schema_is_one_and_describes_every_key() {
    assert!(jsonschema::meta::is_valid(&schema()));
    let schema = schema();
    let table = [
        ("", parse::KEYS),
        ("/$defs/rule", rule::KEYS),
        ("/$defs/httpMatch", requests::HTTP_KEYS),
        ("/$defs/grpcMatch", requests::GRPC_KEYS),
        ("/$defs/headerCondition", requests::HEADER_KEYS),
    ];
    for (place, keys) in table {
        let described = schema
            .pointer(&format!("{place}/properties"))
            .unwrap()
            .as_object()
            .unwrap();
        let names: BTreeSet<&str> = described.keys().map(String::as_str).collect();
        assert_eq!(names, keys.iter().copied().collect(), "{place}");
        assert!(described.values().all(|key| key["description"].is_string()), "{place}");
        assert_eq!(schema.pointer(place).unwrap()["additionalProperties"], false, "{place}");
    }
}

#[test]
fn callers_without_an_identity_are_described_as_they_are_read() {
    for (from, is_good) in [
        ("unauthenticated", true),
        ("Unauthenticated", false),
        ("anybody", false),
    ] {
        let policy = json!({"name": "p", "service": "spiffe://td/s", "allow": [{"from": [from]}]});
        assert_eq!(validator().is_valid(&policy), is_good, "{from}");
        assert_eq!(parse("p.yaml", &policy.to_string()).is_ok(), is_good, "{from}");
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The policies in the documentation, which has cases for `policy test` too.
fn documented() -> Vec<String> {
    let text = fs::read_to_string(root().join("docs/mesh-file.md")).unwrap();
    let (_, policies) = text.split_once("## A policy file").unwrap();
    let blocks = policies.split("```yaml\n").skip(1);
    let blocks = blocks.map(|block| block.split_once("```").unwrap().0.to_owned());
    blocks.filter(|block| block.starts_with("name:")).collect()
}

/// The policies of all examples.
fn examples() -> Vec<String> {
    let examples = fs::read_dir(root().join("examples")).unwrap();
    let files = examples.map(|example| example.unwrap().path().join("policies.yaml"));
    files.map(|file| fs::read_to_string(file).unwrap()).collect()
}

#[test]
fn what_is_documented_and_the_examples_are_good() {
    let validator = validator();
    let (documented, examples) = (documented(), examples());
    assert!(documented.len() >= 2 && !examples.is_empty());
    for text in documented.iter().chain(&examples) {
        if let Err(found) = parse("p.yaml", text) {
            panic!("{text}\n{found:#?}");
        }
        for document in document::parse("p.yaml", text).unwrap() {
            let json = to_json(&document);
            let errors: Vec<String> = validator.iter_errors(&json).map(|error| error.to_string()).collect();
            assert!(errors.is_empty(), "{text}\n{errors:#?}");
        }
    }
}

fn list(choices: &[&'static str]) -> impl Strategy<Value = Option<Json>> + use<> {
    let all = choices.to_vec();
    option::of((1..=all.len()).prop_map(move |count| json!(all[..count])))
}

fn object(entries: Vec<(&str, Option<Json>)>) -> Json {
    let given = entries
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)));
    Json::Object(given.collect::<Map<_, _>>())
}

fn any_http() -> impl Strategy<Value = Json> {
    let condition = select(vec![
        json!({"exact": "a"}),
        json!({"prefix": "b"}),
        json!({"present": true}),
    ]);
    let headers = vec(condition, 1..3).prop_map(|conditions| {
        let named = conditions.into_iter().enumerate();
        Json::Object(
            named
                .map(|(number, condition)| (format!("x-{number}"), condition))
                .collect(),
        )
    });
    let parts = (
        list(&["GET", "PUT"]),
        list(&["/a", "/b/*/c", "/d/*"]),
        list(&["a.b", "[::1]"]),
        headers,
        any::<bool>(),
    );
    parts.prop_map(|(methods, paths, hosts, headers, with_headers)| {
        let with_headers = with_headers || (methods.is_none() && paths.is_none() && hosts.is_none());
        let headers = with_headers.then_some(headers);
        object(vec![
            ("methods", methods),
            ("paths", paths),
            ("hosts", hosts),
            ("headers", headers),
        ])
    })
}

fn any_grpc() -> impl Strategy<Value = Json> {
    list(&["Charge", "Refund"]).prop_map(|methods| object(vec![("service", Some(json!("a.B"))), ("methods", methods)]))
}

/// Rules for callers of `who`.
fn any_rules(who: &'static str) -> impl Strategy<Value = Option<Json>> {
    let block = prop_oneof![
        Just(None),
        vec(any_http(), 1..3).prop_map(|items| Some(("http", Json::from(items)))),
        vec(any_grpc(), 1..3).prop_map(|items| Some(("grpc", Json::from(items)))),
    ];
    let ports = option::of(vec(1_u16.., 1..3).prop_map(Json::from));
    let rule = (any::<bool>(), ports, block);
    option::of(vec(rule, 0..3).prop_map(move |rules| {
        let numbered = rules.into_iter().enumerate();
        let rules = numbered.map(|(number, (is_named, ports, block))| {
            let name = is_named.then(|| json!(format!("{who} {number}")));
            let from = json!([format!("spiffe://td/{who}"), format!("spiffe://td/{who}/*")]);
            let (key, block) = block.map_or(("http", None), |(key, block)| (key, Some(block)));
            object(vec![
                ("name", name),
                ("from", Some(from)),
                ("ports", ports),
                (key, block),
            ])
        });
        rules.collect()
    }))
}

fn any_policy() -> impl Strategy<Value = Json> {
    (any_rules("friend"), any_rules("foe"), option::of(any::<bool>())).prop_map(|(allow, deny, audit)| {
        object(vec![
            ("name", Some(json!("p"))),
            ("service", Some(json!("spiffe://td/s"))),
            ("allow", allow),
            ("deny", deny),
            ("audit", audit.map(Json::from)),
        ])
    })
}

/// Pointers to all nodes.
fn places(json: &Json, at: &str, all: &mut Vec<String>) {
    all.push(at.to_owned());
    match json {
        Json::Array(items) => {
            let numbered = items.iter().enumerate();
            numbered.for_each(|(number, item)| places(item, &format!("{at}/{number}"), all));
        }
        Json::Object(entries) => entries
            .iter()
            .for_each(|(key, value)| places(value, &format!("{at}/{key}"), all)),
        _ => {}
    }
}

/// The ways to break a node, or to change it into another good one.
fn mutants(node: &Json) -> Vec<Json> {
    let mut mutants: Vec<Json> = [
        json!(null),
        json!(7),
        json!("x"),
        json!(true),
        json!([]),
        json!({}),
        json!(["x"]),
    ]
    .into_iter()
    .filter(|other| std::mem::discriminant(other) != std::mem::discriminant(node))
    .collect();
    match node {
        Json::Array(items) => {
            mutants.push(json!([]));
            mutants.extend(items.split_last().map(|(_, rest)| rest.iter().cloned().collect()));
        }
        Json::Object(entries) => {
            mutants.push(json!({}));
            let with = |key: &str, value: Json| {
                let mut entries = entries.clone();
                entries.insert(key.to_owned(), value);
                Json::Object(entries)
            };
            mutants.extend([with("bogus", json!(1)), with("exact", json!("a"))]);
            if entries.contains_key("from") {
                mutants.push(with("grpc", json!([{"service": "a.B"}])));
                mutants.push(with("http", json!([{"methods": ["GET"]}])));
            }
            for key in entries.keys() {
                let mut entries = entries.clone();
                entries.remove(key);
                mutants.push(Json::Object(entries));
            }
        }
        Json::Number(_) => mutants.extend([json!(0), json!(65536), json!(1.5), json!(-1)]),
        Json::String(_) => mutants.push(json!("")),
        Json::Bool(value) => mutants.push(json!(!value)),
        Json::Null => {}
    }
    mutants
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn parser_and_schema_take_and_refuse_the_same(policy in any_policy(), place in any::<Index>(), kind in any::<Index>()) {
        thread_local!(static VALIDATOR: Validator = validator());
        let accepts = |policy: &Json| VALIDATOR.with(|validator| validator.is_valid(policy));
        let parsed = parse("p.yaml", &policy.to_string());
        prop_assert!(parsed.is_ok() && accepts(&policy), "{policy}: {parsed:?}");

        let mut all = Vec::new();
        places(&policy, "", &mut all);
        let mut broken = policy;
        let node = broken.pointer_mut(place.get(&all).as_str()).unwrap();
        *node = kind.get(&mutants(node)).clone();
        // A document without anything is left out of a file.
        prop_assume!(!broken.is_null());
        let parsed = parse("p.yaml", &broken.to_string());
        prop_assert_eq!(parsed.is_ok(), accepts(&broken), "{}: {:?}", broken, parsed);
    }
}
