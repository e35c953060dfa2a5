//! A stream's view of what its caller is to have.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::timeout;

use super::material::{Failure, Latest, Material};

/// For the first certificate: the control plane may take as long to sign.
const FIRST: Duration = Duration::from_secs(25);

/// Why a caller gets nothing. Each has words for it, and says what to do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum Refused {
    #[error("this proxy has no certificate of its own yet: its /readyz says why")]
    NoIdentityYet,
    #[error("no identity for uid {0}: name it in the proxy's configuration, under `workloadApi.callers`")]
    NotEntitled(u32),
    #[error("{0} callers have identities here already: try again later")]
    TooManyCallers(usize),
    #[error("this caller has {0} open streams already: close some")]
    TooManyStreams(usize),
    #[error("the control plane has not answered within {} s: try again", FIRST.as_secs())]
    NoAnswer,
    #[error("no certificate: {}", .0.reason)]
    Failed(Failure),
    #[error("the proxy is stopping")]
    Stopping,
}

/// Follows one caller's material.
pub(crate) struct Subscription {
    latest: watch::Receiver<Latest>,
    told: Option<Arc<Material>>,
    _place: OwnedSemaphorePermit,
}

impl Subscription {
    pub(super) fn new(latest: watch::Receiver<Latest>, place: OwnedSemaphorePermit) -> Self {
        Self {
            latest,
            told: None,
            _place: place,
        }
    }

    /// Waits for what was not told yet: the newest, whatever was missed in
    /// between. May be dropped and called again.
    pub(crate) async fn next(&mut self) -> Result<Arc<Material>, Refused> {
        loop {
            let latest = self.latest.borrow_and_update().clone();
            match latest {
                Latest::Ready(material) if !self.was_told(&material) => {
                    self.told = Some(Arc::clone(&material));
                    return Ok(material);
                }
                Latest::None(failure) => return Err(Refused::Failed(failure)),
                Latest::Ready(_) | Latest::Waiting => {}
            }
            let changed = self.latest.changed();
            let changed = match self.told {
                Some(_) => changed.await,
                None => timeout(FIRST, changed).await.map_err(|_| Refused::NoAnswer)?,
            };
            changed.map_err(|_| Refused::Stopping)?;
        }
    }

    fn was_told(&self, material: &Arc<Material>) -> bool {
        self.told.as_ref().is_some_and(|told| Arc::ptr_eq(told, material))
    }
}
