//! Keeps one caller's certificates fresh, as long as somebody follows them.
//!
//! Invariants: a key is used for one certificate; what has ended is not told
//! any more; a failure costs nothing before the certificate ends.

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
use crate::control::{KeyRequest, ObtainError, request_for};
use crate::telemetry::Telemetry;

/// After a call that our own renewal has overtaken.
const OVERTAKEN: Duration = Duration::from_millis(250);

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
                self.obtain(index).await;
            }
        }
    }

    /// When something is to be done: a try, or to withdraw what has ended.
    fn next(&self) -> SystemTime {
        let now = self.clock.now();
        let ends = self
            .slots
            .iter()
            .filter_map(|slot| slot.held.as_ref().map(|held| held.svid.not_after()));
        let dues = self.slots.iter().map(|slot| slot.due);
        dues.chain(ends.filter(|end| *end >= now).map(|end| end + Duration::from_millis(1)))
            .min()
            .unwrap_or(now)
    }

    async fn obtain(&mut self, index: usize) {
        let now = self.clock.now();
        let Some(slot) = self.slots.get_mut(index).filter(|slot| slot.due <= now) else {
            return;
        };
        let issued = match request_for(&mut slot.request, &slot.id) {
            Ok(request) => self.issuer.issue(request).await,
            Err(error) => Err(error.into()),
        };
        let now = self.clock.now();
        match issued {
            Ok(svid) => {
                self.telemetry.workload_issued("ok");
                let Some(request) = slot.request.take() else {
                    return;
                };
                slot.due = renew_at(now, svid.not_after(), fastrand::f64());
                slot.failures = 0;
                slot.failure = None;
                tracing::info!(id = %slot.id, serial = svid.serial(), "new certificate for a workload");
                let key = Zeroizing::new(request.key.secret_pkcs8_der().to_vec());
                slot.held = Some(Arc::new(Held { svid, key }));
            }
            Err(error) => {
                self.telemetry.workload_issued("failed");
                slot.failures += 1;
                slot.due = now + slot.pause(&error, now);
                tracing::warn!(
                    id = %slot.id, reason = %error, failures = slot.failures,
                    "no new certificate for a workload; will try again"
                );
                slot.failure = Some(Failure {
                    denied: error.is_denial(),
                    reason: error.to_string().into(),
                });
            }
        }
    }

    fn publish(&self) {
        let now = self.clock.now();
        let valid = |slot: &Slot| slot.held.clone().filter(|held| now <= held.svid.not_after());
        let svids: Vec<Arc<Held>> = self.slots.iter().filter_map(valid).collect();
        // Another one must not stand in for the default.
        let has_default = self.slots.first().and_then(valid).is_some();
        let latest = match self.credentials.current() {
            Some(current) if has_default => Latest::Ready(Arc::new(Material {
                svids,
                bundle: Arc::clone(current.bundle()),
            })),
            _ => match self.slots.iter().find_map(|slot| slot.failure.clone()) {
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
    fn pause(&self, error: &ObtainError, now: SystemTime) -> Duration {
        if error.is_overtaken() {
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
