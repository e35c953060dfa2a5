//! The mesh file and its policies as they change while the control plane runs.
//!
//! Invariants:
//! - What is handed out is valid as a whole, and was read while nothing moved:
//!   it stood still since the look before, and did so while it was read. So a
//!   file that is half written, a folder that is away for a moment and a
//!   mounted ConfigMap that is being switched are waited for, not taken. What
//!   never stands still is taken in the end.
//! - An outcome is handed out once: the same mistakes are not told again, and
//!   what reads as it did before is no change.
//!
//! It looks at the very files that would be read, through every link, so that
//! switched links (`..data`) and replaced folders show as other files, and an
//! editor's temporary files show not at all.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use watchword_policy::Diagnostic;

use crate::mesh_file::{LoadedPolicies, MeshFile, watched_files};

/// Between two looks.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How long what has changed must stand still. Longer than the steps of a file
/// system's clock, so that a second write has a time of its own.
pub(crate) const STANDS_STILL: Duration = Duration::from_millis(300);
/// What moves at this many looks in a row is read as it is.
pub(crate) const MAX_MOVES: u32 = 10;

/// A mesh with its policies, valid together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedMesh {
    /// The file.
    pub mesh: MeshFile,
    /// Its policies.
    pub policies: LoadedPolicies,
}

type Outcome = Result<LoadedMesh, Vec<Diagnostic>>;

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

type Look = Vec<(PathBuf, Seen)>;

/// Looks for changes of one mesh file.
#[derive(Debug)]
pub struct MeshWatch {
    files: Files,
    /// At the last look.
    seen: Look,
    /// What was seen is also what was read, and stood still before.
    settled: bool,
    /// How often in a row it did not stand still.
    moves: u32,
    /// What was handed out last.
    told: Outcome,
}

/// Where to look.
#[derive(Debug, Clone)]
struct Files {
    mesh: PathBuf,
    policies: Vec<PathBuf>,
}

impl MeshWatch {
    /// Loads a mesh file with its policies, and watches them from then on.
    ///
    /// # Errors
    /// Everything that is wrong in them, with file and place.
    pub fn load(path: &Path) -> Result<(LoadedMesh, Self), Vec<Diagnostic>> {
        let mut files = Files {
            mesh: path.to_path_buf(),
            policies: Vec::new(),
        };
        let loaded = files.read()?;
        let watch = Self {
            seen: files.look(),
            files,
            // It may have been written just now: it is read once more.
            settled: false,
            moves: 0,
            told: Ok(loaded.clone()),
        };
        Ok((loaded, watch))
    }

    /// Waits for a change, and loads it. Nothing is lost when this is dropped.
    ///
    /// # Errors
    /// Everything that is wrong, once per change.
    pub async fn changed(&mut self) -> Outcome {
        loop {
            let pause = if self.settled { LOOK_AGAIN } else { STANDS_STILL };
            tokio::time::sleep(pause).await;
            let files = self.files.clone();
            // A file system may take its time.
            let looked = tokio::task::spawn_blocking(move || files.look()).await;
            let Ok(looked) = looked else { continue };
            if !self.stands_still(looked) {
                continue;
            }
            if let Some(outcome) = self.read().await {
                return outcome;
            }
        }
    }

    /// Whether it is time to read.
    fn stands_still(&mut self, looked: Look) -> bool {
        if looked == self.seen {
            return !self.settled;
        }
        self.seen = looked;
        self.settled = false;
        self.moves += 1;
        self.moves >= MAX_MOVES
    }

    /// What is there now, when it is another outcome than the last one.
    async fn read(&mut self) -> Option<Outcome> {
        let mut files = self.files.clone();
        let read = tokio::task::spawn_blocking(move || {
            let outcome = files.read();
            let seen = files.look();
            (outcome, seen, files)
        });
        let (outcome, seen, files) = read.await.ok()?;
        let other_files = files.policies != self.files.policies;
        self.files = files;
        // Files that are named for the first time were not looked at before.
        if (other_files || seen != self.seen) && self.moves < MAX_MOVES {
            self.moves += 1;
            self.seen = seen;
            self.settled = false;
            return None;
        }
        self.seen = seen;
        self.settled = true;
        self.moves = 0;
        if outcome == self.told {
            return None;
        }
        self.told.clone_from(&outcome);
        Some(outcome)
    }
}

impl Files {
    /// Also notes which policies the file names, so that one that is not there
    /// yet is seen when it comes.
    fn read(&mut self) -> Outcome {
        let (mesh, missing) = MeshFile::load_even_if_missing(&self.mesh)?;
        self.policies.clone_from(&mesh.policies);
        if !missing.is_empty() {
            return Err(missing);
        }
        let policies = mesh.load_policies()?;
        Ok(LoadedMesh { mesh, policies })
    }

    fn look(&self) -> Look {
        let policies = watched_files(&self.policies);
        let named = std::iter::once(&self.mesh).chain(&self.policies);
        named.chain(&policies).map(|path| (path.clone(), see(path))).collect()
    }
}

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

#[cfg(test)]
mod tests;
