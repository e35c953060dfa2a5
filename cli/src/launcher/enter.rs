//! Joins a holder's namespaces, and runs a program there.

use std::fs::File;
use std::process::ExitCode;

use nix::sched::{CloneFlags, setns};
use nix::unistd::dup2_stdin;
use serde::{Deserialize, Serialize};

use super::program::{Program, become_program};
use super::{Doing, LaunchError, command_with, signals};

/// Where to go, and what to run there.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Entry {
    /// The holder's process id, as /proc shows it here.
    pub(crate) holder: u32,
    /// Which of its namespaces to join.
    pub(crate) join: Join,
    /// What to run.
    pub(crate) program: Program,
}

/// How far a program goes into a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Join {
    /// The network alone: sidecars and network tools, which see the files and
    /// processes of the mesh.
    Network,
    /// Everything: apps.
    Everything,
    /// The user namespace first: commands that come from outside of the mesh
    /// without root.
    EverythingAndUser,
}

impl Join {
    /// In an order in which each step leaves the rights for the next: the
    /// user namespace gives them, the mount namespace takes /proc away.
    fn namespaces(self) -> &'static [(&'static str, CloneFlags)] {
        const ALL: [(&str, CloneFlags); 5] = [
            ("user", CloneFlags::CLONE_NEWUSER),
            ("pid", CloneFlags::CLONE_NEWPID),
            ("uts", CloneFlags::CLONE_NEWUTS),
            ("net", CloneFlags::CLONE_NEWNET),
            ("mnt", CloneFlags::CLONE_NEWNS),
        ];
        match self {
            Self::Network => &ALL[3..4],
            Self::Everything => &ALL[1..],
            Self::EverythingAndUser => &ALL,
        }
    }
}

/// Joins and runs. With [`Join::Network`] this process becomes the program;
/// otherwise the program is a child (only children enter a process
/// namespace), gets signals handed on, and this process ends as it does.
/// `environment` is added to the program's own.
pub(crate) fn enter(entry: &Entry, environment: &[(String, String)]) -> Result<ExitCode, LaunchError> {
    let set = (entry.join != Join::Network)
        .then(|| signals::hold_back(&signals::FORWARDED))
        .transpose()?;
    let mut opened = Vec::new();
    for (name, kind) in entry.join.namespaces() {
        let path = format!("/proc/{}/ns/{name}", entry.holder);
        opened.push((File::open(&path).doing(format!("open {path}"))?, *kind, *name));
    }
    for (file, kind, name) in opened {
        setns(file, kind).doing(format!("join the replica's {name} namespace"))?;
    }
    let Some(set) = set else {
        return Ok(become_program(&entry.program));
    };
    let mut child = command_with("run", &entry.program)?
        .envs(environment.iter().map(|(key, value)| (key, value)))
        .spawn()
        .doing("start the launcher inside the replica")?;
    if entry.program.reports {
        // Or the reader would wait for this process's copy to close.
        dup2_stdin(File::open("/dev/null").doing("open /dev/null")?).doing("let go of standard input")?;
    }
    let status = signals::wait_forwarding(&mut child, &set)?;
    Ok(if entry.program.reports {
        signals::mirror(status)
    } else {
        signals::shell_code(status)
    })
}
