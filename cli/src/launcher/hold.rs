//! Holders: processes that keep namespaces alive without a name.
//!
//! Invariant: a holder ends with its standard input, and as process 1 of its
//! process namespace it takes everything in it along.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, sethostname};
use serde::{Deserialize, Serialize};

use super::{Doing, LaunchError, command, contain, parse, signals};

/// How the machine looks from inside the namespaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct View {
    /// The host's name.
    pub(crate) hostname: String,
    /// Files that replace others: (what lies there instead, where). A target
    /// that does not exist is left out.
    pub(crate) files: Vec<(PathBuf, PathBuf)>,
    /// Folders that look empty. Those that do not exist are left out.
    pub(crate) hidden: Vec<PathBuf>,
    /// Folders that replace others, and can't be written to: (what lies there
    /// instead, where). What lies there may itself come from such a place.
    pub(crate) shown: Vec<(PathBuf, PathBuf)>,
    /// Kernel settings of the network namespace: (file, value). One that
    /// cannot be set is a warning.
    pub(crate) settings: Vec<(PathBuf, String)>,
}

/// What a holder prints, as one line of JSON, when its namespaces are ready.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Held {
    /// The holder's process id as seen from outside of the mesh.
    pub(crate) pid: u32,
    /// What could not be done but is no reason to stop.
    pub(crate) warnings: Vec<String>,
}

/// Makes network, mount, process and host name namespaces, starts [`held`] as
/// their first process, and ends as it does.
pub(crate) fn hold(view: &str) -> Result<ExitCode, LaunchError> {
    let namespaces =
        CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWUTS;
    unshare(namespaces).doing("make namespaces")?;
    let mut holder = command("held", view).spawn().doing("start a holder")?;
    let status = holder.wait().doing("wait for a holder")?;
    Ok(signals::mirror(status))
}

/// Arranges the view, prints [`Held`], and reaps orphans until its standard
/// input ends.
pub(crate) fn held(view: &str) -> Result<ExitCode, LaunchError> {
    let view: View = parse(view)?;
    // Before /proc is replaced: there the process has its outer id.
    let pid = std::fs::read_link("/proc/self").doing("read /proc/self")?;
    let pid = pid.to_string_lossy().parse().unwrap_or_default();
    contain::make_mounts_private()?;
    let mut warnings = Vec::new();
    arrange(&view, &mut warnings)?;
    let set = signals::hold_back(&[])?;
    std::thread::spawn(|| {
        let mut byte = [0u8; 1];
        while matches!(std::io::stdin().read(&mut byte), Ok(1)) {}
        std::process::exit(0);
    });
    let line = serde_json::to_string(&Held { pid, warnings })?;
    writeln!(std::io::stdout(), "{line}").doing("say that the namespaces are ready")?;
    loop {
        set.wait().doing("wait for signals")?;
        while let Ok(status) = waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
            if status == WaitStatus::StillAlive {
                break;
            }
        }
    }
}

fn arrange(view: &View, warnings: &mut Vec<String>) -> Result<(), LaunchError> {
    sethostname(&view.hostname).doing("set the host's name")?;
    for (file, value) in &view.settings {
        if let Err(error) = std::fs::write(file, value) {
            warnings.push(format!("cannot write {value} to {}: {error}", file.display()));
        }
    }
    for (source, target) in view.files.iter().filter(|(_, target)| target.exists()) {
        cover(source, target)?;
    }
    for folder in view.hidden.iter().filter(|folder| folder.is_dir()) {
        contain::mount_tmpfs(folder, "0755")?;
    }
    // Opened before the first one covers the others.
    let opened: Vec<(File, &Path)> = view
        .shown
        .iter()
        .map(|(source, target)| {
            Ok((
                File::open(source).doing(format!("open {}", source.display()))?,
                &**target,
            ))
        })
        .collect::<Result<_, LaunchError>>()?;
    for (source, target) in opened {
        cover(&PathBuf::from(format!("/proc/self/fd/{}", source.as_raw_fd())), target)?;
        protect(target)?;
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    match mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>) {
        Ok(()) => Ok(()),
        // In a container whose own /proc is partly covered the kernel refuses
        // a whole one to user namespaces. The outer one does, too.
        Err(Errno::EPERM | Errno::EACCES) => {
            warnings.push("the kernel refuses a /proc of its own: it shows the machine's processes".to_owned());
            Ok(())
        }
        Err(error) => Err(error).doing("mount /proc"),
    }
}

/// Nobody in this namespace may write there: in a user namespace of one user
/// the folder's owner is the program's user, too.
fn protect(target: &Path) -> Result<(), LaunchError> {
    let flags = MsFlags::MS_REMOUNT
        | MsFlags::MS_BIND
        | MsFlags::MS_RDONLY
        | MsFlags::MS_NOSUID
        | MsFlags::MS_NODEV
        | MsFlags::MS_NOEXEC;
    mount(None::<&str>, target, None::<&str>, flags, None::<&str>)
        .doing(format!("protect {} from being written to", target.display()))
}

fn cover(source: &Path, target: &Path) -> Result<(), LaunchError> {
    let (from, to) = (source.display(), target.display());
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .doing(format!("put {from} in the place of {to}"))
}
