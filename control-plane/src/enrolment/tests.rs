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
    let (svid, other) = (office.attest("/web").await, office.attest("/web").await);
    office.authority.revoked.lock().unwrap().push(svid.serial().to_owned());
    let renew = async |svid: &Svid| office.enrolment.renew(request("/web", &key()).der(), svid).await;
    assert_eq!(renew(&svid).await.unwrap_err().label(), "serial-revoked");
    assert_eq!(
        office.enrolment.admit(&svid).await.unwrap_err().label(),
        "serial-revoked"
    );
    renew(&other).await.unwrap();
    renew(&office.attest("/web").await).await.unwrap();
}

/// The paths that workloads behind the agent `/host` may have, beside its own.
fn registry_of_agent() -> Registry {
    let listed = ["/host", "/other-host", "/web", "/db"].map(id);
    Registry::new(&domain(), &listed).handing_out(&id("/web"), [&id("/host")])
}

impl Office {
    /// An agent, its first SVID and what it gets for a workload.
    async fn with_agent() -> (Self, Svid) {
        let office = Self::new().await;
        office.enrolment.registry.store(Arc::new(registry_of_agent()));
        let agent = office.attest("/host").await;
        (office, agent)
    }

    async fn attest(&self, path: &str) -> Svid {
        let token = self.enrolment.create_token(&id(path)).await.unwrap().text;
        let csr = request(path, &key());
        self.enrolment.attest(csr.der(), &token).await.unwrap()
    }

    async fn issue_for(&self, path: &str, speaker: &Svid) -> Result<Svid, Refusal> {
        let csr = request(path, &key());
        self.enrolment.issue_for_workload(csr.der(), speaker).await
    }

    async fn refused(&self, path: &str, speaker: &Svid) -> &'static str {
        self.issue_for(path, speaker).await.unwrap_err().label()
    }

    fn lent(&self) -> usize {
        let count = |state: &crate::store::State| state.lineages.values().map(|lineage| lineage.workloads.len()).sum();
        self.enrolment.records.look(count)
    }
}

#[tokio::test]
async fn a_workload_gets_its_proxys_id_or_what_the_proxy_is_agent_of_and_nothing_else() {
    let (office, agent) = Office::with_agent().await;
    for path in ["/host", "/web"] {
        let workload_key = key();
        let csr = request(path, &workload_key);
        let svid = office.enrolment.issue_for_workload(csr.der(), &agent).await.unwrap();
        assert_eq!(svid.id(), &id(path));
        assert_eq!(
            svid.public_key(),
            rcgen::PublicKeyData::subject_public_key_info(&workload_key)
        );
        assert_ne!(svid.serial(), agent.serial());
    }
    assert_eq!(office.lent(), 2);
    let other = office.attest("/other-host").await;
    let table = [
        (&agent, "/db", "not-its-agent"),
        (&agent, "/other-host", "not-its-agent"),
        (&agent, "/unlisted", "id-not-registered"),
        (&agent, "/watchword/control-plane", "id-reserved"),
        (&other, "/web", "not-its-agent"),
        (&other, "/host", "not-its-agent"),
    ];
    for (speaker, path, expected) in table {
        assert_eq!(office.refused(path, speaker).await, expected, "{} {path}", speaker.id());
    }
    let malformed = office.enrolment.issue_for_workload(b"no request", &agent).await;
    assert!(matches!(malformed.unwrap_err(), Refusal::Csr(_)));
    assert_eq!(office.lent(), 2);
    office.issue_for("/other-host", &other).await.unwrap();
}

#[tokio::test]
async fn what_a_workload_got_renews_subscribes_and_speaks_for_nobody() {
    let (office, agent) = Office::with_agent().await;
    for path in ["/host", "/web"] {
        let workload = office.issue_for(path, &agent).await.unwrap();
        let csr = request(path, &key());
        let renewed = office.enrolment.renew(csr.der(), &workload).await;
        assert_eq!(renewed.unwrap_err().label(), "serial-unknown");
        assert_eq!(
            office.enrolment.admit(&workload).await.unwrap_err().label(),
            "serial-unknown"
        );
        assert_eq!(office.refused(path, &workload).await, "serial-unknown");
    }
    // None of that has cost the agent anything.
    let csr = request("/host", &key());
    office.enrolment.renew(csr.der(), &agent).await.unwrap();
}

#[tokio::test]
async fn an_agent_that_is_revoked_replaced_or_taken_out_of_the_mesh_speaks_for_nobody() {
    let (office, agent) = Office::with_agent().await;
    let csr = request("/host", &key());
    let next = office.enrolment.renew(csr.der(), &agent).await.unwrap();
    office.issue_for("/web", &agent).await.unwrap();
    office.enrolment.admit(&next).await.unwrap();
    assert_eq!(office.refused("/web", &agent).await, "serial-replaced");
    // Which is no alarm.
    office.issue_for("/web", &next).await.unwrap();

    office.authority.revoked.lock().unwrap().push(next.serial().to_owned());
    for path in ["/host", "/web"] {
        assert_eq!(office.refused(path, &next).await, "serial-revoked");
    }
    let agent = office.attest("/host").await;
    office.issue_for("/web", &agent).await.unwrap();
    let without = Registry::new(&domain(), &[id("/web")]).handing_out(&id("/web"), [&id("/host")]);
    office.enrolment.registry.store(Arc::new(without));
    assert_eq!(office.refused("/web", &agent).await, "id-not-registered");
}

#[tokio::test(start_paused = true)]
async fn trouble_with_the_authority_is_told_and_counts_for_nothing() {
    let (office, agent) = Office::with_agent().await;
    for (mood, expected) in TROUBLE {
        office.mood(mood);
        assert_eq!(office.refused("/web", &agent).await, expected);
    }
    assert_eq!(office.lent(), 0);
    office.mood(Mood::Signs);
    office.issue_for("/web", &agent).await.unwrap();
}
