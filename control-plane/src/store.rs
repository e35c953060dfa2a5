//! What the control plane must not forget: the epoch, join tokens and
//! lineages. All of it stands behind a [`Store`] with compare-and-swap, so
//! that several control planes can share it one day.
//!
//! Invariants: an update is written before anybody is told of it. There is
//! no secret in it: tokens are hashed, and private keys never come here.

mod file;
mod state;
mod tracked;

use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

pub use file::FileStore;
pub use state::{Changes, IssuedSvid, Lineage, LineageKey, State, Token, TokenUse};
pub use tracked::TrackedMap;

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
    /// The content, settled.
    pub state: State,
}

/// Where the state is kept.
#[tonic::async_trait]
pub trait Store: Debug + Send + Sync {
    /// The newest state.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn read(&self) -> Result<Versioned, StoreError>;

    /// Changes the state of version `expected`, which gets the next number.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the newest version is another one.
    async fn compare_and_swap(&self, expected: u64, changes: Changes) -> Result<(), StoreError>;
}

/// The state, for those who change it.
///
/// Changes that come while one is being written are written together, so that
/// a thousand callers do not wait for a thousand syncs of a file.
#[derive(Debug, Clone)]
pub struct Records {
    /// The newest state, which may be ahead of what is written by what is
    /// being written.
    newest: Arc<Mutex<Versioned>>,
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
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn new(store: Arc<dyn Store>) -> Result<Self, StoreError> {
        let newest = Arc::new(Mutex::new(store.read().await?));
        let (changes, incoming) = mpsc::channel(MAX_TOGETHER);
        let writer = Writer {
            store,
            newest: Arc::clone(&newest),
        };
        tokio::spawn(writer.run(incoming));
        Ok(Self { newest, changes })
    }

    /// What `look` says of the newest state.
    pub fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&locked(&self.newest).state)
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
            *locked(&place) = Some(said);
        });
        let (written, waiting) = oneshot::channel();
        let change = Change { make, written };
        self.changes.send(change).await.map_err(|_| StoreError::Stopping)?;
        waiting.await.map_err(|_| StoreError::Stopping)??;
        let said = locked(&outcome).take();
        said.ok_or(StoreError::Stopping)
    }
}

struct Writer {
    store: Arc<dyn Store>,
    newest: Arc<Mutex<Versioned>>,
}

impl Writer {
    /// Writes what comes in, until nobody is left who could send something.
    async fn run(self, mut incoming: mpsc::Receiver<Change>) {
        let mut together = Vec::new();
        while incoming.recv_many(&mut together, MAX_TOGETHER).await > 0 {
            let result = self.write(&mut together).await.map_err(Arc::new);
            for change in together.drain(..) {
                let result = result.clone().map_err(StoreError::from);
                // Who gave up is told nothing.
                let _ = change.written.send(result);
            }
        }
    }

    async fn write(&self, changes: &mut [Change]) -> Result<(), StoreError> {
        for _ in 0..MAX_ATTEMPTS {
            let Some((version, made)) = self.make(changes) else {
                return Ok(());
            };
            match self.store.compare_and_swap(version, made).await {
                Ok(()) => {
                    let mut newest = locked(&self.newest);
                    newest.state.settle();
                    newest.version += 1;
                    return Ok(());
                }
                Err(StoreError::Conflict) => {
                    locked(&self.newest).state.undo();
                    let theirs = self.store.read().await?;
                    *locked(&self.newest) = theirs;
                }
                Err(error) => {
                    locked(&self.newest).state.undo();
                    return Err(error);
                }
            }
        }
        Err(StoreError::Conflict)
    }

    /// All of them in memory; what that changed, and in which version.
    fn make(&self, changes: &mut [Change]) -> Option<(u64, Changes)> {
        let mut newest = locked(&self.newest);
        for change in changes {
            (change.make)(&mut newest.state);
        }
        newest.state.changes().map(|made| (newest.version, made))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whole seconds since 1970, as kept in the state.
pub fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

#[cfg(test)]
mod tests;
