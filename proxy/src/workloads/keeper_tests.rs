//! One caller's certificates over hours, with an authority that has moods.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use rcgen::{KeyPair, PublicKeyData};
use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use watchword_daemon::{ManualClock, Metrics};

use super::*;
use crate::testing::{HOUR, Root, bundle, credentials, id, now};
use crate::workloads::{Refused, Subscription};

const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);
/// Of the runtime's time, in which the tests' clock stands: the keeper looks at
/// it each second.
const A_WHILE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Default)]
enum Mood {
    #[default]
    Signs,
    Fails,
    Denies,
    Overtaken,
    /// Until it is let go, and then signs.
    Hangs,
}

/// IDs and public keys.
type Asked = Vec<(SpiffeId, Vec<u8>)>;

#[derive(Clone)]
struct Authority(Arc<Inner>);

struct Inner {
    root: Root,
    clock: Arc<dyn Clock>,
    moods: Mutex<BTreeMap<String, Mood>>,
    asked: watch::Sender<Asked>,
    let_go: Notify,
}

impl Issue for Authority {
    async fn issue(&self, request: &KeyRequest) -> Result<Svid, ObtainError> {
        use tonic::Code;
        self.0
            .asked
            .send_modify(|asked| asked.push((request.id.clone(), request.public_key.clone())));
        let mood = self.0.moods.lock().unwrap().get(request.id.path()).copied();
        let refused = |code, text: &str| Err(ObtainError::Refused(code, text.into()));
        match mood.unwrap_or_default() {
            Mood::Signs => {}
            Mood::Fails => return Err(ObtainError::Reach("nobody answers".into())),
            Mood::Denies => return refused(Code::PermissionDenied, "not registered"),
            Mood::Overtaken => return refused(Code::Aborted, "replaced meanwhile"),
            Mood::Hangs => self.0.let_go.notified().await,
        }
        let key = KeyPair::try_from(&request.key).unwrap();
        let not_after = self.0.clock.now() + HOUR;
        Ok(self.0.root.sign(&request.id, &key, Some(not_after)))
    }
}

/// A keeper at work, and its follower.
struct Desk {
    authority: Authority,
    clock: Arc<ManualClock>,
    credentials: Credentials,
    latest: watch::Receiver<Latest>,
    keeper: JoinHandle<()>,
}

impl Desk {
    fn open(paths: &[&str], moods: &[(&str, Mood)]) -> Self {
        let manual = Arc::new(ManualClock::new(now()));
        let clock: Arc<dyn Clock> = manual.clone();
        let root = Root::new();
        let credentials = credentials(&root, &id("/proxy"), bundle(&[&root]), &clock);
        let authority = Authority(Arc::new(Inner {
            root,
            clock: Arc::clone(&clock),
            moods: Mutex::default(),
            asked: watch::Sender::default(),
            let_go: Notify::new(),
        }));
        let sender = watch::Sender::new(Latest::Waiting);
        let latest = sender.subscribe();
        let keeper = Keeper::new(
            paths.iter().map(|path| id(path)).collect(),
            authority.clone(),
            (credentials.clone(), clock),
            Telemetry::new(&Metrics::new().unwrap().meter()),
            sender,
        );
        let desk = Self {
            authority,
            clock: manual,
            credentials,
            latest,
            keeper: tokio::spawn(keeper.keep(|latest| latest.receiver_count() == 0)),
        };
        for (path, mood) in moods {
            desk.mood(path, *mood);
        }
        desk
    }

    fn mood(&self, path: &str, mood: Mood) {
        self.authority.0.moods.lock().unwrap().insert(path.into(), mood);
    }

    fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    fn asked(&self) -> Asked {
        self.authority.0.asked.borrow().clone()
    }

    /// Whether so many calls were made, or are made soon.
    async fn is_asked(&self, times: usize) -> bool {
        let mut asked = self.authority.0.asked.subscribe();
        timeout(A_WHILE, asked.wait_for(|asked| asked.len() >= times))
            .await
            .is_ok()
    }

