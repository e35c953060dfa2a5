//! The namespaces of a whole mesh, and the first process in them.
//!
//! Invariant: when the pipe from `up` closes, for whatever reason, the first
//! process of the process namespace ends, and the kernel ends every process
//! below it; with them go namespaces, links and rules.

use std::ffi::OsString;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::{Gid, Pid, Uid, setsid};

use super::{Doing, LaunchError, command, signals, user_namespace};

/// Leaves the terminal's session, makes the namespaces, starts
/// [`init`] in them with this process's own standard input, and ends as it
/// does.
pub(crate) fn contain(folder: &Path) -> Result<ExitCode, LaunchError> {
    // Or ctrl-C would reach every process of the mesh at once.
    setsid().doing("leave the terminal's session")?;
    separate(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID)?;
    let mut init = command("init", folder)
        .spawn()
        .doing("start the mesh's first process")?;
    let status = init.wait().doing("wait for the mesh's first process")?;
    Ok(signals::shell_code(status))
}

/// Process 1 of the mesh: starts the supervisor, reaps orphans, and ends with
/// the supervisor or with its own standard input. A byte there asks the
/// supervisor to take everything down.
pub(crate) fn init(folder: &Path) -> Result<ExitCode, LaunchError> {
    let supervisor = command("supervise", folder)
        .stdin(Stdio::null())
        .spawn()
        .doing("start the mesh's supervisor")?;
    let pid = Pid::from_raw(i32::try_from(supervisor.id()).unwrap_or(i32::MAX));
    std::thread::spawn(move || {
        let mut byte = [0u8; 1];
        while matches!(std::io::stdin().read(&mut byte), Ok(1)) {
            let _ = kill(pid, Signal::SIGTERM);
        }
        std::process::exit(128 + Signal::SIGKILL as i32);
    });
    loop {
        match wait() {
            Ok(WaitStatus::Exited(ended, code)) if ended == pid => {
                return Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)));
            }
            Ok(WaitStatus::Signaled(ended, signal, _)) if ended == pid => {
                let code = u8::try_from(signal as i32).unwrap_or(0).saturating_add(128);
                return Ok(ExitCode::from(code));
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).doing("wait for the mesh's processes"),
        }
    }
}

/// Tries what [`contain`] and the replicas will need: namespaces, mounts, and
/// `program` with its arguments, if there is one.
pub(crate) fn probe(program: &[OsString]) -> Result<ExitCode, LaunchError> {
    separate(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS)?;
    if let Some((name, arguments)) = program.split_first() {
        let status = Command::new(name).args(arguments).status();
        return Ok(signals::shell_code(status.doing("start a program")?));
    }
    mount_tmpfs(Path::new("/tmp"), "0700")?;
    Ok(ExitCode::SUCCESS)
}

/// Hides `path` under an empty file system.
pub(crate) fn mount_tmpfs(path: &Path, mode: &str) -> Result<(), LaunchError> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let options = format!("mode={mode},size=64k");
    mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some(options.as_str()))
        .doing(format!("mount an empty file system on {}", path.display()))
}

/// No mount of ours reaches other namespaces, nor theirs us.
pub(crate) fn make_mounts_private() -> Result<(), LaunchError> {
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .doing("make mounts private")
}

fn separate(namespaces: CloneFlags) -> Result<(), LaunchError> {
    if user_namespace::is_full_root() {
        unshare(namespaces).doing("make namespaces")?;
    } else {
        user_namespace::unshare_as(Uid::from_raw(0), Gid::from_raw(0), namespaces)?;
    }
    make_mounts_private()
}
