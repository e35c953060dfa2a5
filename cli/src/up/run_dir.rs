//! The folders of a replica's sidecar: its own, and the one in it that the
//! program sees.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown, symlink};
use std::path::Path;

use super::plan::{Plan, Replica, WORKLOAD_SOCKET};
use crate::launcher::user_namespace::SIDECAR_UID;

/// Makes both. The program sees the folder, not the socket: a sidecar that
/// starts again makes another one.
pub(crate) fn make(plan: &Plan, replica: &Replica) -> io::Result<()> {
    let own = replica.run_dir(&plan.folder);
    let shown = replica.shown_dir(&plan.folder);
    make_folder(plan, &own, 0o700)?;
    make_folder(plan, &shown, 0o755)?;
    let beside = own.join(WORKLOAD_SOCKET);
    match symlink(replica.workload_socket(&plan.folder), beside) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn make_folder(plan: &Plan, folder: &Path, mode: u32) -> io::Result<()> {
    match DirBuilder::new().mode(mode).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    // Whatever the umask.
    fs::set_permissions(folder, Permissions::from_mode(mode))?;
    if plan.root {
        chown(folder, Some(SIDECAR_UID), Some(SIDECAR_UID))?;
    }
    Ok(())
}
