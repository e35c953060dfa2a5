//! Keeps one caller's certificates fresh, as long as somebody follows them.
//!
//! Invariants: a key is used for one certificate; what has ended is not told
//! any more; a failure costs nothing before the certificate ends; no other ID
//! ever stands in for the default one.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use watchword_daemon::{Clock, sleep_until};
use watchword_identity::schedule::{pause_after, renew_at};
use watchword_identity::{SpiffeId, Svid};
use watchword_mtls::Credentials;
use zeroize::Zeroizing;

use super::material::{Failure, Held, Latest, Material};
use crate::control::for_workloads::WorkloadIssuer;
use crate::control::{KeyRequest, ObtainError};
use crate::telemetry::Telemetry;

/// After a call that our own renewal has overtaken.
const OVERTAKEN: Duration = Duration::from_millis(250);
/// So often: if it goes on, somebody else has renewed our certificate, and
/// nothing helps soon.
const OVERTAKEN_IN_A_ROW: u32 = 4;

/// Signs for workloads.
pub(super) trait Issue: Send + Sync {
    fn issue(&self, request: &KeyRequest) -> impl Future<Output = Result<Svid, ObtainError>> + Send;
}

impl Issue for WorkloadIssuer {
    fn issue(&self, request: &KeyRequest) -> impl Future<Output = Result<Svid, ObtainError>> + Send {
        Self::issue(self, request)
    }
}

/// One SPIFFE ID of the caller.
struct Slot {
    id: SpiffeId,
    held: Option<Arc<Held>>,
    request: Option<KeyRequest>,
    due: SystemTime,
    failures: u32,
    failure: Option<Failure>,
}

/// All of one caller's.
pub(super) struct Keeper<I> {
    slots: Vec<Slot>,
    issuer: I,
    credentials: Credentials,
    clock: Arc<dyn Clock>,
    telemetry: Telemetry,
    latest: watch::Sender<Latest>,
}

impl<I: Issue> Keeper<I> {
    pub(super) fn new(
        ids: Vec<SpiffeId>,
        issuer: I,
        (credentials, clock): (Credentials, Arc<dyn Clock>),
        telemetry: Telemetry,
        latest: watch::Sender<Latest>,
    ) -> Self {
        let now = clock.now();
        let slot = |id| Slot {
            id,
            held: None,
            request: None,
            due: now,
            failures: 0,
            failure: None,
        };
        Self {
            slots: ids.into_iter().map(slot).collect(),
            issuer,
            credentials,
            clock,
            telemetry,
            latest,
        }
    }

    /// Until `is_over` says that nobody follows.
    pub(super) async fn keep(mut self, is_over: impl Fn(&watch::Sender<Latest>) -> bool) {
        let mut generations = self.credentials.changes();
        loop {
            self.publish();
            tokio::select! {
                () = sleep_until(&self.clock, self.next()) => {}
                // Another bundle, perhaps.
                changed = generations.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
            }
            if is_over(&self.latest) {
                return;
            }
            for index in 0..self.slots.len() {
                self.obtain(index, &mut generations).await;
            }
        }
    }

    /// When something is to be done: a try, or to withdraw what has ended.
    fn next(&self) -> SystemTime {
        let dues = self.slots.iter().map(|slot| slot.due);
        dues.chain(self.next_end()).min().unwrap_or_else(|| self.clock.now())
    }

    /// When the next certificate will have ended.
    fn next_end(&self) -> Option<SystemTime> {
        let now = self.clock.now();
        let held = self.slots.iter().filter_map(|slot| slot.held.as_ref());
        let ends = held.map(|held| held.svid.not_after()).filter(|end| *end >= now);
        ends.min().map(|end| end + Duration::from_millis(1))
    }

