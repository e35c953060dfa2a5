//! The stream of snapshots.

use tonic::Code;
use watchword_policy::{Policy, Requests, Rule};
use watchword_proto::control::snapshot_update::Resource;
use watchword_proto::control::subscribe_request::Message;
use watchword_proto::control::{Ack, Hello, Nack};
use watchword_proto::directory::Directory;

use crate::harness::{HOUR, Place, policy_names, reason};

fn policy(name: &str, service: &str) -> Policy {
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

fn ack(nonce: &str) -> Message {
    Message::Ack(Ack { nonce: nonce.into() })
}

#[tokio::test]
async fn a_subscriber_gets_its_snapshots_and_its_answers_are_kept() {
    let place = Place::new();
    let policies = vec![
        policy("web", "spiffe://example.org/web"),
        policy("orders", "spiffe://example.org/orders"),
    ];
    let plane = place.start(policies).await.unwrap();
    let workload = plane.workload("/web").await;
    let mut subscriber = plane.subscribe(&workload).await.unwrap();
    subscriber.hello().await;
    let (bundle, policies, directory) = (
        subscriber.next().await,
        subscriber.next().await,
        subscriber.next().await,
    );
    assert!(matches!(bundle.resource, Some(Resource::Bundle(_))));
    assert_eq!((policies.epoch, policies.version), (1, 1));
    subscriber.send(ack(&bundle.nonce)).await;
    subscriber
        .send(Message::Nack(Nack {
            nonce: directory.nonce,
            reason: "too large".into(),
        }))
        .await;
    subscriber.send(ack(&policies.nonce)).await;
    assert_eq!(policy_names(policies), ["web"]);
    let Some(Resource::Directory(directory)) = directory.resource else {
        panic!("the third is the directory");
    };
    let directory = Directory::try_from(directory).unwrap();
    let orders = directory
        .services
        .iter()
        .find(|service| service.name == "orders")
        .unwrap();
    assert_eq!((orders.endpoints.len(), orders.endpoints[0].ports.len()), (1, 2));
    // The answers are on their way: the status shows them when they have come.
    let states = loop {
        let status = plane.status().await;
        let states = status.subscribers[0].snapshots.clone();
        if states[1].acknowledged == 1 {
            break states;
        }
        tokio::task::yield_now().await;
    };
    let shown: Vec<_> = states
        .iter()
        .map(|state| (state.kind.as_str(), state.sent, state.acknowledged))
        .collect();
    assert_eq!(shown, [("bundle", 1, 1), ("policies", 1, 1), ("directory", 1, 0)]);
    assert_eq!(states[2].rejected_because, "too large");
    assert!(
        plane
            .metrics()
            .contains("watchword_snapshots_rejected_total{kind=\"directory\"} 1")
    );
    drop(subscriber);
    while !plane.status().await.subscribers.is_empty() {
        tokio::task::yield_now().await;
    }
    plane.stop().await;
}

#[tokio::test]
async fn what_is_not_agreed_upon_ends_the_stream_with_a_reason() {
    let place = Place::new();
    let plane = place.start(Vec::new()).await.unwrap();
    let workload = plane.workload("/web").await;
    let hello = |instance: String| {
        Message::Hello(Hello {
            instance,
            policy_schema: 1,
        })
    };
    let table: [(&[Message], &str); 5] = [
        (&[ack("1")], "no-hello"),
        (&[hello("x".repeat(129))], "instance-too-long"),
        (&[hello(String::new()), ack("77")], "unknown-nonce"),
        (
            &[
                hello(String::new()),
                Message::Nack(Nack {
                    nonce: String::new(),
                    reason: String::new(),
                }),
            ],
            "unknown-nonce",
        ),
        (&[hello(String::new()), hello(String::new())], "unexpected-message"),
    ];
    for (messages, expected) in table {
        let subscriber = plane.subscribe(&workload).await.unwrap();
        for message in messages {
            subscriber.send(message.clone()).await;
        }
        let end = subscriber.end().await;
        assert_eq!((end.code(), reason(&end).as_str()), (Code::InvalidArgument, expected));
    }
}

#[tokio::test]
async fn a_stream_ends_with_the_svid_that_it_was_made_with() {
    let place = Place::new();
    let plane = place.start(Vec::new()).await.unwrap();
    let workload = plane.workload("/web").await;
    let mut subscriber = plane.subscribe(&workload).await.unwrap();
    subscriber.hello().await;
    subscriber.next().await;
    place.clock.advance(HOUR);
    let end = subscriber.end().await;
    assert_eq!((end.code(), reason(&end).as_str()), (Code::Unauthenticated, "expired"));
}

#[tokio::test]
async fn a_stop_ends_streams_with_a_reason_and_within_five_seconds() {
    let place = Place::new();
    let plane = place.start(Vec::new()).await.unwrap();
    let workload = plane.workload("/web").await;
    let subscriber = plane.subscribe(&workload).await.unwrap();
    subscriber.hello().await;
    // A caller that never says anything must not hold up the end.
    let silent = plane.subscribe(&workload).await.unwrap();
    let began = std::time::Instant::now();
    let (end, ()) = tokio::join!(subscriber.end(), plane.stop());
    assert_eq!((end.code(), reason(&end).as_str()), (Code::Unavailable, "shutdown"));
    assert!(began.elapsed() < std::time::Duration::from_secs(5));
    drop(silent);
}
