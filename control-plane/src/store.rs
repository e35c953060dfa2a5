//! What the control plane must not forget: the epoch, join tokens and
//! lineages. All of it stands behind a [`Store`] with compare-and-swap, so
//! that several control planes can share it one day.
//!
//! Invariants: an update is written before anybody is told of it. There is
//! no secret in it: tokens are hashed, and private keys never come here.

mod file;
mod shared;
mod state;

use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

pub use file::FileStore;
pub use shared::SharedMap;
pub use state::{IssuedSvid, Lineage, LineageKey, State, Token, TokenUse};

use crate::state_folder::FolderError;

/// Lost races in a row before an update gives up.
const MAX_ATTEMPTS: usize = 16;
/// Changes that are written together at most, and as many may wait.
const MAX_TOGETHER: usize = 1024;

/// Why the state can't be read or written.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The file or its folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The content is not what was written.
    #[error(
        "{path} can't be read ({problem}): restore it from a backup, or move it away, after which each workload needs a new join token"
    )]
    Corrupt {
        /// Which file.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Somebody else wrote first.
    #[error("the state was changed by another control plane at the same moment: try again")]
    Conflict,
    /// What a change met that was written together with others.
    #[error(transparent)]
    Together(#[from] Arc<StoreError>),
    /// The writing task was cut.
    #[error("the state can't be written: the process is stopping")]
    Stopping,
}

/// A state with the number of the write that made it.
#[derive(Debug, Clone)]
pub struct Versioned {
    /// Grows with each write.
    pub version: u64,
    /// The content.
    pub state: Arc<State>,
}

/// Where the state is kept.
#[tonic::async_trait]
pub trait Store: Debug + Send + Sync {
    /// The newest state.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn read(&self) -> Result<Versioned, StoreError>;

    /// Replaces the state of version `expected`.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the newest version is another one.
    async fn compare_and_swap(&self, expected: u64, state: State) -> Result<(), StoreError>;
}

/// The state, for those who change it.
///
/// Changes that come while one is being written are written together, so that
/// a thousand callers do not wait for a thousand syncs of a file.
#[derive(Debug, Clone)]
pub struct Records {
    store: Arc<dyn Store>,
    // Changes of this process go through one writer, or they would lose races
    // to one another; the store settles those between processes.
    changes: mpsc::Sender<Change>,
}

/// A change and where its caller waits.
struct Change {
    make: Box<dyn FnMut(&mut State) + Send>,
    written: oneshot::Sender<Result<(), StoreError>>,
}

impl Records {
    /// Kept in `store`. Must be called within a runtime.
    pub fn new(store: Arc<dyn Store>) -> Self {
        let (changes, incoming) = mpsc::channel(MAX_TOGETHER);
        tokio::spawn(write_changes(Arc::clone(&store), incoming));
        Self { store, changes }
    }

    /// The newest state.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn read(&self) -> Result<Arc<State>, StoreError> {
        Ok(self.store.read().await?.state)
    }

    /// Changes the state and returns what `change` said of it, once it is
    /// written. `change` may be called several times, each on a newer state.
    /// It is made even when the caller gives up meanwhile.
    ///
    /// # Errors
    /// See [`StoreError`]; nothing was changed then.
    pub async fn update<T: Send + 'static>(
        &self,
        mut change: impl FnMut(&mut State) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let outcome = Arc::new(Mutex::new(None));
        let place = Arc::clone(&outcome);
        let make = Box::new(move |state: &mut State| {
            let said = change(state);
            *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(said);
        });
        let (written, waiting) = oneshot::channel();
        let change = Change { make, written };
        self.changes.send(change).await.map_err(|_| StoreError::Stopping)?;
        waiting.await.map_err(|_| StoreError::Stopping)??;
        let said = outcome.lock().unwrap_or_else(PoisonError::into_inner).take();
        said.ok_or(StoreError::Stopping)
    }
}

/// Writes what comes in, until nobody is left who could send something.
async fn write_changes(store: Arc<dyn Store>, mut incoming: mpsc::Receiver<Change>) {
    let mut together = Vec::new();
    while incoming.recv_many(&mut together, MAX_TOGETHER).await > 0 {
        let result = write_together(store.as_ref(), &mut together).await.map_err(Arc::new);
        for change in together.drain(..) {
            let result = result.as_ref().map(|()| ()).map_err(|error| Arc::clone(error).into());
            // Who gave up is told nothing.
            let _ = change.written.send(result);
        }
    }
}

async fn write_together(store: &dyn Store, changes: &mut [Change]) -> Result<(), StoreError> {
    for _ in 0..MAX_ATTEMPTS {
        let Versioned { version, state } = store.read().await?;
        let mut next = State::clone(&state);
        for change in &mut *changes {
            (change.make)(&mut next);
        }
        if next == *state {
            return Ok(());
        }
        match store.compare_and_swap(version, next).await {
            Err(StoreError::Conflict) => {}
            result => return result,
        }
    }
    Err(StoreError::Conflict)
}

/// Whole seconds since 1970, as kept in the state.
pub fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

#[cfg(test)]
mod tests;
