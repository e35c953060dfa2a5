//! One file that is looked at through every link, and read when it has
//! changed and stands still.
//!
//! Invariants: nothing is lost when a wait is dropped. Knows not what is in the
//! file.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::stillness::Stillness;

/// What one look shows under a name, links followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    Nothing,
    /// Its times change with every file that comes and goes in it, those that
    /// nobody reads among them; its files are looked at one by one.
    Folder,
    File {
        device: u64,
        inode: u64,
        size: u64,
        /// Of the last change of any kind, seconds and nanoseconds: unlike the
        /// time of the content it can't be set back, and it shows changed rights.
        changed: (i64, i64),
    },
}

/// Looks at what is there now.
pub(crate) fn see(path: &Path) -> Seen {
    match fs::metadata(path) {
        Err(_) => Seen::Nothing,
        Ok(found) if found.is_dir() => Seen::Folder,
        Ok(found) => Seen::File {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            changed: (found.ctime(), found.ctime_nsec()),
        },
    }
}

/// Looks for changes of one file.
#[derive(Debug)]
pub(crate) struct FileWatch {
    path: PathBuf,
    stillness: Stillness<Seen>,
}

impl FileWatch {
    /// What is there now counts as changed: it may not be what was read before.
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            path: path.to_path_buf(),
            stillness: Stillness::new(Seen::Nothing),
        }
    }

    /// Waits for a change, and reads.
    pub(crate) async fn changed<T: Send + 'static>(&mut self, read: impl Fn() -> T + Clone + Send + 'static) -> T {
        loop {
            tokio::time::sleep(self.stillness.pause()).await;
            let path = self.path.clone();
            // A file system may take its time.
            let Ok(looked) = tokio::task::spawn_blocking(move || see(&path)).await else {
                continue;
            };
            if !self.stillness.is_worth_reading(looked) {
                continue;
            }
            let (path, read) = (self.path.clone(), read.clone());
            let Ok((outcome, seen)) = tokio::task::spawn_blocking(move || (read(), see(&path))).await else {
                continue;
            };
            if self.stillness.counts(seen, true) {
                return outcome;
            }
        }
    }
}
