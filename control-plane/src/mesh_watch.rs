//! The mesh file and its policies as they change while the control plane runs.
//!
//! Invariants: what is handed out is valid as a whole; a change with a mistake
//! is reported once, and what was good before stays in force. It looks at
//! names, sizes and times each second, and reads only what has changed, so
//! that replaced files and switched links are seen as well.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use watchword_policy::Diagnostic;

use crate::mesh_file::{LoadedPolicies, MeshFile};

/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Files of one folder that are looked at.
const MAX_ENTRIES: usize = 10_000;

/// A mesh with its policies, valid together.
#[derive(Debug, Clone)]
pub struct LoadedMesh {
    /// The file.
    pub mesh: MeshFile,
    /// Its policies.
    pub policies: LoadedPolicies,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Trace {
    path: PathBuf,
    /// Device, inode, size, seconds and nanoseconds of the last change.
    seen: Option<(u64, u64, u64, i64, i64)>,
}

/// Looks for changes of one mesh file.
#[derive(Debug)]
pub struct MeshWatch {
    path: PathBuf,
    policies: Vec<PathBuf>,
    seen: Vec<Trace>,
}

impl MeshWatch {
    /// Loads a mesh file with its policies, and watches them from then on.
    ///
    /// # Errors
    /// Everything that is wrong in them, with file and place.
    pub fn load(path: &Path) -> Result<(LoadedMesh, Self), Vec<Diagnostic>> {
        let mut watch = Self {
            path: path.to_path_buf(),
            policies: Vec::new(),
            seen: Vec::new(),
        };
        let loaded = watch.read()?;
        Ok((loaded, watch))
    }

    /// Waits for a change, and loads it.
    ///
    /// # Errors
    /// Everything that is wrong, once per change.
    pub async fn changed(&mut self) -> Result<LoadedMesh, Vec<Diagnostic>> {
        loop {
            tokio::time::sleep(LOOK_AGAIN).await;
            if traces(&self.path, &self.policies) != self.seen {
                return self.read();
            }
        }
    }

    /// Looks before it reads: what changes in between is seen the next time.
    fn read(&mut self) -> Result<LoadedMesh, Vec<Diagnostic>> {
        self.seen = traces(&self.path, &self.policies);
        let mesh = MeshFile::load(&self.path)?;
        self.policies.clone_from(&mesh.policies);
        self.seen.truncate(1);
        self.seen.extend(policy_traces(&self.policies));
        let policies = mesh.load_policies()?;
        Ok(LoadedMesh { mesh, policies })
    }
}

fn traces(mesh: &Path, policies: &[PathBuf]) -> Vec<Trace> {
    let mut traces = vec![trace(mesh)];
    traces.append(&mut policy_traces(policies));
    traces
}

fn policy_traces(policies: &[PathBuf]) -> Vec<Trace> {
    let mut traces = Vec::new();
    for path in policies {
        traces.push(trace(path));
        let Ok(entries) = fs::read_dir(path) else {
            continue;
        };
        let entries = entries.take(MAX_ENTRIES).filter_map(Result::ok);
        let mut inside: Vec<_> = entries.map(|entry| trace(&entry.path())).collect();
        inside.sort_by(|one, other| one.path.cmp(&other.path));
        traces.append(&mut inside);
    }
    traces
}

fn trace(path: &Path) -> Trace {
    let seen = fs::metadata(path).ok().map(|found| {
        (
            found.dev(),
            found.ino(),
            found.size(),
            found.mtime(),
            found.mtime_nsec(),
        )
    });
    Trace {
        path: path.to_path_buf(),
        seen,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MESH: &str =
        "trustDomain: example.org\npolicies: [policies]\nservices: {web: {ports: {80: http}, endpoints: []}}\n";
    const POLICY: &str = "name: NAME\nservice: spiffe://example.org/web\nallow: [{from: [spiffe://example.org/web]}]\n";

    fn write(folder: &Path, name: &str, text: &str) {
        crate::state_folder::write_atomic(&folder.join(name), text.as_bytes(), 0o644).unwrap();
    }

    async fn names(watch: &mut MeshWatch) -> Vec<String> {
        let loaded = watch.changed().await.unwrap();
        loaded.policies.policies.into_iter().map(|policy| policy.name).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn each_change_is_seen_and_a_mistake_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        fs::create_dir(folder.join("policies")).unwrap();
        write(folder, "mesh.yaml", MESH);
        write(folder, "policies/a.yaml", &POLICY.replace("NAME", "one"));
        let (loaded, mut watch) = MeshWatch::load(&folder.join("mesh.yaml")).unwrap();
        assert_eq!(loaded.policies.policies.len(), 1);
        write(folder, "policies/b.yaml", &POLICY.replace("NAME", "two"));
        assert_eq!(names(&mut watch).await, ["one", "two"]);
        write(folder, "policies/a.yaml", &POLICY.replace("NAME", "three"));
        assert_eq!(names(&mut watch).await, ["three", "two"]);
        write(folder, "policies/a.yaml", "name: [");
        assert!(!watch.changed().await.unwrap_err().is_empty());
        assert!(tokio::time::timeout(LOOK_AGAIN * 5, watch.changed()).await.is_err());
        fs::remove_file(folder.join("policies/a.yaml")).unwrap();
        assert_eq!(names(&mut watch).await, ["two"]);
        write(folder, "mesh.yaml", "nonsense");
        assert!(!watch.changed().await.unwrap_err().is_empty());
        fs::rename(folder.join("policies"), folder.join("rules")).unwrap();
        write(folder, "mesh.yaml", &MESH.replace("[policies]", "[rules]"));
        assert_eq!(names(&mut watch).await, ["two"]);
        assert!(tokio::time::timeout(LOOK_AGAIN * 5, watch.changed()).await.is_err());
    }
}
