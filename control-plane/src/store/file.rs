//! The state in one local file, for one control plane.
//!
//! Invariants: the folder is locked while the store lives, so that nobody
//! else writes. What is in memory was written before.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::{State, Store, StoreError, Versioned};
use crate::state_folder::{FolderLock, PRIVATE, lock, open_private, read_private, write_atomic};

const FILE: &str = "state.json";
const LOCK: &str = "lock";
/// Of the file's layout.
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<S> {
    format: u32,
    version: u64,
    state: S,
}

/// A store in `state.json` of a private folder.
#[derive(Debug)]
pub struct FileStore {
    path: PathBuf,
    current: Arc<Mutex<Versioned>>,
    _lock: FolderLock,
}

impl FileStore {
    /// Opens the store in `folder`, and takes the folder for this process.
    ///
    /// # Errors
    /// When another process has it, or the file can't be read.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        open_private(folder)?;
        let held = lock(folder, LOCK)?;
        let path = folder.join(FILE);
        let current = match read_private(&path)? {
            None => Versioned {
                version: 0,
                state: Arc::default(),
            },
            Some(bytes) => parse(&bytes).map_err(|problem| StoreError::Corrupt {
                path: path.display().to_string(),
                problem,
            })?,
        };
        Ok(Self {
            path,
            current: Arc::new(Mutex::new(current)),
            _lock: held,
        })
    }
}

fn parse(bytes: &[u8]) -> Result<Versioned, String> {
    let document: Document<State> = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if document.format != FORMAT {
        return Err(format!("its format is {}, this build writes {FORMAT}", document.format));
    }
    Ok(Versioned {
        version: document.version,
        state: Arc::new(document.state),
    })
}

#[tonic::async_trait]
impl Store for FileStore {
    async fn read(&self) -> Result<Versioned, StoreError> {
        Ok(self.current.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    async fn compare_and_swap(&self, expected: u64, state: State) -> Result<(), StoreError> {
        let current = Arc::clone(&self.current);
        let path = self.path.clone();
        // Syncing a file blocks. The task ends even when its caller is gone, so
        // that memory and file agree.
        let write = tokio::task::spawn_blocking(move || {
            let mut current = current.lock().unwrap_or_else(PoisonError::into_inner);
            if current.version != expected {
                return Err(StoreError::Conflict);
            }
            let version = expected + 1;
            let document = Document {
                format: FORMAT,
                version,
                state: &state,
            };
            let bytes = serde_json::to_vec(&document).map_err(|error| StoreError::Corrupt {
                path: path.display().to_string(),
                problem: error.to_string(),
            })?;
            write_atomic(&path, &bytes, PRIVATE)?;
            *current = Versioned {
                version,
                state: Arc::new(state),
            };
            Ok(())
        });
        write.await.map_err(|_| StoreError::Stopping)?
    }
}
