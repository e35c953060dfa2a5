//! Starts processes in namespaces, with just the rights that they need.
//!
//! `unsafe` is forbidden, so nothing may run between fork and exec. Instead
//! this binary executes itself again with a hidden subcommand, changes the
//! fresh process from inside, and then becomes, or starts, the program.
//!
//! Invariants: these subcommands are single-threaded until their namespaces
//! are joined (the kernel demands it of user namespaces); what a program is
//! given in secret travels by environment or pipe, never by argument; no
//! program starts with signals blocked.
//! Must not know: meshes, policies, what the programs are for.

pub(crate) mod contain;
pub(crate) mod enter;
pub(crate) mod hold;
pub(crate) mod privileges;
pub(crate) mod program;
mod signals;
pub(crate) mod user_namespace;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::Subcommand;
use nix::sys::signal::SigSet;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Exit status when the launcher itself fails before the program starts.
pub(crate) const LAUNCH_FAILED: u8 = 125;
/// Exit status when the program is there but cannot be executed.
pub(crate) const NOT_EXECUTABLE: u8 = 126;
/// Exit status when there is no such program.
pub(crate) const NOT_FOUND: u8 = 127;

/// Why a process could not be brought where it belongs.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchError {
    /// A system call failed.
    #[error("cannot {what}: {source}")]
    System {
        /// What was being done, to follow "cannot".
        what: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The working directory can't be entered, with what to do about it.
    #[error("{0}")]
    Directory(String),
    /// Capabilities could not be changed.
    #[error("cannot change capabilities: {0}")]
    Capabilities(#[from] caps::errors::CapsError),
    /// The argument is not what this version writes.
    #[error("the launcher's argument is not valid: {0}")]
    Argument(#[from] serde_json::Error),
    /// A capability name that the kernel does not know.
    #[error("there is no capability {0}")]
    UnknownCapability(String),
}

/// Adds what was being done to a system call's error.
pub(crate) trait Doing<T> {
    /// `what` follows "cannot".
    fn doing(self, what: impl Into<String>) -> Result<T, LaunchError>;
}

impl<T, E: Into<std::io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, what: impl Into<String>) -> Result<T, LaunchError> {
        self.map_err(|error| LaunchError::System {
            what: what.into(),
            source: error.into(),
        })
    }
}

/// The hidden subcommands, each one process of the tree below `up` and `exec`.
#[derive(Debug, Subcommand)]
pub(crate) enum Internal {
    /// Makes the mesh's namespaces and starts their first process.
    Contain {
        /// The mesh folder.
        folder: PathBuf,
    },
    /// The first process of the mesh's process namespace.
    Init {
        /// The mesh folder.
        folder: PathBuf,
    },
    /// Runs the mesh.
    Supervise {
        /// The mesh folder.
        folder: PathBuf,
    },
    /// Makes a replica's namespaces and starts their holder.
    Hold {
        /// A `hold::View` in JSON.
        view: String,
    },
    /// Keeps namespaces alive.
    Held {
        /// A `hold::View` in JSON.
        view: String,
    },
    /// Joins namespaces, and runs a program there.
    Enter {
        /// An `enter::Entry` in JSON.
        entry: String,
    },
    /// Drops rights, and becomes a program.
    Run {
        /// A `program::Program` in JSON.
        program: String,
    },
    /// Tries what `up` needs of the kernel, and undoes it by ending.
    Probe {
        /// A program that must succeed there.
        program: Vec<OsString>,
    },
}

/// Runs a hidden subcommand. `supervise` is the only one that is not ours.
pub(crate) fn run(command: &Internal, supervise: fn(&std::path::Path) -> ExitCode) -> ExitCode {
    // A parent that waits for signals has them blocked, and children inherit it.
    if let Err(error) = SigSet::empty().thread_set_mask() {
        crate::say::error(format!("cannot unblock signals: {error}"));
        return ExitCode::from(LAUNCH_FAILED);
    }
    let result = match command {
        Internal::Contain { folder } => contain::contain(folder),
        Internal::Init { folder } => contain::init(folder),
        Internal::Supervise { folder } => Ok(supervise(folder)),
        Internal::Hold { view } => hold::hold(view),
        Internal::Held { view } => hold::held(view),
        Internal::Enter { entry } => parse(entry).and_then(|entry| enter::enter(&entry, &[])),
        Internal::Run { program } => parse(program).map(|program| program::become_program(&program)),
        Internal::Probe { program } => contain::probe(program),
    };
    result.unwrap_or_else(|error| {
        crate::say::error(&error);
        ExitCode::from(LAUNCH_FAILED)
    })
}

/// A command that runs this binary's hidden subcommand `name` with `argument`.
pub(crate) fn command(name: &str, argument: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg("internal").arg(name).arg(argument);
    command
}

/// The same, with a value as its JSON argument.
pub(crate) fn command_with(name: &str, argument: &impl Serialize) -> Result<Command, LaunchError> {
    Ok(command(name, serde_json::to_string(argument)?))
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T, LaunchError> {
    Ok(serde_json::from_str(text)?)
}

/// The status of a child as this process's own: see [`signals::shell_code`].
pub(crate) use signals::shell_code as exit_code;
