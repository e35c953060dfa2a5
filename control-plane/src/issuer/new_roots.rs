//! Leaves of a root that is new to the bundle are withheld until the connected
//! proxies know it: a proxy that does not would refuse its peers.
//!
//! Invariants: never longer than ten seconds after that bundle was published,
//! whatever proxies do, nor for more than a quarter of the leaf's own life,
//! so that nobody's certificate expires for it. A leaf that a root vouches for
//! that has been known for longer is never withheld.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use tokio::time::{Instant, timeout_at};
use watchword_identity::{Bundle, Svid, TrustDomain, Usage};
use watchword_mtls::verify_chain;

use crate::subscribers::Subscribers;

/// From the publication of a root to the first leaf of it that is let through
/// although not all connected proxies know it.
pub const LONGEST_HOLD: Duration = Duration::from_secs(10);
/// The part of a leaf's life for which it may be held: sidecars renew at half
/// of it.
const SHARE_OF_LIFE: u32 = 4;

#[derive(Debug, Clone)]
struct NewRoot {
    certificate: CertificateDer<'static>,
    until: Instant,
}

#[derive(Debug, Default)]
struct State {
    /// By publication.
    roots: Vec<NewRoot>,
    /// Who did not acknowledge was told of, once per publication.
    told: bool,
}

/// The roots that may not be known everywhere yet.
#[derive(Debug)]
pub struct NewRoots {
    subscribers: Subscribers,
    state: Mutex<State>,
}

impl NewRoots {
    /// None yet: what is in force at the start is what proxies were given.
    pub fn new(subscribers: Subscribers) -> Self {
        Self {
            subscribers,
            state: Mutex::default(),
        }
    }

    /// `next` was published as `version`. To be called before the authority
    /// goes by it, so that no leaf slips through in between.
    pub fn announce(&self, domain: &TrustDomain, before: &Bundle, next: &Bundle, version: u64) {
        let added = next
            .roots(domain)
            .iter()
            .filter(|root| !before.roots(domain).contains(root));
        let added: Vec<_> = added.map(|root| root.certificate().clone()).collect();
        if added.is_empty() {
            return;
        }
        let now = Instant::now();
        let mut state = self.lock();
        state
            .roots
            .retain(|root| now < root.until && !added.contains(&root.certificate));
        let until = now + LONGEST_HOLD;
        let added = added.into_iter().map(|certificate| NewRoot { certificate, until });
        state.roots.extend(added);
        state.told = false;
        self.subscribers.want_bundle(version);
    }

    /// Waits until a leaf may be given to somebody. `bundle` vouches for it.
    pub async fn let_through(&self, svid: &Svid, bundle: &Bundle, now: SystemTime) {
        let Some(until) = self.hold_until(svid, bundle, now) else {
            return;
        };
        let life = svid.not_after().duration_since(now).unwrap_or_default();
        let until = until.min(Instant::now() + life / SHARE_OF_LIFE);
        let known = timeout_at(until, self.subscribers.all_know()).await.is_ok();
        if !known && !std::mem::replace(&mut self.lock().told, true) {
            tracing::warn!(
                not_acknowledged = self.subscribers.lacking(),
                "certificates of a new root are given out although not all connected proxies have acknowledged it: \
                 those will refuse them until they do; `watchword status` says which"
            );
        }
    }

    /// None when it need not be held.
    fn hold_until(&self, svid: &Svid, bundle: &Bundle, now: SystemTime) -> Option<Instant> {
        let mut state = self.lock();
        let moment = Instant::now();
        state.roots.retain(|root| moment < root.until);
        if state.roots.is_empty() {
            return None;
        }
        needed(svid, bundle, &state.roots, now)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end of the first of the new roots without which nothing vouches for it.
fn needed(svid: &Svid, bundle: &Bundle, new: &[NewRoot], now: SystemTime) -> Option<Instant> {
    let domain = svid.id().trust_domain();
    let roots = bundle.roots(domain).iter().map(|root| root.certificate().clone());
    let mut known: Vec<_> = roots
        .filter(|certificate| new.iter().all(|root| root.certificate != *certificate))
        .collect();
    let vouches = |known: &[CertificateDer<'static>]| {
        Bundle::new(domain.clone(), known.to_vec())
            .is_ok_and(|known| verify_chain(svid.chain().to_vec(), &known, Usage::Server, now).is_ok())
    };
    if vouches(&known) {
        return None;
    }
    for root in new {
        known.push(root.certificate.clone());
        if vouches(&known) {
            return Some(root.until);
        }
    }
    new.last().map(|root| root.until)
}

#[cfg(test)]
mod tests;
