//! The folder of a mesh: where it lies, whose it is, and whether the mesh
//! still runs.
//!
//! Invariants: a mesh runs as long as somebody holds a lock on its folder's
//! `lock` file; whoever can take the lock for itself may remove the folder;
//! who tries to take one holds the lock of the folder above, so that nobody
//! takes a look at a mesh for the mesh itself; no folder is used that others
//! could have put there.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, geteuid};

/// Why a mesh folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FolderError {
    /// Somebody else's, or open to others.
    #[error("{path} is not a folder of yours alone: look who made it, and remove it or `chmod go-w {path}`")]
    NotOurs {
        /// The folder.
        path: PathBuf,
    },
    /// A mesh of that name runs.
    #[error("a mesh named `{name}` is running: stop it first, or give this one another `name`")]
    Running {
        /// The mesh's name.
        name: String,
    },
    /// The file system refused.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// The folder of all mesh folders of this user.
pub(crate) fn base() -> PathBuf {
    let uid = geteuid();
    if uid.is_root() {
        return PathBuf::from("/run/watchword");
    }
    std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute() && is_ours(path, uid))
        .map_or_else(
            || PathBuf::from(format!("/tmp/watchword-{uid}")),
            |path| path.join("watchword"),
        )
}

/// A mesh folder that this process keeps alive.
#[derive(Debug)]
pub(crate) struct MeshFolder {
    path: PathBuf,
    // Locked as long as it is open.
    _lock: File,
}

impl MeshFolder {
    /// Makes the folder of mesh `name` below `base`, anew if a stale one is
    /// there, and holds it.
    pub(crate) fn create(base: &Path, name: &str) -> Result<Self, FolderError> {
        let path = base.join(name);
        // Somebody may remove a stale folder while we take it: then again.
        for _ in 0..100 {
            make_base(base)?;
            let Some(_turn) = turn(base)? else { continue };
            if !make(&path)? {
                continue;
            }
            let Some(lock) = take(&path, name)? else { continue };
            empty(&path).map_err(|source| io_error("empty", &path, source))?;
            // From now on the supervisor may hold it together with us.
            if lock.try_lock_shared().is_ok() && is_same(&lock, &path.join("lock")) {
                return Ok(Self { path, _lock: lock });
            }
        }
        Err(FolderError::Running { name: name.to_owned() })
    }

    /// Holds a folder that another process made and holds.
    pub(crate) fn join(path: &Path) -> Result<Self, FolderError> {
        let file = path.join("lock");
        let lock = File::open(&file).map_err(|source| io_error("open", &file, source))?;
        lock.lock_shared().map_err(|source| io_error("lock", &file, source))?;
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it with everything in it, and the folder above if that is
    /// empty then. What cannot be removed stays for the next command.
    pub(crate) fn remove(self) {
        let _ = fs::remove_dir_all(&self.path);
        self.path.parent().map(fs::remove_dir);
    }
}

/// Names of the meshes that run, sorted. Removes the folders of those that do
/// not.
pub(crate) fn running(base: &Path) -> Vec<String> {
    if !is_ours(base, geteuid()) {
        return Vec::new();
    }
    let Ok(Some(_turn)) = turn(base) else {
        return Vec::new();
    };
    let Ok(entries) = fs::read_dir(base) else {
        return Vec::new();
    };
    let mut names = Vec::new();
    for entry in entries.flatten() {
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let Some(name) = entry.file_name().to_str().map(str::to_owned).filter(|_| is_folder) else {
            continue;
        };
        match take(&entry.path(), &name) {
            Ok(Some(_lock)) => {
                let _ = fs::remove_dir_all(entry.path());
                // Fails unless it was the last one.
                let _ = fs::remove_dir(base);
            }
            Err(FolderError::Running { .. }) => names.push(name),
            Ok(None) | Err(_) => {}
        }
    }
    names.sort();
    names
}

/// Writes a file for its owner alone, whole or not at all.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<(), FolderError> {
    let new = path.with_extension("new");
    let write = || {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        io::Write::write_all(&mut file, text.as_bytes())?;
        fs::rename(&new, path)
    };
    write().map_err(|source| io_error("write", path, source))
}

fn make_base(base: &Path) -> Result<(), FolderError> {
    if !make(base)? {
        let source = io::Error::from(io::ErrorKind::NotFound);
        return Err(io_error("make", base, source));
    }
    // One that somebody just removed is made again in the next round.
    if is_ours(base, geteuid()) || !base.exists() {
        Ok(())
    } else {
        Err(FolderError::NotOurs { path: base.to_owned() })
    }
}

