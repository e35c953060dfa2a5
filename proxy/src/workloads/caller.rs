//! Who connected to the workload socket, as the kernel says it.
//!
//! Beside one workload callers are told apart by their user: across process
//! namespaces every process has the number 0. An agent, which serves a whole
//! machine, tells processes apart, and holds on to them by pidfds: a number
//! alone may be given to another process.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{getsockopt, sockopt::PeerPidfd};
use tokio::net::UnixStream;

/// Whose keys these are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Caller {
    pub(crate) uid: u32,
    /// Nothing where processes are not told apart.
    pub(crate) pid: Option<u32>,
}

/// A process that can't be taken for another one.
#[derive(Debug)]
pub(crate) struct Process {
    pidfd: OwnedFd,
    pid: u32,
}

impl Caller {
    /// Of a user, whatever the process.
    pub(crate) fn user_of(stream: &UnixStream) -> io::Result<Self> {
        let uid = stream.peer_cred()?.uid();
        Ok(Self { uid, pid: None })
    }

    /// Of a process. The user is that of the process when it connected.
    pub(crate) fn process_of(stream: &UnixStream) -> io::Result<(Self, Process)> {
        let uid = stream.peer_cred()?.uid();
        let pidfd = getsockopt(stream, PeerPidfd)?;
        let pid =
            pid_of(&pidfd)?.ok_or_else(|| io::Error::other("it has ended, or is in another process namespace"))?;
        Ok((Self { uid, pid: Some(pid) }, Process { pidfd, pid }))
    }
}

impl Process {
    /// Whether its number may be another process's by now.
    pub(crate) fn has_ended(&self) -> bool {
        !matches!(pid_of(&self.pidfd), Ok(Some(pid)) if pid == self.pid)
    }
}

/// The process's number here; nothing for one that has ended (-1) or that this
/// process namespace does not see (0).
fn pid_of(pidfd: &OwnedFd) -> io::Result<Option<u32>> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:"));
    Ok(pid.and_then(|pid| pid.trim().parse().ok()).filter(|pid| *pid != 0))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_process_is_known_by_its_number_until_it_has_ended() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (caller, process) = Caller::process_of(&ours).unwrap();
        assert_eq!(caller.pid, Some(std::process::id()));
        assert_eq!(caller.uid, nix::unistd::geteuid().as_raw());
        assert_eq!(Caller::user_of(&theirs).unwrap().pid, None);
        assert!(!process.has_ended());
        let other = Process {
            pid: process.pid + 1,
            ..process
        };
        assert!(other.has_ended());
    }
}