    /// News.
    async fn told(&mut self) -> Latest {
        timeout(A_WHILE, self.latest.changed()).await.unwrap().unwrap();
        self.latest.borrow_and_update().clone()
    }

    async fn ready(&mut self) -> Arc<Material> {
        match self.told().await {
            Latest::Ready(material) => material,
            Latest::None(failure) => panic!("{failure:?}"),
            Latest::Waiting => panic!("nothing yet"),
        }
    }

    async fn failure(&mut self) -> (bool, String) {
        match self.told().await {
            Latest::None(failure) => (failure.denied, failure.reason.to_string()),
            Latest::Ready(_) | Latest::Waiting => panic!("no failure"),
        }
    }

    async fn is_quiet(&mut self) -> bool {
        timeout(A_WHILE, self.latest.changed()).await.is_err()
    }
}

fn paths(material: &Material) -> Vec<String> {
    let ids = material.svids.iter().map(|held| held.svid.id().path().to_owned());
    ids.collect()
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_renewed_around_half_of_its_life_with_a_fresh_key_each_time() {
    let mut desk = Desk::open(&["/web"], &[]);
    let mut keys = BTreeSet::new();
    for times in 1..5 {
        let material = desk.ready().await;
        let held = &material.svids[0];
        let key = KeyPair::try_from(&PrivatePkcs8KeyDer::from(held.key.to_vec())).unwrap();
        assert_eq!(key.subject_public_key_info(), held.svid.public_key());
        assert!(keys.insert(held.svid.public_key().to_vec()));
        assert_eq!(desk.asked().len(), times);
        desk.advance(26 * MINUTE);
        assert!(desk.is_quiet().await);
        desk.advance(8 * MINUTE);
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_costs_nothing_before_the_end_and_then_its_reason_is_told_until_it_is_over() {
    let mut desk = Desk::open(&["/web"], &[]);
    let first = desk.ready().await;
    desk.mood("/web", Mood::Fails);
    for minutes in [34, 20, 6] {
        let before = desk.asked().len();
        desk.advance(minutes * MINUTE);
        assert!(desk.is_asked(before + 1).await);
        assert!(desk.is_quiet().await);
    }
    desk.advance(SECOND);
    assert_eq!(desk.failure().await, (false, "nobody answers".into()));
    desk.mood("/web", Mood::Denies);
    desk.advance(150 * SECOND);
    let (is_denied, reason) = desk.failure().await;
    assert!(is_denied && reason.contains("not registered"), "{reason}");
    desk.mood("/web", Mood::Signs);
    desk.advance(150 * SECOND);
    assert_ne!(desk.ready().await.svids[0].svid, first.svids[0].svid);
}

#[tokio::test(start_paused = true)]
async fn what_got_no_answer_is_asked_for_again_with_the_same_key() {
    let mut desk = Desk::open(&["/web"], &[("/web", Mood::Fails)]);
    desk.failure().await;
    desk.mood("/web", Mood::Signs);
    desk.advance(2 * SECOND);
    let material = desk.ready().await;
    desk.advance(34 * MINUTE);
    desk.ready().await;
    let keys: Vec<Vec<u8>> = desk.asked().into_iter().map(|(_, key)| key).collect();
    assert_eq!(keys.len(), 3);
    assert_eq!(keys[0], keys[1]);
    assert_eq!(keys[1], material.svids[0].svid.public_key());
    assert_ne!(keys[1], keys[2]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_our_own_renewal_has_overtaken_is_made_again_soon() {
    let mut desk = Desk::open(&["/web"], &[("/web", Mood::Overtaken)]);
    desk.failure().await;
    desk.mood("/web", Mood::Signs);
    // Sooner than after any other failure.
    desk.advance(OVERTAKEN);
    desk.ready().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_overtaken_again_and_again_is_made_less_often() {
    let desk = Desk::open(&["/web"], &[("/web", Mood::Overtaken)]);
    for times in 1..=5 {
        assert!(desk.is_asked(times).await, "{times}");
        desk.advance(OVERTAKEN);
    }
    desk.advance(7 * SECOND);
    assert!(!desk.is_asked(6).await);
    desk.advance(9 * SECOND);
    assert!(desk.is_asked(6).await);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_follows_is_not_renewed_and_is_over_when_it_would_be() {
    let mut desk = Desk::open(&["/web"], &[]);
    desk.ready().await;
    let authority = desk.authority.clone();
    drop(desk.latest);
    desk.clock.advance(26 * MINUTE);
    assert!(timeout(A_WHILE, &mut desk.keeper).await.is_err());
    desk.clock.advance(8 * MINUTE);
    timeout(A_WHILE, desk.keeper).await.unwrap().unwrap();
    assert_eq!(authority.0.asked.borrow().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_new_bundle_is_told_with_the_same_certificates() {
    let mut desk = Desk::open(&["/web", "/batch"], &[]);
    let first = desk.ready().await;
    let both = bundle(&[&desk.authority.0.root, &Root::new()]);
    desk.credentials.publish_bundle(both.clone()).unwrap();
    let second = desk.ready().await;
    assert_eq!(*second.bundle, both);
    let same = first.svids.iter().zip(&second.svids);
    assert!(second.svids.len() == 2 && same.into_iter().all(|(one, other)| Arc::ptr_eq(one, other)));
    // A generation of ours that brings no other bundle is no news.
    desk.credentials.publish_bundle(both).unwrap();
    assert!(desk.is_quiet().await);
    assert_eq!(desk.asked().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_ends_or_changes_during_a_call_is_told_without_waiting_for_it() {
    let mut desk = Desk::open(&["/web"], &[]);
    let first = desk.ready().await;
    desk.mood("/web", Mood::Hangs);
    desk.advance(34 * MINUTE);
    assert!(desk.is_asked(2).await);
    let both = bundle(&[&desk.authority.0.root, &Root::new()]);
    desk.credentials.publish_bundle(both.clone()).unwrap();
    let second = desk.ready().await;
    assert!(*second.bundle == both && Arc::ptr_eq(&first.svids[0], &second.svids[0]));
    desk.advance(26 * MINUTE);
    assert!(desk.is_quiet().await);
    desk.advance(SECOND);
    assert!(matches!(desk.told().await, Latest::Waiting));
    // Who comes now does not get what has ended.
    let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
    let mut late = Subscription::new(desk.latest.clone(), place);
    assert!(matches!(late.next().await, Err(Refused::NoAnswer)));
    desk.authority.0.let_go.notify_one();
    assert!(Arc::ptr_eq(&late.next().await.ok().unwrap(), &desk.ready().await));
}

#[tokio::test(start_paused = true)]
async fn several_ids_are_told_in_their_order_and_without_those_that_have_ended() {
    let mut desk = Desk::open(&["/web", "/batch", "/admin"], &[]);
    assert_eq!(paths(&*desk.ready().await), ["/web", "/batch", "/admin"]);
    desk.mood("/batch", Mood::Fails);
    desk.advance(34 * MINUTE);
    assert_eq!(paths(&*desk.ready().await), ["/web", "/batch", "/admin"]);
    desk.advance(26 * MINUTE + SECOND);
    assert_eq!(paths(&*desk.ready().await), ["/web", "/admin"]);
    desk.mood("/batch", Mood::Signs);
    desk.advance(150 * SECOND);
    assert_eq!(paths(&*desk.ready().await), ["/web", "/batch", "/admin"]);
}

#[tokio::test(start_paused = true)]
async fn no_other_id_is_told_in_place_of_the_default_one() {
    let mut desk = Desk::open(&["/web", "/batch"], &[("/web", Mood::Fails)]);
    assert_eq!(desk.failure().await, (false, "nobody answers".into()));
    desk.mood("/web", Mood::Signs);
    desk.advance(2 * SECOND);
    assert_eq!(paths(&*desk.ready().await), ["/web", "/batch"]);
    // Nor when it has ended.
    desk.mood("/web", Mood::Denies);
    desk.advance(34 * MINUTE);
    assert_eq!(paths(&*desk.ready().await), ["/web", "/batch"]);
    desk.advance(26 * MINUTE + SECOND);
    assert!(desk.failure().await.0);
}
