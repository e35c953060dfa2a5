//! Files that only their owner may read, written so that a crash leaves the
//! old content or the new one, never half of either.
//!
//! Invariants: a folder or file that others may read is refused with the
//! command that mends it, never silently repaired: whoever could read it may
//! have done so. Knows nothing of what the files hold.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;
use zeroize::Zeroizing;

/// The longest file that is read back, in bytes.
const MAX_FILE: u64 = 256 * 1024 * 1024;
/// Of a file that only its owner may read.
pub const PRIVATE: u32 = 0o600;
/// Of a file that everybody may read.
pub const PUBLIC: u32 = 0o644;

/// Why a file or folder can't be used.
#[derive(Debug, Error)]
pub enum FolderError {
    /// The system refuses.
    #[error("{action} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Others than the owner have rights.
    #[error("{} has mode {mode:04o}, so that others may read it: look into who did, then run `chmod {wanted:04o} {}`", .path.display(), .path.display())]
    Mode {
        /// Which.
        path: PathBuf,
        /// As it is.
        mode: u32,
        /// As it must be.
        wanted: u32,
    },
    /// It is somebody else's.
    #[error("{} belongs to uid {owner}, but this process runs as uid {us}: run it as that user, or run `chown -R {us} {}`", .path.display(), .path.display())]
    Owner {
        /// Which.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        us: u32,
    },
    /// A file where a folder should be, or the other way round.
    #[error("{} is not a {expected}: move it away", .path.display())]
    Kind {
        /// Which.
        path: PathBuf,
        /// `folder` or `file`.
        expected: &'static str,
    },
    /// A file that can't be ours.
    #[error("{} is longer than {MAX_FILE} bytes: move it away", .path.display())]
    TooLong {
        /// Which.
        path: PathBuf,
    },
    /// Another process holds the lock.
    #[error("{} is in use by another control plane: stop that one, or give this one a folder of its own", .path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
}

impl FolderError {
    /// The system's refusal of `action` at `path`.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            action,
            path: path.to_path_buf(),
            source,
        }
    }
}

/// Makes the folder (0700), or checks that it is ours alone.
///
/// # Errors
/// See [`FolderError`].
pub fn open_private(path: &Path) -> Result<(), FolderError> {
    make_folder(path, 0o700)?;
    let found = fs::metadata(path).map_err(FolderError::io("can't look at", path))?;
    check_private(path, &found, 0o700)
}

/// Makes a folder that everybody may enter, unless it is there.
///
/// # Errors
/// See [`FolderError`].
pub fn open_public(path: &Path) -> Result<(), FolderError> {
    make_folder(path, 0o755)
}

fn make_folder(path: &Path, mode: u32) -> Result<(), FolderError> {
    let made = DirBuilder::new().recursive(true).mode(mode).create(path);
    match made {
        Ok(()) => Ok(()),
        Err(_) if path.exists() && !path.is_dir() => Err(FolderError::Kind {
            path: path.to_path_buf(),
            expected: "folder",
        }),
        Err(error) => Err(FolderError::io("can't make the folder", path)(error)),
    }
}

/// Reads a file that must be ours alone; nothing when there is none.
///
/// # Errors
/// See [`FolderError`].
pub fn read_private(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, FolderError> {
    read(path, true)
}

/// Checks that a file is ours alone; its length, or nothing when there is none.
///
/// # Errors
/// See [`FolderError`].
pub fn look_at_private(path: &Path) -> Result<Option<u64>, FolderError> {
    let found = match fs::metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(FolderError::io("can't look at", path)(error)),
    };
    if !found.is_file() {
        return Err(FolderError::Kind {
            path: path.to_path_buf(),
            expected: "file",
        });
    }
    check_private(path, &found, PRIVATE)?;
    Ok(Some(found.len()))
}

/// Reads a file that holds no secret; nothing when there is none.
///
/// # Errors
/// See [`FolderError`].
pub fn read_public(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, FolderError> {
    read(path, false)
}

fn read(path: &Path, private: bool) -> Result<Option<Zeroizing<Vec<u8>>>, FolderError> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(FolderError::io("can't open", path)(error)),
    };
    let found = file.metadata().map_err(FolderError::io("can't look at", path))?;
    if !found.is_file() {
        return Err(FolderError::Kind {
            path: path.to_path_buf(),
            expected: "file",
        });
    }
    if private {
        check_private(path, &found, PRIVATE)?;
    }
    if found.len() > MAX_FILE {
        return Err(FolderError::TooLong {
            path: path.to_path_buf(),
        });
    }
    // With room for all of it, so that no copy of a secret stays behind.
    let mut content = Zeroizing::new(Vec::with_capacity(usize::try_from(found.len()).unwrap_or_default() + 1));
    let read = (&mut file).take(MAX_FILE).read_to_end(&mut content);
    read.map_err(FolderError::io("can't read", path))?;
    Ok(Some(content))
}

