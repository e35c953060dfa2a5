//! Snapshots: who is told what, and when a version grows.
#![allow(clippy::unwrap_used)]

use watchword_daemon::Metrics;
use watchword_identity::TrustDomain;
use watchword_policy::{Mode, Policy, Requests, Rule};
use watchword_proto::control::snapshot_update::Resource;

use super::*;
use crate::testing::id;

/// Of one trust domain, with a new root.
fn bundle_of(domain: &str) -> Bundle {
    let pem = crate::testing::root().pem();
    Bundle::from_pem(TrustDomain::new(domain).unwrap(), pem.as_bytes()).unwrap()
}

fn bundle() -> Bundle {
    bundle_of("example.org")
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
    Snapshots::new(&bundle(), told(policies), metrics)
}

fn told(policies: Vec<Policy>) -> Told {
    Told {
        policies: Policies {
            policies,
            ..Policies::default()
        },
        ..Told::default()
    }
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
    snapshots.publish_mesh(told(vec![policy("orders", "spiffe://example.org/orders")]));
    assert!(!news.has_changed().unwrap());
    snapshots.publish_mesh(told(Vec::new()));
    assert!(news.has_changed().unwrap());
    assert_eq!(versions(&snapshots), [1, 2, 1]);
    assert_eq!(snapshots.publish_own_roots(&bundle()), 2);
    assert_eq!(versions(&snapshots), [2, 2, 1]);
}

#[test]
fn another_mode_is_told_to_everybody() {
    let snapshots = snapshots(Vec::new());
    snapshots.publish_mesh(Told {
        policies: Policies {
            mode: Mode::Permissive,
            ..Policies::default()
        },
        ..Told::default()
    });
    assert_eq!(versions(&snapshots), [1, 2, 1]);
    let Resource::Policies(told) = snapshots.current().resource(Kind::Policies, &id("/web")) else {
        unreachable!("policies were asked for");
    };
    let told = watchword_proto::policies_from_proto(told).unwrap();
    assert_eq!(told.mode, Mode::Permissive);
}

/// What proxies are told, read as they do.
fn published(snapshots: &Snapshots) -> (Bundle, u64) {
    let view = snapshots.current();
    let (bundle, version) = view.bundle();
    (watchword_proto::bundle_from_proto(bundle.clone()).unwrap(), version)
}

fn with(partners: &Bundle) -> Told {
    Told {
        partners: partners.clone(),
        ..Told::default()
    }
}

#[test]
fn own_and_other_roots_change_in_any_order_and_neither_undoes_the_other() {
    let (own, next) = (bundle(), bundle());
    let (partner, renewed) = (bundle_of("partner.example"), bundle_of("partner.example"));
    let two = partner.clone().with_others(&bundle_of("second.example"));
    let begin = || {
        let metrics = ControlMetrics::new(&Metrics::new().unwrap());
        Snapshots::new(&own, with(&partner), metrics)
    };
    let snapshots = begin();
    assert_eq!(published(&snapshots), (own.clone().with_others(&partner), 1));
    snapshots.publish_mesh(with(&renewed));
    assert_eq!(published(&snapshots), (own.clone().with_others(&renewed), 2));
    assert_eq!(snapshots.publish_own_roots(&next), 3);
    assert_eq!(published(&snapshots), (next.clone().with_others(&renewed), 3));
    let snapshots = begin();
    assert_eq!(snapshots.publish_own_roots(&next), 2);
    snapshots.publish_mesh(with(&two));
    assert_eq!(published(&snapshots), (next.clone().with_others(&two), 3));
    snapshots.publish_mesh(with(&two));
    assert_eq!(published(&snapshots).1, 3, "no news");
    snapshots.publish_mesh(with(&Bundle::default()));
    assert_eq!(published(&snapshots), (next.clone(), 4));
    assert_eq!(snapshots.publish_own_roots(&own), 5);
    assert_eq!(published(&snapshots), (own.clone(), 5));
    assert_eq!(snapshots.current().partners(), &Bundle::default());
}

#[test]
fn nobody_but_the_authority_says_what_the_own_trust_domain_trusts() {
    let (own, next, foreign) = (bundle(), bundle(), bundle());
    let metrics = ControlMetrics::new(&Metrics::new().unwrap());
    let snapshots = Snapshots::new(&own, with(&foreign), metrics);
    assert_eq!(published(&snapshots), (own, 1));
    snapshots.publish_own_roots(&next);
    snapshots.publish_mesh(with(&foreign));
    assert_eq!(published(&snapshots), (next, 2));
}
