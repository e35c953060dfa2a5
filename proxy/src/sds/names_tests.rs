//! Names: what each stands for, and that versions follow the content.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use super::*;
use crate::testing::{Root, bundle, ders, domain, held, id, material};
use crate::workloads::Held;

/// Two SVIDs of our trust domain, and the roots of another one.
struct Fixture {
    own: Root,
    partner: Root,
    web: Arc<Held>,
    batch: Arc<Held>,
}

impl Fixture {
    fn new() -> Self {
        let own = Root::new();
        Self {
            web: held(&own, &id("/web")),
            batch: held(&own, &id("/batch")),
            partner: Root::new(),
            own,
        }
    }

    fn bundle(&self) -> Bundle {
        let partner = ders(&[&self.partner]);
        bundle(&[&self.own]).with(domain("partner.example"), partner).unwrap()
    }

    fn material(&self) -> Material {
        material(&[&self.web, &self.batch], self.bundle())
    }
}

fn secret(name: &str, material: &Material) -> Option<Packed> {
    find(name, material).map(|named| {
        assert_eq!(named.name, name);
        named.secret
    })
}

fn version(name: &str, material: &Material) -> String {
    find(name, material).unwrap().version
}

#[test]
fn each_name_stands_for_what_the_table_says() {
    let fixture = Fixture::new();
    let material = fixture.material();
    let of = |name: &str, held: &Held| tls_certificate(name, &held.svid, &held.key);
    let all = material.bundle.clone();
    let roots = |name: &str, of: &str| {
        let of = domain(of);
        validation_context(name, [(&of, all.roots(&of))])
    };
    let table = [
        ("default", of("default", &fixture.web)),
        ("spiffe://example.org/web", of("spiffe://example.org/web", &fixture.web)),
        (
            "spiffe://example.org/batch",
            of("spiffe://example.org/batch", &fixture.batch),
        ),
        ("ROOTCA", roots("ROOTCA", "example.org")),
        ("ALL", validation_context("ALL", all.iter())),
        ("spiffe://example.org", roots("spiffe://example.org", "example.org")),
        (
            "spiffe://partner.example",
            roots("spiffe://partner.example", "partner.example"),
        ),
    ];
    for (name, expected) in &table {
        assert!(secret(name, &material).as_ref() == Some(expected), "{name}");
    }
    assert_eq!(known(&material), table.map(|(name, _)| name));
}

#[test]
fn nothing_else_is_known() {
    let material = Fixture::new().material();
    let unknown = [
        "",
        "*",
        "Default",
        "rootca",
        "example.org",
        "spiffe://example.org/",
        "spiffe://example.org/we",
        "spiffe://example.org/web/1",
        "spiffe://partner.example/web",
        "spiffe://other.example",
    ];
    for name in unknown {
        assert!(find(name, &material).is_none(), "{name:?}");
    }
}

/// The names whose version differs.
fn changed(before: &Material, after: &Material) -> Vec<String> {
    let names = known(before).into_iter().chain(known(after));
    let mut changed: Vec<String> = names
        .filter(|name| {
            let (old, new) = (find(name, before), find(name, after));
            let same_content = old.as_ref().map(|named| &named.secret) == new.as_ref().map(|named| &named.secret);
            let differs = old.map(|named| named.version) != new.map(|named| named.version);
            assert_eq!(differs, !same_content, "{name}");
            differs
        })
        .collect();
    changed.dedup();
    changed.sort_unstable();
    changed.dedup();
    changed
}

#[test]
fn a_version_changes_with_the_content_and_only_with_it() {
    let fixture = Fixture::new();
    let (before, other) = (fixture.material(), Root::new());
    let svids = [&fixture.web, &fixture.batch];
    let renewed = held(&fixture.own, &id("/batch"));
    let two_roots =
        |own: &[&Root], partner: &[&Root]| bundle(own).with(domain("partner.example"), ders(partner)).unwrap();
    let table: [(&str, Material, &[&str]); 7] = [
        ("the same again", fixture.material(), &[]),
        (
            "the second SVID is renewed",
            material(&[&fixture.web, &renewed], fixture.bundle()),
            &["spiffe://example.org/batch"],
        ),
        (
            "the first SVID is another one",
            material(&[&fixture.batch, &fixture.web], fixture.bundle()),
            &["default"],
        ),
        (
            "a root of ours",
            material(&svids, two_roots(&[&fixture.own, &other], &[&fixture.partner])),
            &["ALL", "ROOTCA", "spiffe://example.org"],
        ),
        (
            "another root of the partner's",
            material(&svids, two_roots(&[&fixture.own], &[&other])),
            &["ALL", "spiffe://partner.example"],
        ),
        (
            "no partner",
            material(&svids, bundle(&[&fixture.own])),
            &["ALL", "spiffe://partner.example"],
        ),
        (
            "the two domains' roots are swapped",
            material(&svids, two_roots(&[&fixture.partner], &[&fixture.own])),
            &["ALL", "ROOTCA", "spiffe://example.org", "spiffe://partner.example"],
        ),
    ];
    for (what, after, expected) in table {
        assert_eq!(changed(&before, &after), expected, "{what}");
    }
}

#[test]
fn one_root_for_two_trust_domains_has_a_version_in_each() {
    let fixture = Fixture::new();
    let own = ders(&[&fixture.own]);
    let both = bundle(&[&fixture.own]).with(domain("partner.example"), own).unwrap();
    let material = material(&[&fixture.web], both);
    let versions = ["spiffe://example.org", "spiffe://partner.example", "ALL"].map(|name| version(name, &material));
    assert_ne!(versions[0], versions[1]);
    assert_ne!(versions[0], versions[2]);
    assert_eq!(version("ROOTCA", &material), versions[0]);
}
