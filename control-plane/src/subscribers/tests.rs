//! Who lacks the bundle that is waited for.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use watchword_daemon::Metrics;

use super::*;

pub(crate) fn subscribers() -> Subscribers {
    Subscribers::new(ControlMetrics::new(&Metrics::new().unwrap()))
}

pub(crate) fn acknowledged(bundle: u64) -> [(Kind, Progress); 3] {
    Kind::ALL.map(|kind| {
        let acknowledged = if kind == Kind::Bundle { bundle } else { 99 };
        let progress = Progress {
            sent: 99,
            acknowledged,
            ..Progress::default()
        };
        (kind, progress)
    })
}

pub(crate) fn subscriber(bundle: u64) -> Subscriber {
    Subscriber {
        id: "spiffe://example.org/web".into(),
        instance: String::new(),
        progress: acknowledged(bundle),
    }
}

#[tokio::test]
async fn they_are_counted_as_they_come_answer_and_go() {
    let subscribers = subscribers();
    let first = subscribers.enter(subscriber(1)).unwrap();
    let second = subscribers.enter(subscriber(2)).unwrap();
    subscribers.all_know().await;
    subscribers.want_bundle(2);
    assert_eq!(subscribers.lacking(), 1);
    let late = subscribers.enter(subscriber(0)).unwrap();
    assert_eq!(subscribers.lacking(), 2);
    // Nothing that was waited for, and twice the same.
    second.note(acknowledged(2));
    first.note(acknowledged(1));
    assert_eq!(subscribers.lacking(), 2);
    let waiting = tokio::spawn({
        let subscribers = subscribers.clone();
        async move { subscribers.all_know().await }
    });
    first.note(acknowledged(2));
    first.note(acknowledged(3));
    assert_eq!(subscribers.lacking(), 1);
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    drop(late);
    tokio::time::timeout(Duration::from_secs(30), waiting)
        .await
        .unwrap()
        .unwrap();
    drop((first, second));
    assert_eq!(subscribers.lacking(), 0);
}
