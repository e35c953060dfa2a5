//! Puts rules in force, or takes them away, with the `nft` command.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use thiserror::Error;

use super::nft;
use super::rules::Chain;

/// Why rules could not be changed; those that were there stay.
#[derive(Debug, Error)]
pub enum InstallError {
    /// The command is not there.
    #[error("the `nft` command is missing: install it with `apt-get install nftables` (or your system's package)")]
    NoNft,
    /// It could not be run.
    #[error("{}: {problem}", command.display())]
    Run {
        /// Its path.
        command: PathBuf,
        /// The system's word for it.
        problem: std::io::Error,
    },
    /// It refused the rules.
    #[error("nft refused the rules (are CAP_NET_ADMIN and the kernel's nf_tables there?): {0}")]
    Refused(String),
    /// The command is not there.
    #[error("the `ip` command is missing: install it with `apt-get install iproute2` (or your system's package)")]
    NoIp,
    /// It refused a rule or route.
    #[error("`ip {family}` refused rules and routes (is CAP_NET_ADMIN there?): {said}")]
    Routes {
        /// -4 or -6.
        family: &'static str,
        /// Its word for it.
        said: String,
    },
    /// A kernel setting can't be written.
    #[error("{file} can't be set to 1 (in a container /proc/sys is often read-only): {problem}")]
    Setting {
        /// Below /proc/sys.
        file: &'static str,
        /// The system's word for it.
        problem: std::io::Error,
    },
}

/// Puts these chains in the place of those that were there, in one transaction.
///
/// # Errors
/// See [`InstallError`].
pub fn install(chains: &[Chain]) -> Result<(), InstallError> {
    run(&nft::replace(chains))
}

/// Removes our rules, whether they are there or not.
///
/// # Errors
/// See [`InstallError`].
pub fn remove() -> Result<(), InstallError> {
    run(&nft::remove())
}

fn run(script: &str) -> Result<(), InstallError> {
    let command = find("nft").ok_or(InstallError::NoNft)?;
    feed(&command, &["-f", "-"], script)?.map_err(InstallError::Refused)
}

/// Gives `input` to a command; the inner error is what the command complains of.
pub(super) fn feed(command: &Path, arguments: &[&str], input: &str) -> Result<Result<(), String>, InstallError> {
    let failed = |problem| InstallError::Run {
        command: command.to_owned(),
        problem,
    };
    let mut child = Command::new(command)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).map_err(failed)?;
    }
    let output = child.wait_with_output().map_err(failed)?;
    Ok(match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    })
}

/// An ordinary user's PATH often lacks the sbin folders.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder: PathBuf| folder.join(program))
        .find(|candidate: &PathBuf| Path::is_file(candidate))
}