fn check_private(path: &Path, found: &Metadata, wanted: u32) -> Result<(), FolderError> {
    let us = nix::unistd::geteuid().as_raw();
    if found.uid() != us {
        return Err(FolderError::Owner {
            path: path.to_path_buf(),
            owner: found.uid(),
            us,
        });
    }
    let mode = found.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(FolderError::Mode {
            path: path.to_path_buf(),
            mode,
            wanted,
        });
    }
    Ok(())
}

/// Puts the content under the name at once: a temporary file beside it, synced,
/// renamed, and the folder synced. `mode` is [`PRIVATE`] or [`PUBLIC`].
///
/// # Errors
/// See [`FolderError`]; the old content is still there then.
pub fn write_atomic(path: &Path, content: &[u8], mode: u32) -> Result<(), FolderError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    // Left over from a crash; a new file also has the mode that is asked for.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(FolderError::io("can't remove", &temporary)(error));
        }
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)
        .map_err(FolderError::io("can't make", &temporary))?;
    file.set_permissions(fs::Permissions::from_mode(mode))
        .and_then(|()| file.write_all(content))
        .and_then(|()| file.sync_all())
        .map_err(FolderError::io("can't write", &temporary))?;
    rename(&temporary, path)
}

/// Renames, and syncs the folder around the new name.
///
/// # Errors
/// See [`FolderError`].
pub fn rename(from: &Path, to: &Path) -> Result<(), FolderError> {
    fs::rename(from, to).map_err(FolderError::io("can't rename to", to))?;
    let folder = match to.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(FolderError::io("can't sync", folder))
}

/// Held while a process uses a folder; the system lets go of it when the
/// process ends, however it ends.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

/// Takes the folder for this process alone, by a lock on `name` in it.
///
/// # Errors
/// [`FolderError::InUse`] when another process has it.
pub fn lock(folder: &Path, name: &str) -> Result<FolderLock, FolderError> {
    let path = folder.join(name);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(PRIVATE)
        .open(&path)
        .map_err(FolderError::io("can't open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(FolderLock { _file: file }),
        Err(TryLockError::WouldBlock) => Err(FolderError::InUse {
            path: folder.to_path_buf(),
        }),
        Err(TryLockError::Error(error)) => Err(FolderError::io("can't lock", &path)(error)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn what_is_written_is_read_back_and_is_ours_alone() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("a/state");
        open_private(&state).unwrap();
        open_private(&state).unwrap();
        assert_eq!(mode(&state), 0o700);
        let file = state.join("secret");
        assert!(read_private(&file).unwrap().is_none());
        write_atomic(&file, b"one", PRIVATE).unwrap();
        write_atomic(&file, b"two", PRIVATE).unwrap();
        assert_eq!(read_private(&file).unwrap().unwrap().as_slice(), b"two");
        assert_eq!(mode(&file), 0o600);
        let names: Vec<_> = fs::read_dir(&state)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["secret"]);
    }

    #[test]
    fn a_crash_before_the_rename_leaves_the_old_content() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        write_atomic(&file, b"old", PRIVATE).unwrap();
        fs::write(folder.path().join("secret.new"), b"ha").unwrap();
        assert_eq!(read_private(&file).unwrap().unwrap().as_slice(), b"old");
        write_atomic(&file, b"new", PRIVATE).unwrap();
        assert_eq!(read_private(&file).unwrap().unwrap().as_slice(), b"new");
    }

    #[test]
    fn what_others_may_read_is_refused_with_the_command_that_mends_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        write_atomic(&file, b"x", PRIVATE).unwrap();
        for bad in [0o640, 0o604, 0o620] {
            fs::set_permissions(&file, fs::Permissions::from_mode(bad)).unwrap();
            let message = read_private(&file).unwrap_err().to_string();
            assert!(message.contains(&format!("chmod 0600 {}", file.display())), "{message}");
        }
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let message = open_private(folder.path()).unwrap_err().to_string();
        assert!(message.contains("chmod 0700"), "{message}");
    }

    #[test]
    fn a_file_in_place_of_a_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("state");
        fs::write(&file, b"").unwrap();
        assert!(matches!(open_private(&file), Err(FolderError::Kind { .. })));
        assert!(matches!(read_private(folder.path()), Err(FolderError::Kind { .. })));
    }

    #[test]
    fn a_folder_serves_one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let held = lock(folder.path(), "lock").unwrap();
        assert!(matches!(lock(folder.path(), "lock"), Err(FolderError::InUse { .. })));
        drop(held);
        lock(folder.path(), "lock").unwrap();
    }
}
