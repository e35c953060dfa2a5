//! What the control plane must not forget: the epoch, join tokens and
//! lineages. All of it stands behind a [`Store`] with compare-and-swap, so
//! that several control planes can share it one day.
//!
//! Invariants: an update is written before anybody is told of it. There is
//! no secret in it: tokens are hashed, and private keys never come here.

mod file;
mod state;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::SystemTime;

use thiserror::Error;

pub use file::FileStore;
pub use state::{IssuedSvid, Lineage, LineageKey, State, Token, TokenUse};

use crate::state_folder::FolderError;

/// Lost races in a row before an update gives up.
const MAX_ATTEMPTS: usize = 16;

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
#[derive(Debug, Clone)]
pub struct Records {
    store: Arc<dyn Store>,
    // Updates of this process take turns, or they would lose races to one
    // another; the store settles those between processes.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Records {
    /// Kept in `store`.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            turn: Arc::default(),
        }
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
    ///
    /// # Errors
    /// See [`StoreError`]; nothing was changed then.
    pub async fn update<T>(&self, mut change: impl FnMut(&mut State) -> T + Send) -> Result<T, StoreError> {
        let _turn = self.turn.lock().await;
        for _ in 0..MAX_ATTEMPTS {
            let Versioned { version, state } = self.store.read().await?;
            let mut next = State::clone(&state);
            let outcome = change(&mut next);
            if next == *state {
                return Ok(outcome);
            }
            match self.store.compare_and_swap(version, next).await {
                Ok(()) => return Ok(outcome),
                Err(StoreError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        Err(StoreError::Conflict)
    }
}

/// Whole seconds since 1970, as kept in the state.
pub fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

#[cfg(test)]
mod tests;
