//! When connections with foreign peers end.
#![allow(clippy::unwrap_used, clippy::panic)]

use tokio::io::duplex;
use tokio::time::timeout;
use watchword_daemon::ManualClock;
use watchword_identity::{Bundle, SpiffeId};
use watchword_mtls::{Accepted, ForeignProtocol, Now, accept, connect_foreign};

use super::*;
use crate::testing::{HOUR, Root, bundle, ders, domain, now};

const MINUTE: Duration = Duration::from_secs(60);
/// Of the runtime's time, in which the tests' clock stands.
const A_WHILE: Duration = Duration::from_secs(10);

/// A peer of another trust domain that has called us.
struct Call {
    own: Root,
    partner: Root,
    clock: Arc<ManualClock>,
    credentials: Credentials,
    end: ForeignEnd,
}

fn trusting(own: &Root, partners: &[&Root]) -> Bundle {
    bundle(&[own]).with(domain("partner.example"), ders(partners)).unwrap()
}

/// An end for both: its certificate lasts so long.
fn side(root: &Root, id: &str, lasts: Duration, bundle: Bundle, clock: &Arc<dyn Clock>) -> Credentials {
    let judged = Arc::clone(clock);
    let credentials = Credentials::new(Now::new(move || judged.now()));
    let key = rcgen::KeyPair::generate().unwrap();
    let svid = root.sign(&SpiffeId::new(id).unwrap(), &key, Some(clock.now() + lasts));
    credentials.publish(&svid, &key.into(), bundle).unwrap();
    credentials
}

impl Call {
    /// Our certificate lasts so long, and so long the peer's.
    async fn new(ours: Duration, theirs: Duration) -> Self {
        let (own, partner) = (Root::new(), Root::new());
        let manual = Arc::new(ManualClock::new(now()));
        let clock: Arc<dyn Clock> = manual.clone();
        let trust = || trusting(&own, &[&partner]);
        let credentials = side(&own, "spiffe://example.org/web", ours, trust(), &clock);
        let peer = side(&partner, "spiffe://partner.example/batch", theirs, trust(), &clock);
        let (near, far) = duplex(64 * 1024);
        let (caller, called) = (peer.current().unwrap(), credentials.current().unwrap());
        let expected = called.svid().id().clone();
        let (_, accepted) = tokio::join!(
            connect_foreign(&caller, near, (&expected, ForeignProtocol::Any)),
            accept(&called, far, ForeignProtocol::Any)
        );
        let Ok(Accepted::Foreign(_, seen)) = accepted else {
            panic!("not accepted");
        };
        Self {
            end: ForeignEnd::new((&credentials, &clock), seen, &called),
            own,
            partner,
            clock: manual,
            credentials,
        }
    }

    async fn over(&self) -> Option<Reason> {
        timeout(A_WHILE, self.end.over(Usage::Client)).await.ok()
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_ends_with_the_certificate_that_ends_first_and_not_without_a_warning() {
    for (ours, theirs) in [(HOUR, 2 * HOUR), (2 * HOUR, HOUR)] {
        let call = Call::new(ours, theirs).await;
        let goodbye = || timeout(A_WHILE, call.end.goodbye());
        let last = || timeout(A_WHILE, call.end.last());
        call.clock.advance(52 * MINUTE);
        assert!(goodbye().await.is_err());
        call.clock.advance(MINUTE);
        assert!(goodbye().await.is_ok() && last().await.is_err());
        call.clock.advance(4 * MINUTE);
        assert!(last().await.is_ok() && call.over().await.is_none());
        call.clock.advance(3 * MINUTE);
        assert_eq!(call.over().await, Some(Reason::Expired));
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_ends_when_the_peers_root_is_trusted_no_more() {
    let call = Call::new(HOUR, HOUR).await;
    let (other, own) = (Root::new(), &call.own);
    let over = call.over();
    let news = async {
        // Another root beside it changes nothing.
        call.credentials
            .publish_bundle(trusting(own, &[&call.partner, &other]))
            .unwrap();
        tokio::task::yield_now().await;
        call.credentials.publish_bundle(trusting(own, &[&other])).unwrap();
    };
    assert_eq!(tokio::join!(over, news).0, Some(Reason::Untrusted));
}

/// The app may take its time before the connection is carried.
#[tokio::test(start_paused = true)]
async fn trust_that_is_gone_before_anybody_waits_for_it_ends_the_connection_too() {
    let call = Call::new(HOUR, HOUR).await;
    call.credentials
        .publish_bundle(trusting(&call.own, &[&call.partner, &Root::new()]))
        .unwrap();
    assert_eq!(call.over().await, None);
    call.credentials
        .publish_bundle(trusting(&call.own, &[&Root::new()]))
        .unwrap();
    assert_eq!(call.over().await, Some(Reason::Untrusted));
}
