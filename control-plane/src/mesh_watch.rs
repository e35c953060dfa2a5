//! The mesh file, its policies and its trust bundles as they change while the
//! control plane runs.
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

use std::path::{Path, PathBuf};

use watchword_identity::Bundle;
use watchword_policy::Diagnostic;

use crate::file_watch::{Seen, see};
use crate::mesh_file::{LoadedPolicies, MeshFile, watched_files};
use crate::stillness::Stillness;

/// A mesh with its policies and trust bundles, valid together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedMesh {
    /// The file.
    pub mesh: MeshFile,
    /// Its policies.
    pub policies: LoadedPolicies,
    /// The roots of other trust domains.
    pub partners: Bundle,
}

type Outcome = Result<LoadedMesh, Vec<Diagnostic>>;

type Look = Vec<(PathBuf, Seen)>;

/// Looks for changes of one mesh file.
#[derive(Debug)]
pub struct MeshWatch {
    files: Files,
    stillness: Stillness<Look>,
    /// What was handed out last.
    told: Outcome,
}

/// Where to look.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Files {
    mesh: PathBuf,
    /// Files and folders.
    policies: Vec<PathBuf>,
    trust_bundles: Vec<PathBuf>,
}

impl MeshWatch {
    /// Loads a mesh file with all that it names, and watches it from then on.
    ///
    /// # Errors
    /// Everything that is wrong in them, with file and place.
    pub fn load(path: &Path) -> Result<(LoadedMesh, Self), Vec<Diagnostic>> {
        let mut files = Files {
            mesh: path.to_path_buf(),
            policies: Vec::new(),
            trust_bundles: Vec::new(),
        };
        let loaded = files.read()?;
        let watch = Self {
            // It may have been written just now: it is read once more.
            stillness: Stillness::new(files.look()),
            files,
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
            tokio::time::sleep(self.stillness.pause()).await;
            let files = self.files.clone();
            // A file system may take its time.
            let looked = tokio::task::spawn_blocking(move || files.look()).await;
            let Ok(looked) = looked else { continue };
            if !self.stillness.is_worth_reading(looked) {
                continue;
            }
            if let Some(outcome) = self.read().await {
                return outcome;
            }
        }
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
        let other_files = files != self.files;
        self.files = files;
        // Files that are named for the first time were not looked at before.
        if !self.stillness.counts(seen, !other_files) {
            return None;
        }
        if outcome == self.told {
            return None;
        }
        self.told.clone_from(&outcome);
        Some(outcome)
    }
}

impl Files {
    /// Also notes which files the mesh file names, so that one that is not there
    /// yet is seen when it comes.
    fn read(&mut self) -> Outcome {
        let (mesh, missing) = MeshFile::load_even_if_missing(&self.mesh)?;
        self.policies.clone_from(&mesh.policies);
        self.trust_bundles = mesh.trust_bundles.values().cloned().collect();
        if !missing.is_empty() {
            return Err(missing);
        }
        match (mesh.load_policies(), mesh.load_trust_bundles()) {
            (Ok(policies), Ok(partners)) => Ok(LoadedMesh {
                mesh,
                policies,
                partners,
            }),
            (policies, partners) => {
                let mistakes = [policies.err(), partners.err()];
                Err(mistakes.into_iter().flatten().flatten().collect())
            }
        }
    }

    fn look(&self) -> Look {
        let policies = watched_files(&self.policies);
        let named = std::iter::once(&self.mesh)
            .chain(&self.policies)
            .chain(&self.trust_bundles);
        named.chain(&policies).map(|path| (path.clone(), see(path))).collect()
    }
}

#[cfg(test)]
mod tests;
