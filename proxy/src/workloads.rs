//! Programs that ask us for an identity by an open API (SPIFFE Workload API,
//! Envoy SDS), and what each of them gets.
//!
//! Invariants: each caller has keys and serials of its own, never ours and
//! never another caller's; who is not entitled gets nothing; the number of
//! callers, and of streams of each, is bounded.
//!
//! Must not know: gRPC.

mod caller;
mod entitled;
mod keeper;
mod material;
mod subscription;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;
use watchword_daemon::Clock;
use watchword_identity::SpiffeId;
use watchword_mtls::Credentials;

pub(crate) use self::caller::{Caller, Process};
pub(crate) use self::entitled::Entitled;
use self::keeper::Keeper;
use self::material::Latest;
pub(crate) use self::material::Material;
#[cfg(test)]
pub(crate) use self::material::{Failure, Held};
pub(crate) use self::subscription::{Refused, Subscription};
use crate::control::for_workloads::WorkloadIssuer;
use crate::telemetry::Telemetry;

/// Callers that have keys at a time.
const MAX_CALLERS: usize = 512;
/// Streams of one caller at a time.
const MAX_STREAMS: usize = 2048;

/// Who gets what. Clones share one state.
#[derive(Clone)]
pub(crate) struct Workloads {
    inner: Arc<Inner>,
}

/// What identities stand on.
pub(crate) struct Means {
    pub(crate) entitled: Entitled,
    pub(crate) issuer: WorkloadIssuer,
    pub(crate) credentials: Credentials,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) telemetry: Telemetry,
}

struct Inner {
    means: Means,
    served: Mutex<HashMap<Caller, Served>>,
}

/// A caller with keys.
struct Served {
    latest: watch::Sender<Latest>,
    streams: Arc<Semaphore>,
    process: Option<Arc<Process>>,
    keeper: AbortHandle,
}

impl Workloads {
    pub(crate) fn new(means: Means) -> Self {
        Self {
            inner: Arc::new(Inner {
                means,
                served: Mutex::default(),
            }),
        }
    }

    pub(crate) fn telemetry(&self) -> &Telemetry {
        &self.inner.means.telemetry
    }

    /// Begins to follow what a caller is to have. To be called in a runtime.
    pub(crate) fn subscribe(&self, caller: &Caller, process: Option<&Arc<Process>>) -> Result<Subscription, Refused> {
        let Means {
            entitled, credentials, ..
        } = &self.inner.means;
        let own = credentials.valid().ok_or(Refused::NoIdentityYet)?;
        let ids = entitled.ids_of(caller.uid, own.svid().id());
        if ids.is_empty() {
            return Err(Refused::NotEntitled(caller.uid));
        }
        let mut served = self.lock();
        // A process that has ended may have left its number to another one.
        let is_stale = |served: &Served| served.process.as_ref().is_some_and(|process| process.has_ended());
        if served.get(caller).is_some_and(is_stale) {
            served.remove(caller);
        }
        if served.len() >= MAX_CALLERS && !served.contains_key(caller) {
            make_room(&mut served);
        }
        if served.len() >= MAX_CALLERS && !served.contains_key(caller) {
            return Err(Refused::TooManyCallers(MAX_CALLERS));
        }
        let of_caller = served
            .entry(caller.clone())
            .or_insert_with(|| self.serve(caller, process.cloned(), ids));
        let place = Arc::clone(&of_caller.streams).try_acquire_owned();
        let place = place.map_err(|_| Refused::TooManyStreams(MAX_STREAMS))?;
        Ok(Subscription::new(of_caller.latest.subscribe(), place))
    }

    fn serve(&self, caller: &Caller, process: Option<Arc<Process>>, ids: Vec<SpiffeId>) -> Served {
        let latest = watch::Sender::new(Latest::Waiting);
        let means = &self.inner.means;
        let keeper = Keeper::new(
            ids,
            means.issuer.clone(),
            (means.credentials.clone(), Arc::clone(&means.clock)),
            means.telemetry.clone(),
            latest.clone(),
        );
        let (this, caller) = (self.clone(), caller.clone());
        let keeper = tokio::spawn(async move {
            keeper.keep(|latest| this.forget_if_unused(&caller, latest)).await;
        });
        Served {
            latest,
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
            process,
            keeper: keeper.abort_handle(),
        }
    }

    /// Keys that nobody follows any more are not renewed. Decided under the
    /// lock: somebody may subscribe in this moment.
    fn forget_if_unused(&self, caller: &Caller, latest: &watch::Sender<Latest>) -> bool {
        let mut served = self.lock();
        if latest.receiver_count() > 0 {
            return false;
        }
        // Another process may have taken the place.
        if served
            .get(caller)
            .is_some_and(|served| served.latest.same_channel(latest))
        {
            served.remove(caller);
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Caller, Served>> {
        self.inner.served.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keys are kept until they are to be renewed, for who asks again. Those that
/// nobody follows, of processes that have ended perhaps, give way to a caller
/// who is there.
fn make_room(served: &mut HashMap<Caller, Served>) {
    served.retain(|_, served| {
        let is_followed = served.latest.receiver_count() > 0;
        if !is_followed {
            served.keeper.abort();
        }
        is_followed
    });
}

#[cfg(test)]
#[path = "workloads/tests.rs"]
mod tests;