/// The turn to try locks in `base`, until it is dropped; `None` when the folder
/// vanished meanwhile. Nobody keeps it for longer than it takes to remove what
/// is stale.
fn turn(base: &Path) -> Result<Option<File>, FolderError> {
    let folder = match File::open(base) {
        Ok(folder) => folder,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io_error("open", base, source)),
    };
    folder.lock().map_err(|source| io_error("lock", base, source))?;
    Ok(is_same(&folder, base).then_some(folder))
}

/// Root's folders let the sidecars' user pass to their own; nobody else's
/// let anyone. False when the folder above is gone.
fn make(path: &Path) -> Result<bool, FolderError> {
    let mode = if geteuid().is_root() { 0o711 } else { 0o700 };
    let made = match DirBuilder::new().mode(mode).create(path) {
        // The umask may have taken bits away.
        Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(mode)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    };
    match made {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(io_error("make", path, source)),
    }
}

fn is_ours(path: &Path, uid: Uid) -> bool {
    fs::symlink_metadata(path)
        .is_ok_and(|found| found.is_dir() && found.uid() == uid.as_raw() && found.mode() & 0o022 == 0)
}

/// The lock, exclusively; `None` when the folder vanished meanwhile.
fn take(path: &Path, name: &str) -> Result<Option<File>, FolderError> {
    let file = path.join("lock");
    let opened = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&file);
    let lock = match opened {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io_error("open", &file, source)),
    };
    match lock.try_lock() {
        Ok(()) => Ok(is_same(&lock, &file).then_some(lock)),
        Err(TryLockError::WouldBlock) => Err(FolderError::Running { name: name.to_owned() }),
        Err(TryLockError::Error(source)) => Err(io_error("lock", &file, source)),
    }
}

/// Whether the open file is still what lies at its path.
fn is_same(open: &File, path: &Path) -> bool {
    match (open.metadata(), fs::symlink_metadata(path)) {
        (Ok(open), Ok(there)) => (open.dev(), open.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

fn empty(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_name() == "lock" {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn io_error(what: &'static str, path: &Path, source: io::Error) -> FolderError {
    FolderError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    #[test]
    fn a_running_mesh_is_seen_and_not_taken() {
        let base = tempfile::tempdir().unwrap();
        let folder = MeshFolder::create(base.path(), "shop").unwrap();
        assert_eq!(running(base.path()), ["shop"]);
        let error = MeshFolder::create(base.path(), "shop").unwrap_err();
        assert!(matches!(error, FolderError::Running { .. }), "{error}");
        // As the supervisor does, which may outlive `up`.
        let second = MeshFolder::join(folder.path()).unwrap();
        drop(folder);
        assert_eq!(running(base.path()), ["shop"]);
        drop(second);
        fs::write(base.path().join("other"), "").unwrap();
        assert!(running(base.path()).is_empty());
        assert!(!base.path().join("shop").exists(), "stale folders go");
    }

    #[test]
    fn a_look_at_the_meshes_is_never_taken_for_a_mesh() {
        let base = tempfile::tempdir().unwrap();
        fs::write(base.path().join("other"), "").unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    running(base.path());
                }
            });
            let made: Result<Vec<_>, _> = (0..2_000)
                .map(|_| MeshFolder::create(base.path(), "shop").map(MeshFolder::remove))
                .collect();
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            made.unwrap();
        });
    }

    #[test]
    fn a_stale_folder_is_used_anew_without_what_was_in_it() {
        let base = tempfile::tempdir().unwrap();
        fs::create_dir_all(base.path().join("shop/state")).unwrap();
        fs::write(base.path().join("shop/mesh.json"), "old").unwrap();
        let folder = MeshFolder::create(base.path(), "shop").unwrap();
        let left: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .flatten()
            .map(|e| e.file_name())
            .collect();
        assert_eq!(left, ["lock"]);
        fs::write(base.path().join("other"), "").unwrap();
        folder.remove();
        assert!(!base.path().join("shop").exists());
        assert!(base.path().exists(), "what others use stays");
    }

    #[test]
    fn a_folder_that_others_can_write_to_or_link_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let open = base.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        let link = base.path().join("link");
        std::os::unix::fs::symlink(base.path(), &link).unwrap();
        for path in [open, link] {
            let error = MeshFolder::create(&path, "shop").unwrap_err();
            assert!(matches!(error, FolderError::NotOurs { .. }), "{error}");
        }
    }

    #[test]
    fn private_files_are_private() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("mesh.json");
        write_private(&path, "{}").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_to_string(&path).unwrap(), "{}");
    }
}
