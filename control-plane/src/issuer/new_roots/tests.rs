//! Which leaves are withheld, for how long, and for whom.
#![allow(clippy::unwrap_used)]

use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use time::OffsetDateTime;

use super::*;
use crate::snapshots::Kind;
use crate::subscribers::tests::{acknowledged, subscriber, subscribers};
use crate::testing::{domain, key, now, uri};

const HOUR: Duration = Duration::from_secs(3600);

struct Root {
    der: CertificateDer<'static>,
    signer: Issuer<'static, KeyPair>,
}

impl Root {
    fn new(name: &str) -> Self {
        let key = key();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let der = params.self_signed(&key).unwrap().der().clone();
        let signer = Issuer::new(params, key);
        Self { der, signer }
    }

    fn leaf(&self, life: Duration) -> Svid {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![uri("spiffe://example.org/web")];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.not_after = OffsetDateTime::from(now() + life);
        let leaf = params.signed_by(&key(), &self.signer).unwrap();
        Svid::from_chain(vec![leaf.der().clone()]).unwrap()
    }
}

fn bundle(roots: &[&Root]) -> Bundle {
    Bundle::new(domain(), roots.iter().map(|root| root.der.clone()).collect()).unwrap()
}

/// An old root, a new one, and one proxy that was told of both.
struct Scene {
    old: Root,
    new: Root,
    subscribers: Subscribers,
    new_roots: NewRoots,
}

impl Scene {
    fn new() -> Self {
        let (old, new) = (Root::new("old"), Root::new("new"));
        let subscribers = subscribers();
        let new_roots = NewRoots::new(subscribers.clone());
        Self {
            old,
            new,
            subscribers,
            new_roots,
        }
    }

    fn announce(&self) {
        let (before, next) = (bundle(&[&self.old]), bundle(&[&self.old, &self.new]));
        self.new_roots.announce(&domain(), &before, &next, 2);
    }

    /// How long a leaf is held.
    async fn held(&self, leaf: &Svid) -> Duration {
        let began = Instant::now();
        let both = bundle(&[&self.old, &self.new]);
        self.new_roots.let_through(leaf, &both, now()).await;
        began.elapsed()
    }
}

fn about(held: Duration, expected: u64) -> bool {
    held >= Duration::from_secs(expected) && held < Duration::from_secs(expected) + Duration::from_millis(50)
}

#[tokio::test(start_paused = true)]
async fn a_leaf_of_a_new_root_is_held_ten_seconds_for_a_proxy_that_never_answers() {
    let scene = Scene::new();
    let _hangs = scene.subscribers.enter(subscriber(1)).unwrap();
    scene.announce();
    assert!(about(scene.held(&scene.new.leaf(HOUR)).await, 10));
    // That was it, for all leaves.
    assert_eq!(scene.held(&scene.new.leaf(HOUR)).await, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn ten_seconds_count_from_the_publication() {
    let scene = Scene::new();
    let _hangs = scene.subscribers.enter(subscriber(1)).unwrap();
    scene.announce();
    tokio::time::advance(Duration::from_secs(7)).await;
    assert!(about(scene.held(&scene.new.leaf(HOUR)).await, 3));
}

#[tokio::test(start_paused = true)]
async fn it_is_given_as_soon_as_all_have_acknowledged_or_left() {
    let scene = Scene::new();
    let answers = scene.subscribers.enter(subscriber(1)).unwrap();
    let leaves = scene.subscribers.enter(subscriber(1)).unwrap();
    let _knows = scene.subscribers.enter(subscriber(2)).unwrap();
    scene.announce();
    let leaf = scene.new.leaf(HOUR);
    let proxies = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        answers.note(acknowledged(2));
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(leaves);
    };
    let (held, ()) = tokio::join!(scene.held(&leaf), proxies);
    assert!(about(held, 2), "{held:?}");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_no_acknowledgement_and_blocks_no_longer_than_silence() {
    let scene = Scene::new();
    let refuses = scene.subscribers.enter(subscriber(1)).unwrap();
    scene.announce();
    let mut progress = acknowledged(1);
    for (kind, progress) in &mut progress {
        if *kind == Kind::Bundle {
            progress.rejected_because = "no".into();
        }
    }
    refuses.note(progress);
    assert!(about(scene.held(&scene.new.leaf(HOUR)).await, 10));
}

#[tokio::test(start_paused = true)]
async fn leaves_that_an_old_root_vouches_for_are_never_held() {
    let scene = Scene::new();
    let _hangs = scene.subscribers.enter(subscriber(1)).unwrap();
    scene.announce();
    assert_eq!(scene.held(&scene.old.leaf(HOUR)).await, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn nobody_connected_means_nobody_to_wait_for() {
    let scene = Scene::new();
    scene.announce();
    assert_eq!(scene.held(&scene.new.leaf(HOUR)).await, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_short_lived_leaf_is_held_for_a_quarter_of_its_life() {
    let scene = Scene::new();
    let _hangs = scene.subscribers.enter(subscriber(1)).unwrap();
    scene.announce();
    assert!(about(scene.held(&scene.new.leaf(Duration::from_secs(8))).await, 2));
}

#[tokio::test(start_paused = true)]
async fn each_new_root_has_ten_seconds_of_its_own() {
    let scene = Scene::new();
    let newest = Root::new("newest");
    let _hangs = scene.subscribers.enter(subscriber(1)).unwrap();
    scene.announce();
    tokio::time::advance(Duration::from_secs(6)).await;
    let (before, next) = (
        bundle(&[&scene.old, &scene.new]),
        bundle(&[&scene.old, &scene.new, &newest]),
    );
    scene.new_roots.announce(&domain(), &before, &next, 3);
    let began = Instant::now();
    scene.new_roots.let_through(&scene.new.leaf(HOUR), &next, now()).await;
    assert!(about(began.elapsed(), 4));
    scene.new_roots.let_through(&newest.leaf(HOUR), &next, now()).await;
    assert!(about(began.elapsed(), 10));
}
