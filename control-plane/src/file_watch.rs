//! One file that is looked at through every link, and read when it has
//! changed and stands still.
//!
//! Invariants: as `crate::mesh_watch`: what moves is waited for, at most ten
//! looks in a row; what moved while it was read is read again. Nothing is lost
//! when a wait is dropped. Knows not what is in the file.

use std::path::{Path, PathBuf};

use crate::mesh_watch::{LOOK_AGAIN, MAX_MOVES, STANDS_STILL, Seen, see};

/// Looks for changes of one file.
#[derive(Debug)]
pub(crate) struct FileWatch {
    path: PathBuf,
    seen: Seen,
    /// What was seen is also what was read.
    settled: bool,
    moves: u32,
}

impl FileWatch {
    /// What is there now counts as changed: it may not be what was read before.
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            path: path.to_path_buf(),
            seen: Seen::Nothing,
            settled: false,
            moves: 0,
        }
    }

    /// Waits for a change, and reads.
    pub(crate) async fn changed<T: Send + 'static>(&mut self, read: impl Fn() -> T + Clone + Send + 'static) -> T {
        loop {
            let pause = if self.settled { LOOK_AGAIN } else { STANDS_STILL };
            tokio::time::sleep(pause).await;
            let path = self.path.clone();
            // A file system may take its time.
            let Ok(looked) = tokio::task::spawn_blocking(move || see(&path)).await else {
                continue;
            };
            if !self.stands_still(looked) {
                continue;
            }
            let (path, read) = (self.path.clone(), read.clone());
            let Ok((outcome, seen)) = tokio::task::spawn_blocking(move || (read(), see(&path))).await else {
                continue;
            };
            if seen != self.seen && self.moves < MAX_MOVES {
                self.moves += 1;
                self.seen = seen;
                continue;
            }
            self.seen = seen;
            self.settled = true;
            self.moves = 0;
            return outcome;
        }
    }

    /// Whether it is time to read.
    fn stands_still(&mut self, looked: Seen) -> bool {
        if looked == self.seen {
            return !self.settled;
        }
        self.seen = looked;
        self.settled = false;
        self.moves += 1;
        self.moves >= MAX_MOVES
    }
}
