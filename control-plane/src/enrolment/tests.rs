//! Enrolment with an authority that fails, hangs, or signs something else.
#![allow(clippy::unwrap_used)]

use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use watchword_daemon::{ManualClock, Metrics};
use watchword_identity::Bundle;

use super::*;
use crate::authority::{Authority, AuthorityError, EmbeddedAuthority, SignRequest};
use crate::store::FileStore;
use crate::testing::{domain, id, key, now, request};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Signs,
    Fails,
    Hangs,
    SignsForAnother,
    SignsForLonger,
}

#[derive(Debug)]
struct Moody {
    mood: Mutex<Mood>,
    revoked: Mutex<Vec<String>>,
    inner: EmbeddedAuthority,
}

#[tonic::async_trait]
impl Authority for Moody {
    fn name(&self) -> &'static str {
        "moody"
    }

    async fn sign(&self, request: SignRequest<'_>) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
        let mood = *self.mood.lock().unwrap();
        let orders = id("/orders");
        match mood {
            Mood::Signs => self.inner.sign(request).await,
            Mood::Fails => Err(AuthorityError::Unavailable("sealed".into())),
            Mood::Hangs => std::future::pending().await,
            Mood::SignsForAnother => self.inner.sign(SignRequest { id: &orders, ..request }).await,
            Mood::SignsForLonger => {
                self.inner
                    .sign(SignRequest {
                        ttl: request.ttl * 2,
                        ..request
                    })
                    .await
            }
        }
    }

    fn bundle(&self) -> Bundle {
        self.inner.bundle()
    }

    fn has_revoked(&self, serial: &str) -> bool {
        self.revoked.lock().unwrap().iter().any(|revoked| revoked == serial)
    }

    async fn maintain(&self, now: SystemTime) -> Result<(), AuthorityError> {
        self.inner.maintain(now).await
    }
}

struct Office {
    _folder: tempfile::TempDir,
    authority: Arc<Moody>,
    enrolment: Arc<Enrolment>,
}

impl Office {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let store = Arc::new(FileStore::open(&state).unwrap());
        let inner = EmbeddedAuthority::open(&state, &domain(), now()).unwrap();
        let authority = Arc::new(Moody {
            mood: Mutex::new(Mood::Signs),
            revoked: Mutex::default(),
            inner,
        });
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(now()));
        let metrics = ControlMetrics::new(&Metrics::new().unwrap());
        let ttl = Duration::from_secs(3600);
        let enrolment = Enrolment {
            registry: ArcSwap::from_pointee(Registry::new(&domain(), &[id("/web")])),
            issuer: Arc::new(Issuer::new(authority.clone(), ttl, Arc::clone(&clock), metrics.clone())),
            records: Records::new(store).await.unwrap(),
            clock,
            metrics,
        };
        Self {
            _folder: folder,
            authority,
            enrolment: Arc::new(enrolment),
        }
    }

    fn mood(&self, mood: Mood) {
        *self.authority.mood.lock().unwrap() = mood;
    }

    async fn token(&self) -> String {
        self.enrolment.create_token(&id("/web")).await.unwrap().text
    }
}

const TROUBLE: [(Mood, &str); 4] = [
    (Mood::Fails, "authority-unavailable"),
    (Mood::Hangs, "authority-timeout"),
    (Mood::SignsForAnother, "signed-other-id"),
    (Mood::SignsForLonger, "signed-too-long"),
];

#[tokio::test(start_paused = true)]
async fn trouble_with_the_authority_costs_neither_token_nor_lineage() {
    let office = Office::new().await;
    let token = office.token().await;
    let csr = request("/web", &key());
    for (mood, expected) in TROUBLE {
        office.mood(mood);
        assert_eq!(
            office.enrolment.attest(csr.der(), &token).await.unwrap_err().label(),
            expected
        );
    }
    office.mood(Mood::Signs);
    let svid = office.enrolment.attest(csr.der(), &token).await.unwrap();
    let next = request("/web", &key());
    for (mood, expected) in TROUBLE {
        office.mood(mood);
        assert_eq!(
            office.enrolment.renew(next.der(), &svid).await.unwrap_err().label(),
            expected
        );
    }
    office.mood(Mood::Signs);
    // Not even the key is settled while nothing was issued.
    office
        .enrolment
        .renew(request("/web", &key()).der(), &svid)
        .await
        .unwrap();
}

#[tokio::test]
async fn one_caller_that_asks_twice_at_once_gets_one_certificate() {
    let office = Office::new().await;
    let token = office.token().await;
    let csr = request("/web", &key());
    let (one, two) = tokio::join!(
        office.enrolment.attest(csr.der(), &token),
        office.enrolment.attest(csr.der(), &token)
    );
    let svid = one.unwrap();
    assert_eq!(svid, two.unwrap());
    let next = request("/web", &key());
    let (one, two) = tokio::join!(
        office.enrolment.renew(next.der(), &svid),
        office.enrolment.renew(next.der(), &svid)
    );
    assert_eq!(one.unwrap(), two.unwrap());
    assert_eq!(office.enrolment.records.look(|state| state.lineages.len()), 1);
}

#[tokio::test]
async fn of_two_keys_with_one_token_one_is_served() {
    let office = Office::new().await;
    let token = office.token().await;
    let (one, two) = (request("/web", &key()), request("/web", &key()));
    let (one, two) = tokio::join!(
        office.enrolment.attest(one.der(), &token),
        office.enrolment.attest(two.der(), &token)
    );
    assert_eq!([one.is_ok(), two.is_ok()].iter().filter(|ok| **ok).count(), 1);
}

#[tokio::test]
async fn an_id_that_is_taken_out_of_the_mesh_renews_and_subscribes_no_more() {
    let office = Office::new().await;
    let svid = office
        .enrolment
        .attest(request("/web", &key()).der(), &office.token().await)
        .await
        .unwrap();
    office.enrolment.admit(&svid).await.unwrap();
    office.enrolment.registry.store(Arc::new(Registry::new(&domain(), &[])));
    let refused = office
        .enrolment
        .renew(request("/web", &key()).der(), &svid)
        .await
        .unwrap_err();
    assert_eq!(refused.label(), "id-not-registered");
    assert_eq!(
        office.enrolment.admit(&svid).await.unwrap_err().label(),
        "id-not-registered"
    );
}

#[tokio::test]
async fn what_the_authority_revoked_renews_and_subscribes_no_more_and_a_new_token_helps() {
    let office = Office::new().await;
    let attest = async || {
        let token = office.token().await;
        office
            .enrolment
            .attest(request("/web", &key()).der(), &token)
            .await
            .unwrap()
    };
    let (svid, other) = (attest().await, attest().await);
    office.authority.revoked.lock().unwrap().push(svid.serial().to_owned());
    let renew = async |svid: &Svid| office.enrolment.renew(request("/web", &key()).der(), svid).await;
    assert_eq!(renew(&svid).await.unwrap_err().label(), "serial-revoked");
    assert_eq!(
        office.enrolment.admit(&svid).await.unwrap_err().label(),
        "serial-revoked"
    );
    renew(&other).await.unwrap();
    renew(&attest().await).await.unwrap();
}
