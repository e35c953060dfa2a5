#![allow(clippy::unwrap_used, clippy::panic)]
use std::path::PathBuf;

use watchword_daemon::{Metrics, Readiness, SystemClock};
use watchword_identity::SpiffeId;
use watchword_mtls::Now;
use watchword_proto::control::{Bundle, Directory, PolicySet};

use super::*;
use crate::address::Address;
use crate::dial::Dialler;

/// A follower that has heard nothing yet.
struct Fixture {
    follower: Follower,
    readiness: Readiness,
    seen: Seen,
}

impl Fixture {
    fn new() -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let readiness = Readiness::default();
        let now = Arc::clone(&clock);
        let credentials = Credentials::new(Now::new(move || now.now()));
        let follower = Follower {
            control_plane: ControlPlane::new(
                Address::Unix(PathBuf::from("nowhere")),
                SpiffeId::new("spiffe://example.org/watchword/control-plane").unwrap(),
                Dialler::without_trial(),
            ),
            bundles: Bundles::new(credentials.clone()),
            credentials,
            snapshots: Arc::new(Snapshots::new()),
            clock,
            telemetry: Telemetry::new(&Metrics::new().unwrap().meter()),
            freshness: Freshness::default(),
            instance: "test".into(),
            policies_blocker: readiness.blocker("policies", "none"),
            directory_blocker: readiness.blocker("directory", "none"),
        };
        Self {
            follower,
            readiness,
            seen: Seen::new(),
        }
    }

    /// Nothing when the update was taken, or why it was not.
    fn push(&mut self, (epoch, version): (u64, u64), resource: Option<Resource>) -> Option<String> {
        let update = SnapshotUpdate {
            epoch,
            version,
            nonce: "n".into(),
            resource,
        };
        match self.follower.answer(update, &mut self.seen).message.unwrap() {
            Message::Ack(ack) => {
                assert_eq!(ack.nonce, "n");
                None
            }
            Message::Nack(nack) => Some(nack.reason),
            Message::Hello(_) => panic!("an answer is no greeting"),
        }
    }

    fn refused(&mut self, number: (u64, u64), resource: Option<Resource>, because: &str) {
        let reason = self.push(number, resource).unwrap();
        assert!(reason.contains(because), "{reason}");
    }

    fn names(&self) -> Vec<String> {
        self.follower.snapshots.policy_names().unwrap().to_vec()
    }
}

fn policies(name: &str, schema: u32) -> Option<Resource> {
    let policy = watchword_proto::control::Policy {
        name: name.into(),
        service: "spiffe://example.org/web".into(),
        ..Default::default()
    };
    Some(Resource::Policies(PolicySet {
        schema,
        policies: vec![policy],
        ..Default::default()
    }))
}

#[test]
fn policies_of_another_schema_are_refused_and_the_last_good_ones_stay() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.push((1, 1), policies("good", POLICY_SCHEMA)), None);
    for schema in [POLICY_SCHEMA + 1, u32::MAX, 0] {
        fixture.refused((1, 2), policies("other", schema), "schema");
        assert_eq!(fixture.names(), ["good"]);
    }
    // What was refused took no number: the same one may come again, mended.
    assert_eq!(fixture.push((1, 2), policies("mended", POLICY_SCHEMA)), None);
    assert_eq!(fixture.names(), ["mended"]);
}

#[test]
fn an_older_snapshot_is_refused_and_a_restarted_control_plane_is_not() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.push((3, 7), policies("new", POLICY_SCHEMA)), None);
    for older in [(3, 6), (2, 900), (0, 0)] {
        fixture.refused(older, policies("old", POLICY_SCHEMA), "is older than 3 7");
        assert_eq!(fixture.names(), ["new"]);
    }
    // Each kind is counted by itself.
    let directory = Some(Resource::Directory(Directory::default()));
    assert_eq!(fixture.push((3, 1), directory), None);
    // The same again, by a new stream; then a new start, which counts anew.
    assert_eq!(fixture.push((3, 7), policies("new", POLICY_SCHEMA)), None);
    assert_eq!(fixture.push((4, 1), policies("newer", POLICY_SCHEMA)), None);
    assert_eq!(fixture.names(), ["newer"]);
}

#[test]
fn what_can_not_be_understood_makes_nothing_ready() {
    let mut fixture = Fixture::new();
    fixture.refused((1, 1), None, "does not know");
    fixture.refused((1, 1), Some(Resource::Bundle(Bundle::default())), "");
    fixture.refused((1, 1), policies("other", POLICY_SCHEMA + 1), "schema");
    let mut broken = Directory::default();
    broken.mesh_ranges.push("no range".into());
    fixture.refused((1, 1), Some(Resource::Directory(broken)), "");
    assert_eq!(fixture.readiness.reasons().len(), 2);
    assert!(fixture.follower.snapshots.policies().is_none());
    assert!(fixture.follower.snapshots.directory().is_none());
}
