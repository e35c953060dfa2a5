//! The exchange with one subscriber.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::snapshots::tests::{policy, snapshots};
use crate::snapshots::{Snapshots, Told};
use crate::testing::id;
use watchword_proto::Policies;

const OURS: &str = "spiffe://example.org/orders";

struct Side {
    snapshots: Snapshots,
    subscription: Subscription,
}

impl Side {
    fn new() -> Self {
        Self {
            snapshots: snapshots(vec![policy("first", OURS)]),
            subscription: Subscription::new(id("/orders"), 7),
        }
    }

    fn updates(&mut self) -> Vec<SnapshotUpdate> {
        let view = self.snapshots.subscribe().borrow().clone();
        self.subscription.updates(&view)
    }

    fn publish(&self, policies: &[(&str, &str)]) {
        let policies = policies.iter().map(|(name, service)| policy(name, service)).collect();
        self.snapshots.publish_mesh(Told {
            policies: Policies {
                policies,
                ..Policies::default()
            },
            ..Told::default()
        });
    }

    fn ack(&mut self, nonce: &str) -> Result<Kind, UnknownNonce> {
        self.subscription.acknowledge(&Ack { nonce: nonce.into() })
    }

    fn nack(&mut self, nonce: &str, reason: &str) -> Result<Kind, UnknownNonce> {
        self.subscription.reject(Nack {
            nonce: nonce.into(),
            reason: reason.into(),
        })
    }

    fn policies(&self) -> Progress {
        self.subscription.progress()[1].1.clone()
    }
}

#[test]
fn a_new_subscriber_gets_everything_once() {
    let mut side = Side::new();
    let updates = side.updates();
    assert_eq!(updates.len(), 3);
    assert!(updates.iter().all(|update| update.epoch == 7 && update.version == 1));
    assert!(side.updates().is_empty());
    for update in &updates {
        side.ack(&update.nonce).unwrap();
    }
    assert!(side.updates().is_empty());
}

#[test]
fn what_changes_before_the_answer_is_sent_after_it_and_only_the_newest() {
    let mut side = Side::new();
    let nonce = side.updates()[1].nonce.clone();
    side.publish(&[("second", OURS)]);
    side.publish(&[("third", OURS)]);
    assert!(side.updates().is_empty());
    assert_eq!(side.ack(&nonce), Ok(Kind::Policies));
    let updates = side.updates();
    assert_eq!((updates.len(), updates[0].version), (1, 3));
    assert_eq!(side.policies().acknowledged, 1);
}

#[test]
fn what_concerns_others_is_not_sent() {
    let mut side = Side::new();
    for update in side.updates() {
        side.ack(&update.nonce).unwrap();
    }
    side.publish(&[("first", OURS), ("theirs", "spiffe://example.org/web")]);
    assert!(side.updates().is_empty());
}

#[test]
fn what_was_refused_is_kept_for_people_and_sent_again_only_when_newer() {
    let mut side = Side::new();
    let nonce = side.updates()[1].nonce.clone();
    side.nack(&nonce, "rule 3 makes no sense").unwrap();
    assert_eq!(side.policies().rejected_because, "rule 3 makes no sense");
    assert!(side.updates().is_empty());
    side.publish(&[("first", OURS), ("theirs", "spiffe://example.org/web")]);
    let again = side.updates();
    assert_eq!(again.len(), 1);
    side.ack(&again[0].nonce).unwrap();
    assert_eq!(
        side.policies(),
        Progress {
            sent: 2,
            acknowledged: 2,
            rejected_because: String::new()
        }
    );
}

#[test]
fn answers_to_nothing_are_errors() {
    let mut side = Side::new();
    let nonce = side.updates()[0].nonce.clone();
    assert!(side.ack("99").is_err());
    side.ack(&nonce).unwrap();
    assert!(side.ack(&nonce).is_err());
    assert!(side.nack(&nonce, "late").is_err());
    assert!(side.ack(&"x".repeat(10_000)).unwrap_err().to_string().len() < 200);
}

#[test]
fn a_reason_is_bounded_and_never_empty() {
    let mut side = Side::new();
    let updates = side.updates();
    side.nack(&updates[1].nonce, &"é".repeat(MAX_REASON)).unwrap();
    assert!(side.policies().rejected_because.len() <= MAX_REASON);
    side.nack(&updates[2].nonce, "").unwrap();
    assert!(!side.subscription.progress()[2].1.rejected_because.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    /// Whatever the order of changes and answers: versions of a kind only
    /// grow, one update per kind waits, and in the end the newest was sent.
    #[test]
    fn versions_only_grow(steps in proptest::collection::vec(0u8..4, 1..40)) {
        let mut side = Side::new();
        let mut waiting: Vec<(usize, u64, String)> = Vec::new();
        let mut highest = [0; 3];
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                0 => side.publish(&[(&format!("policy {number}"), OURS)]),
                1 if !waiting.is_empty() => {
                    let (_, _, nonce) = waiting.remove(number % waiting.len());
                    side.ack(&nonce).unwrap();
                }
                2 if !waiting.is_empty() => {
                    let (_, _, nonce) = waiting.remove(number % waiting.len());
                    side.nack(&nonce, "no").unwrap();
                }
                _ => {}
            }
            for update in side.updates() {
                let kind = match update.resource {
                    Some(Resource::Bundle(_)) => 0,
                    Some(Resource::Policies(_)) => 1,
                    _ => 2,
                };
                prop_assert!(update.version > highest[kind]);
                prop_assert!(waiting.iter().all(|(other, _, _)| *other != kind));
                highest[kind] = update.version;
                waiting.push((kind, update.version, update.nonce));
            }
        }
        let newest = side.snapshots.subscribe().borrow().version(Kind::Policies);
        while let Some((_, _, nonce)) = waiting.pop() {
            side.ack(&nonce).unwrap();
            waiting.extend(side.updates().into_iter().map(|update| (1, update.version, update.nonce)));
        }
        prop_assert_eq!(side.policies().sent, newest);
    }
}
