//! Unix sockets that appear with the rights they are to have.
//!
//! Invariant: a socket is made in a folder that only we can enter, gets its
//! mode there, and then its name: nobody can connect in between. A stale one
//! of a process that died is replaced by the same step.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;
use tokio::net::UnixListener;

/// Where sockets are made.
const FOLDER: &str = ".new";

/// Why there is no socket.
#[derive(Debug, Error)]
#[error("can't listen on {}: {source}", .path.display())]
pub struct SocketError {
    path: PathBuf,
    source: io::Error,
}

/// Listens on a Unix socket with this mode. The caller holds the folder's lock.
///
/// # Errors
/// When the folder can't be written, or the path has more than some 100 bytes.
pub fn bind_unix(path: &Path, mode: u32) -> Result<UnixListener, SocketError> {
    bind(path, mode).map_err(|source| SocketError {
        path: path.to_path_buf(),
        source,
    })
}

fn bind(path: &Path, mode: u32) -> io::Result<UnixListener> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the path of a socket"));
    };
    let nursery = folder.join(FOLDER);
    // Of a process that died.
    match fs::remove_dir_all(&nursery) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    DirBuilder::new().mode(0o700).create(&nursery)?;
    let newborn = nursery.join(name);
    let listener = UnixListener::bind(&newborn)?;
    fs::set_permissions(&newborn, Permissions::from_mode(mode))?;
    fs::rename(&newborn, path)?;
    fs::remove_dir(&nursery)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn a_socket_has_its_mode_and_replaces_a_stale_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        drop(bind_unix(&path, 0o600).unwrap());
        assert!(UnixStream::connect(&path).await.is_err());
        let listener = bind_unix(&path, 0o600).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let (accepted, connected) = tokio::join!(listener.accept(), UnixStream::connect(&path));
        accepted.unwrap();
        connected.unwrap();
        let names: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["admin.sock"]);
    }

    #[tokio::test]
    async fn a_path_that_is_too_long_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x".repeat(120));
        let message = bind_unix(&path, 0o600).unwrap_err().to_string();
        assert!(message.contains("can't listen on"), "{message}");
    }
}
