#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use spiffe::{SpiffeId, TrustDomain};

use super::{MeshContext, check_set};
use crate::parse::{Parsed, parse};

fn parsed(file: &str, text: &str) -> Parsed {
    parse(file, text).expect("a good file")
}

fn mesh() -> MeshContext {
    let service = |path: &str, ports: &[u16]| {
        let id = SpiffeId::new(format!("spiffe://td{path}")).unwrap();
        (id, ports.iter().copied().collect())
    };
    MeshContext {
        trust_domains: [TrustDomain::new("td").unwrap()].into(),
        services: [
            service("/orders", &[8080, 5432]),
            service("/team/a", &[80]),
            service("/team/b", &[81]),
        ]
        .into(),
    }
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
             spiffe://td/orders, spiffe://td/team/a, spiffe://td/team/b",
            "a.yaml:3:32: error: `spiffe://elsewhere/a` lies outside of the trust domains of the mesh: expected td",
            "a.yaml:7:47: error: the service does not declare port 8081, so the rule can never match there: it \
             declares 5432, 8080",
            "a.yaml:8:40: error: the service does not declare port 5433, so the rule can never match there: it \
             declares 5432, 8080",
            "a.yaml:12:49: error: the service does not declare port 82, so the rule can never match there: it \
             declares 80, 81",
            "a.yaml:15:10: error: `spiffe://elsewhere/orders` lies outside of the trust domains of the mesh: expected \
             td",
        ]
    );
    assert!(findings(&file, None).is_empty(), "unknown without the mesh");
}

#[test]
fn long_lists_are_cut_short() {
    let mut mesh = mesh();
    for number in 0..20 {
        let id = SpiffeId::new(format!("spiffe://td/x{number}")).unwrap();
        mesh.services.insert(id, [1].into());
    }
    let file = [parsed("a.yaml", "name: p\nservice: spiffe://td/none\n")];
    let found = findings(&file, Some(&mesh));
    assert!(found[0].ends_with(", 15 more"), "{found:?}");
}
