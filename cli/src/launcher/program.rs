//! The last step: rights dropped, folder entered, program executed.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Uid, User};
use serde::{Deserialize, Serialize};

use super::privileges::Privileges;
use super::{Doing, LAUNCH_FAILED, LaunchError, NOT_EXECUTABLE, NOT_FOUND};

/// A program to become.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Program {
    /// The program, looked for on the PATH if it has no slash, and its
    /// arguments.
    pub(crate) command: Vec<String>,
    /// The first of these that can be entered is the working directory; none:
    /// the one that the launcher has.
    pub(crate) directories: Vec<PathBuf>,
    /// What the program may do.
    pub(crate) privileges: Privileges,
    /// Standard input is a channel on which a failure is written in words,
    /// and which closes when the program runs. The program itself reads
    /// /dev/null, and dies with its launcher.
    pub(crate) reports: bool,
    /// Where the process id, as seen from outside of the mesh, is written.
    pub(crate) pid_file: Option<PathBuf>,
}

/// Becomes the program. Returns only when that failed, having said so on the
/// channel or on standard error.
pub(crate) fn become_program(program: &Program) -> ExitCode {
    let channel = if program.reports {
        // A copy that closes by itself when the program is executed.
        io::stdin().as_fd().try_clone_to_owned().ok().map(File::from)
    } else {
        None
    };
    let (error, code) = match prepare(program) {
        Ok(mut command) => {
            let error = command.exec();
            let code = match error.kind() {
                io::ErrorKind::NotFound => NOT_FOUND,
                _ => NOT_EXECUTABLE,
            };
            (explain(program, &error), code)
        }
        Err(error) => (error.to_string(), LAUNCH_FAILED),
    };
    match channel {
        Some(mut channel) => drop(channel.write_all(error.as_bytes())),
        None => crate::say::error(error),
    }
    ExitCode::from(code)
}

fn prepare(program: &Program) -> Result<Command, LaunchError> {
    if let Some(file) = &program.pid_file {
        let pid = std::fs::read_link("/proc/self").doing("read /proc/self")?;
        std::fs::write(file, pid.as_os_str().as_encoded_bytes()).doing(format!("write {}", file.display()))?;
    }
    let (name, arguments) = program
        .command
        .split_first()
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
        .doing("start an empty command")?;
    let mut command = Command::new(name);
    command.args(arguments);
    if let Privileges::User { uid, .. } = &program.privileges {
        command.envs(home(*uid));
    }
    program.privileges.apply()?;
    if program.reports {
        command.stdin(Stdio::null());
        prctl::set_pdeathsig(Signal::SIGKILL).doing("tie the program to its launcher")?;
    }
    enter_directory(program)?;
    Ok(command)
}

fn enter_directory(program: &Program) -> Result<(), LaunchError> {
    let mut result = Ok(());
    for directory in &program.directories {
        result = std::env::set_current_dir(directory).map_err(|error| {
            let remedy = match error.kind() {
                io::ErrorKind::PermissionDenied => ": let that user in with `chmod a+rx`, or name another with `user:`",
                _ => "",
            };
            LaunchError::Directory(format!(
                "cannot enter {}{}: {error}{remedy}",
                directory.display(),
                user(program)
            ))
        });
        if result.is_ok() {
            break;
        }
    }
    result
}

/// ` as user NAME (uid N)`; empty where the user is the caller's own.
fn user(program: &Program) -> String {
    match &program.privileges {
        Privileges::User {
            uid, name: Some(user), ..
        } => format!(" as user {user} (uid {uid})"),
        Privileges::User { uid, .. } => format!(" as uid {uid}"),
        _ => String::new(),
    }
}

fn explain(program: &Program, error: &io::Error) -> String {
    let name = program.command.first().map_or("", String::as_str);
    let place = std::env::current_dir().map_or_else(|_| String::new(), |path| format!(" in {}", path.display()));
    let user = user(program);
    let hint = match error.kind() {
        io::ErrorKind::NotFound if name.contains('/') => {
            ": there is no such file, or not the interpreter that its first line names"
        }
        io::ErrorKind::NotFound => ": no folder of PATH has it",
        io::ErrorKind::PermissionDenied if name.contains('/') => {
            ": that user may not execute it, or may not enter a folder above it"
        }
        io::ErrorKind::PermissionDenied => ": no folder of PATH has it that this user may look into",
        _ => "",
    };
    format!("cannot execute `{name}`{place}{user}: {error}{hint}")
}

/// What login(1) would set, so that a program does not write to root's home.
fn home(uid: u32) -> Vec<(&'static str, std::ffi::OsString)> {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => vec![
            ("HOME", user.dir.into_os_string()),
            ("USER", user.name.clone().into()),
            ("LOGNAME", user.name.into()),
        ],
        _ => Vec::new(),
    }
}
