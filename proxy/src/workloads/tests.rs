//! Who may follow, and how many.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::PathBuf;

use watchword_daemon::{ManualClock, Metrics};
use watchword_mtls::Now;

use super::*;
use crate::address::Address;
use crate::control::ControlPlane;
use crate::dial::Dialler;
use crate::testing::{HOUR, Root, bundle, credentials, id, now};

/// With a control plane that nobody can reach.
fn workloads(callers: &str, credentials: &Credentials, clock: &Arc<dyn Clock>) -> Workloads {
    let control_plane = ControlPlane::new(
        Address::Unix(PathBuf::from("nowhere")),
        id("/watchword/control-plane"),
        Dialler::without_trial(),
    );
    Workloads::new(Means {
        entitled: Entitled::new(serde_saphyr::from_str(callers).unwrap()),
        issuer: WorkloadIssuer {
            control_plane,
            credentials: credentials.clone(),
        },
        credentials: credentials.clone(),
        clock: Arc::clone(clock),
        telemetry: Telemetry::new(&Metrics::new().unwrap().meter()),
    })
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(ManualClock::new(now()))
}

/// With an identity of our own.
fn serving(callers: &str) -> Workloads {
    let (root, clock) = (Root::new(), clock());
    workloads(
        callers,
        &credentials(&root, &id("/proxy"), bundle(&[&root]), &clock),
        &clock,
    )
}

fn user(uid: u32) -> Caller {
    Caller { uid, pid: None }
}

fn process(pid: u32) -> Caller {
    Caller { uid: 7, pid: Some(pid) }
}

fn refused(subscribed: Result<Subscription, Refused>) -> Refused {
    subscribed.err().unwrap()
}

#[tokio::test]
async fn who_is_not_entitled_gets_nothing_and_is_told_what_to_do() {
    let workloads = serving("[{uid: 7}]");
    assert!(workloads.subscribe(&user(7), None).is_ok());
    for uid in [0, 8, u32::MAX] {
        let refused = refused(workloads.subscribe(&user(uid), None));
        assert_eq!(refused, Refused::NotEntitled(uid));
        assert_eq!(
            refused.to_string(),
            format!("no identity for uid {uid}: name it in the proxy's configuration, under `workloadApi.callers`")
        );
    }
    assert_eq!(workloads.lock().len(), 1);
}

#[tokio::test]
async fn without_a_valid_identity_of_our_own_nobody_gets_one() {
    let manual = Arc::new(ManualClock::new(now()));
    let clock: Arc<dyn Clock> = manual.clone();
    let none = Credentials::new(Now::new(now));
    let workloads_without = workloads("[{uid: 7}]", &none, &clock);
    assert_eq!(
        refused(workloads_without.subscribe(&user(7), None)),
        Refused::NoIdentityYet
    );

    let root = Root::new();
    let key = rcgen::KeyPair::generate().unwrap();
    let svid = root.sign(&id("/proxy"), &key, Some(now() + HOUR));
    let judged = Arc::clone(&clock);
    let own = Credentials::new(Now::new(move || judged.now()));
    own.publish(&svid, &key.into(), bundle(&[&root])).unwrap();
    let workloads = workloads("[{uid: 7}]", &own, &clock);
    assert!(workloads.subscribe(&user(7), None).is_ok());
    manual.advance(2 * HOUR);
    assert_eq!(refused(workloads.subscribe(&user(7), None)), Refused::NoIdentityYet);
}

#[tokio::test]
async fn one_caller_has_so_many_streams_and_others_are_not_kept_from_theirs() {
    let workloads = serving("[{uid: any}]");
    let mut streams: Vec<_> = (0..MAX_STREAMS)
        .map(|_| workloads.subscribe(&user(7), None).ok().unwrap())
        .collect();
    assert_eq!(
        refused(workloads.subscribe(&user(7), None)),
        Refused::TooManyStreams(MAX_STREAMS)
    );
    assert!(workloads.subscribe(&user(8), None).is_ok());
    streams.pop();
    assert!(workloads.subscribe(&user(7), None).is_ok());
    // All of them share one set of keys.
    assert_eq!(workloads.lock().len(), 2);
}

#[tokio::test]
async fn so_many_callers_have_keys_and_those_who_left_make_room() {
    let workloads = serving("[{uid: any}]");
    let mut followers: Vec<_> = (0..MAX_CALLERS as u32)
        .map(|pid| workloads.subscribe(&process(pid), None).ok().unwrap())
        .collect();
    let newcomer = process(MAX_CALLERS as u32);
    assert_eq!(
        refused(workloads.subscribe(&newcomer, None)),
        Refused::TooManyCallers(MAX_CALLERS)
    );
    // Who has keys may have more streams.
    assert!(workloads.subscribe(&process(0), None).is_ok());
    let keeper = workloads.lock()[&process(0)].keeper.clone();
    drop(followers.remove(0));
    assert!(workloads.subscribe(&newcomer, None).is_ok());
    assert_eq!(workloads.lock().len(), MAX_CALLERS);
    while !keeper.is_finished() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_reason_why_there_is_none_is_told() {
    let workloads = serving("[{uid: 7}]");
    let mut stream = workloads.subscribe(&user(7), None).ok().unwrap();
    let Err(Refused::Failed(failure)) = stream.next().await else {
        panic!("nobody can have signed");
    };
    assert!(
        !failure.denied && failure.reason.contains("nowhere"),
        "{}",
        failure.reason
    );
}
