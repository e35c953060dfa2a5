//! Unix sockets of this proxy: one that a process left behind is replaced, and
//! nothing else is.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use nix::sys::stat::{Mode, umask};
use tokio::net::UnixListener;
use watchword_daemon::MAX_SOCKET_PATH;

/// Listens, for those whom `mode` lets in. `name` is what the socket is called,
/// `key` what chooses its path.
///
/// # Errors
/// When the path is too long or taken, or the folder can't be written.
pub(crate) fn bind(path: &Path, mode: u32, (name, key): (&str, &str)) -> anyhow::Result<UnixListener> {
    let shown = path.display();
    ensure!(
        path.as_os_str().len() <= MAX_SOCKET_PATH,
        "the {name}'s path {shown} is longer than {MAX_SOCKET_PATH} bytes: choose a shorter one, by `{key}`"
    );
    if let Ok(there) = fs::symlink_metadata(path) {
        ensure!(
            there.file_type().is_socket(),
            "{shown} is there already, and is no socket: move it away, or choose another path, by `{key}`"
        );
        match UnixStream::connect(path) {
            // Nobody listens there: it was left behind.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(path).with_context(|| format!("can't replace {shown}"))?;
            }
            Ok(_) => bail!("another process serves {shown}: stop it, or choose another path, by `{key}`"),
            Err(error) => bail!(
                "{shown} is there already, and whether a process serves it can't be told ({error}): \
                 remove it, or choose another path, by `{key}`"
            ),
        }
    }
    // It is ours alone until it has its mode: chmod by itself would come too late.
    let others = umask(Mode::from_bits_truncate(0o066));
    let bound = UnixListener::bind(path);
    umask(others);
    let listener = bound.with_context(|| format!("can't listen on {shown}"))?;
    fs::set_permissions(path, Permissions::from_mode(mode))
        .with_context(|| format!("can't set the mode of {shown}"))?;
    Ok(listener)
}