    async fn obtain(&mut self, index: usize, generations: &mut watch::Receiver<u64>) {
        let now = self.clock.now();
        let Some(slot) = self.slots.get_mut(index).filter(|slot| slot.due <= now) else {
            return;
        };
        // Of a call whose answer was lost, or a fresh one.
        let kept = slot.request.take();
        let issued = match kept.map_or_else(|| KeyRequest::new(slot.id.clone()), Ok) {
            Ok(request) => match self.ask(&request, generations).await {
                Ok(svid) => Ok((svid, request)),
                Err(error) => Err((error, Some(request))),
            },
            Err(error) => Err((error.into(), None)),
        };
        let now = self.clock.now();
        let Some(slot) = self.slots.get_mut(index) else {
            return;
        };
        match issued {
            Ok((svid, request)) => {
                self.telemetry.workload_issued("ok");
                slot.succeed(svid, request, now);
            }
            Err((error, request)) => {
                self.telemetry.workload_issued("failed");
                slot.request = request;
                slot.fail(&error, now);
            }
        }
    }

    /// One call. What ends or changes meanwhile is told at once: it may take long.
    async fn ask(&self, request: &KeyRequest, generations: &mut watch::Receiver<u64>) -> Result<Svid, ObtainError> {
        let mut call = pin!(self.issuer.issue(request));
        loop {
            let end = async {
                match self.next_end() {
                    Some(end) => sleep_until(&self.clock, end).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                issued = &mut call => return issued,
                () = end => {}
                changed = generations.changed() => if changed.is_err() {
                    return call.await;
                },
            }
            self.publish();
        }
    }

    fn publish(&self) {
        let now = self.clock.now();
        let valid = |slot: &Slot| slot.held.clone().filter(|held| now <= held.svid.not_after());
        let default = self.slots.first();
        // Without the first there is none at all: the next one would be taken for it.
        let latest = match (self.credentials.current(), default.and_then(valid)) {
            (Some(current), Some(_)) => Latest::Ready(Arc::new(Material {
                svids: self.slots.iter().filter_map(valid).collect(),
                bundle: Arc::clone(current.bundle()),
            })),
            _ => match default.and_then(|slot| slot.failure.clone()) {
                Some(failure) => Latest::None(failure),
                None => Latest::Waiting,
            },
        };
        self.latest.send_if_modified(|told| {
            let same = match (&*told, &latest) {
                (Latest::Ready(told), Latest::Ready(new)) => told.is_as(new),
                (Latest::None(told), Latest::None(new)) => told == new,
                (Latest::Waiting, Latest::Waiting) => true,
                _ => false,
            };
            if !same {
                *told = latest;
            }
            !same
        });
    }
}

impl Slot {
    fn succeed(&mut self, svid: Svid, request: KeyRequest, now: SystemTime) {
        self.due = renew_at(now, svid.not_after(), fastrand::f64());
        self.failures = 0;
        self.failure = None;
        tracing::info!(id = %self.id, serial = svid.serial(), "new certificate for a workload");
        let key = Zeroizing::new(request.key.secret_pkcs8_der().to_vec());
        self.held = Some(Arc::new(Held { svid, key }));
    }

    fn fail(&mut self, error: &ObtainError, now: SystemTime) {
        self.failures += 1;
        self.due = now + self.pause(error, now);
        tracing::warn!(
            id = %self.id, reason = %error, failures = self.failures,
            "no new certificate for a workload; will try again"
        );
        self.failure = Some(Failure {
            denied: error.is_denial(),
            reason: error.to_string().into(),
        });
    }

    fn pause(&self, error: &ObtainError, now: SystemTime) -> Duration {
        if error.is_overtaken() && self.failures <= OVERTAKEN_IN_A_ROW {
            return OVERTAKEN;
        }
        let end = self.held.as_ref().map(|held| held.svid.not_after());
        let left = end.and_then(|end| end.duration_since(now).ok()).unwrap_or_default();
        pause_after(self.failures, left, fastrand::f64())
    }
}

#[cfg(test)]
#[path = "keeper_tests.rs"]
mod tests;
