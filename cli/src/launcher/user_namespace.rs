//! User namespaces with a single user in them.
//!
//! Must be called from a process with one thread.

use std::fs;
use std::io;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, getegid, geteuid};

use super::{Doing, LaunchError};

/// The sidecar's uid and gid where there is more than one.
pub(crate) const SIDECAR_UID: u32 = 1337;

/// Makes namespaces together with a user namespace in which the caller is
/// `uid` and `gid`. The process has every capability in it afterwards.
pub(crate) fn unshare_as(uid: Uid, gid: Gid, others: CloneFlags) -> Result<(), LaunchError> {
    let (outer_uid, outer_gid) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER | others).doing("make a user namespace")?;
    // Without "deny" an ordinary user may not map groups (user_namespaces(7)).
    write("setgroups", "deny")
        .or_else(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => Ok(()),
            _ => Err(error),
        })
        .doing("give up setgroups in the user namespace")?;
    write("uid_map", &format!("{uid} {outer_uid} 1")).doing("map the user")?;
    write("gid_map", &format!("{gid} {outer_gid} 1")).doing("map the group")
}

/// Whether this process is a root that may become other users: not merely
/// uid 0 of a user namespace with one user in it.
pub(crate) fn is_full_root() -> bool {
    geteuid().is_root() && fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| maps(&map, SIDECAR_UID))
}

fn maps(map: &str, uid: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        match (numbers.next(), numbers.next(), numbers.next()) {
            (Some(Ok(inside)), Some(Ok(_)), Some(Ok(count))) => {
                (inside..inside.saturating_add(count)).contains(&u64::from(uid))
            }
            _ => false,
        }
    })
}

fn write(file: &str, text: &str) -> io::Result<()> {
    fs::write(format!("/proc/self/{file}"), text)
}

#[cfg(test)]
mod tests {
    use super::maps;

    #[test]
    fn a_map_with_one_user_does_not_hold_the_sidecar() {
        assert!(maps("         0          0 4294967295\n", 1337));
        assert!(maps("0 100000 1\n1 200000 65535\n", 1337));
        assert!(!maps("         0       1000          1\n", 1337));
        assert!(!maps("", 1337));
        assert!(!maps("nonsense\n", 1337));
    }
}
