//! Puts rules in force, or takes them away, with the `nft` command; where that is
//! missing, with `iptables` and `ip6tables`.
//!
//! Invariant: rules of both IP families are in force, or it is an error.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use thiserror::Error;

use super::iptables::{self, Family, Present, TABLES};
use super::nft;
use super::rules::Chain;

/// Whoever else changes iptables' rules is waited for, in seconds.
const LOCK_PATIENCE: &str = "5";

/// Why rules could not be changed; those that were there stay.
#[derive(Debug, Error)]
pub enum InstallError {
    /// No command is there.
    #[error(
        "the `nft` command is missing, and so is {0}, which could stand in for it: install it with `apt-get install \
         nftables` (or your system's package)"
    )]
    NoTool(&'static str),
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
    /// One of iptables' commands refused something.
    #[error(
        "{program} refused the rules (is CAP_NET_ADMIN there? where the kernel lacks nf_tables, `update-alternatives \
         --set iptables /usr/sbin/iptables-legacy` chooses the older interface, and so for ip6tables): {said}"
    )]
    IptablesRefused {
        /// Its name.
        program: &'static str,
        /// Its word for it.
        said: String,
    },
    /// After the first rules were in force.
    #[error("half of the rules could not be put in force, so none is: {0}")]
    Half(Box<InstallError>),
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

/// The tool that is used on this machine.
#[derive(Debug)]
enum Tool {
    Nft(PathBuf),
    Iptables(Vec<Programs>),
}

/// Those of one family.
#[derive(Debug)]
struct Programs {
    family: Family,
    list: PathBuf,
    restore: PathBuf,
}

impl Tool {
    fn find() -> Result<Self, InstallError> {
        match find("nft") {
            Some(nft) => Ok(Self::Nft(nft)),
            None => all_programs().map(Self::Iptables),
        }
    }
}

fn all_programs() -> Result<Vec<Programs>, InstallError> {
    let programs = |family: Family| {
        let find = |name| find(name).ok_or(InstallError::NoTool(name));
        let (list, restore) = (find(family.program())?, find(family.restore())?);
        Ok(Programs { family, list, restore })
    };
    families().map(programs).collect()
}

/// IPv6 where the kernel has it: addresses may come later.
fn families() -> impl Iterator<Item = Family> {
    let has_ipv6 = Path::new("/proc/self/net/if_inet6").exists();
    [Family::V4, Family::V6]
        .into_iter()
        .filter(move |family| *family == Family::V4 || has_ipv6)
}

/// Puts these chains in the place of those that were there: with nft in one
/// transaction, with iptables in one for each table, after all were tried.
///
/// # Errors
/// See [`InstallError`]. Those that were there stay, but for [`InstallError::Half`].
pub fn install(chains: &[Chain]) -> Result<(), InstallError> {
    match Tool::find()? {
        Tool::Nft(nft) => run(&nft, &nft::replace(chains)),
        Tool::Iptables(programs) => replace(&programs, chains),
    }
}

/// Removes our rules, whether they are there or not, whichever tool made them.
///
/// # Errors
/// See [`InstallError`].
pub fn remove() -> Result<(), InstallError> {
    match Tool::find()? {
        Tool::Nft(nft) => {
            run(&nft, &nft::remove())?;
            // nft was perhaps installed since. What can't be listed has none of ours.
            let programs = all_programs().unwrap_or_default();
            let scripts = programs.iter().filter_map(|it| Some((it, script(it, &[]).ok()?)));
            scripts
                .filter(|(_, script)| !script.is_empty())
                .try_for_each(|(programs, script)| restore(programs, &script, &[]))
        }
        Tool::Iptables(programs) => replace(&programs, &[]),
    }
}

/// What would be installed where nothing is in force yet.
///
/// # Errors
/// [`InstallError::NoTool`].
pub fn print(chains: &[Chain]) -> Result<String, InstallError> {
    Ok(match Tool::find()? {
        Tool::Nft(_) => nft::replace(chains),
        Tool::Iptables(programs) => {
            let text = programs.iter().map(|it| {
                let tables = TABLES.map(|table| iptables::replace(it.family, table, chains, &Present::default()));
                format!("# {} --noflush\n{}", it.family.restore(), tables.concat())
            });
            text.collect()
        }
    })
}

fn replace(programs: &[Programs], chains: &[Chain]) -> Result<(), InstallError> {
    let scripts = programs.iter().map(|it| Ok((it, script(it, chains)?)));
    let scripts: Vec<_> = scripts.collect::<Result<_, InstallError>>()?;
    for (programs, script) in &scripts {
        restore(programs, script, &["--test"])?;
    }
    for (programs, script) in &scripts {
        if let Err(error) = restore(programs, script, &[]) {
            for (programs, _) in &scripts {
                restore(programs, &self::script(programs, &[])?, &[])?;
            }
            return Err(InstallError::Half(Box::new(error)));
        }
    }
    Ok(())
}

/// For what is there now.
fn script(programs: &Programs, chains: &[Chain]) -> Result<String, InstallError> {
    let tables = TABLES.iter().map(|table| {
        let present = list(programs, table)?;
        Ok(iptables::replace(programs.family, table, chains, &present))
    });
    tables.collect()
}

fn list(programs: &Programs, table: &str) -> Result<Present, InstallError> {
    let mut command = command(&programs.list);
    let output = command
        .args(["--wait", LOCK_PATIENCE, "--table", table, "--list-rules"])
        .stdin(Stdio::null())
        .output()
        .map_err(|problem| InstallError::Run {
            command: programs.list.clone(),
            problem,
        })?;
    match output.status.success() {
        true => Ok(Present::parse(&String::from_utf8_lossy(&output.stdout))),
        false => Err(InstallError::IptablesRefused {
            program: programs.family.program(),
            said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        }),
    }
}

fn restore(programs: &Programs, script: &str, more: &[&str]) -> Result<(), InstallError> {
    let arguments = [&["--noflush", "--wait", LOCK_PATIENCE], more].concat();
    feed(&programs.restore, &arguments, script)?.map_err(|said| InstallError::IptablesRefused {
        program: programs.family.restore(),
        said,
    })
}

fn run(nft: &Path, script: &str) -> Result<(), InstallError> {
    feed(nft, &["-f", "-"], script)?.map_err(InstallError::Refused)
}

/// Without root the usual lock of iptables can't be opened; the rules of a
/// namespace that is ours alone need none, but it wants a file.
fn command(program: &Path) -> Command {
    const LOCK_FILE: &str = "XTABLES_LOCKFILE";
    let mut command = Command::new(program);
    let is_usual = nix::unistd::access("/run", nix::unistd::AccessFlags::W_OK).is_ok();
    if !is_usual && std::env::var_os(LOCK_FILE).is_none() {
        command.env(LOCK_FILE, "/dev/null");
    }
    command
}

/// Gives `input` to a command; the inner error is what the command complains of.
pub(super) fn feed(command: &Path, arguments: &[&str], input: &str) -> Result<Result<(), String>, InstallError> {
    let failed = |problem| InstallError::Run {
        command: command.to_owned(),
        problem,
    };
    let mut child = self::command(command)
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
