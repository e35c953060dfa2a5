//! Snapshots: who is told what, and when a version grows.
#![allow(clippy::unwrap_used)]

use watchword_daemon::Metrics;
use watchword_identity::Root;
use watchword_policy::{Requests, Rule};
use watchword_proto::control::snapshot_update::Resource;

use super::*;
use crate::testing::{domain, id};

pub(crate) fn bundle() -> Bundle {
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = params.self_signed(&crate::testing::key()).unwrap();
    let root = Root::from_der(root.der().clone()).unwrap();
    Bundle::new(domain(), vec![root.certificate().clone()]).unwrap()
}

pub(crate) fn policy(name: &str, service: &str) -> Policy {
    let from = vec!["spiffe://example.org/*".parse().unwrap()];
    Policy {
        name: name.into(),
        service: service.parse().unwrap(),
        allow: vec![Rule {
            name: "all".into(),
            from,
            ports: Vec::new(),
            requests: Requests::All,
        }],
        deny: Vec::new(),
        audit: false,
    }
}

pub(crate) fn snapshots(policies: Vec<Policy>) -> Snapshots {
    let metrics = ControlMetrics::new(&Metrics::new().unwrap());
    Snapshots::new(&bundle(), policies, &Directory::default(), metrics)
}

fn versions(snapshots: &Snapshots) -> [u64; 3] {
    let view = snapshots.subscribe().borrow().clone();
    Kind::ALL.map(|kind| view.version(kind))
}

#[test]
fn each_subscriber_is_told_of_the_policies_that_protect_it() {
    let policies = vec![
        policy("orders", "spiffe://example.org/orders"),
        policy("billing", "spiffe://example.org/billing/*"),
        policy("everybody", "spiffe://example.org/*"),
    ];
    let view = snapshots(policies).subscribe().borrow().clone();
    let table = [
        ("/orders", vec!["orders", "everybody"]),
        ("/billing/eu", vec!["billing", "everybody"]),
        ("/billing", vec!["everybody"]),
    ];
    for (path, expected) in table {
        let Resource::Policies(told) = view.resource(Kind::Policies, &id(path)) else {
            unreachable!("policies were asked for");
        };
        let names: Vec<_> = told.policies.into_iter().map(|policy| policy.name).collect();
        assert_eq!(names, expected, "{path}");
    }
}

#[test]
fn a_version_grows_only_when_its_content_changes() {
    let snapshots = snapshots(vec![policy("orders", "spiffe://example.org/orders")]);
    assert_eq!(versions(&snapshots), [1, 1, 1]);
    let mut news = snapshots.subscribe();
    news.borrow_and_update();
    snapshots.publish_mesh(
        vec![policy("orders", "spiffe://example.org/orders")],
        &Directory::default(),
    );
    assert!(!news.has_changed().unwrap());
    snapshots.publish_mesh(Vec::new(), &Directory::default());
    assert!(news.has_changed().unwrap());
    assert_eq!(versions(&snapshots), [1, 2, 1]);
    snapshots.publish_bundle(&bundle());
    assert_eq!(versions(&snapshots), [2, 2, 1]);
}
