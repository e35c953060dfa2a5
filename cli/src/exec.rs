//! `watchword exec`: a command inside a service's network, as that service.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use nix::unistd::geteuid;

use crate::find_mesh::Selector;
use crate::launcher::enter::{Entry, Join, enter};
use crate::launcher::program::Program;
use crate::record::{Record, network_inode};

/// Runs `command` in the replica that `service` names (`orders-2`, or the
/// first of `orders`), with that service's user, environment and rights, and
/// ends as it does.
pub(crate) fn run(selector: &Selector, service: &str, command: Vec<String>) -> anyhow::Result<ExitCode> {
    let found = selector.find()?;
    let Some(folder) = found.folder else {
        bail!(
            "{} is not the control plane of a mesh that `watchword up` runs",
            found.admin.display()
        );
    };
    check_owner(&folder)?;
    let record = Record::load(&folder)?;
    let Some(target) = record.replica(service) else {
        return Err(record.unknown(service));
    };
    if network_inode(target.holder_pid) != Some(target.network_inode) {
        bail!(
            "{} is not running any more: look at what `watchword up` printed",
            target.replica.name
        );
    }
    let mut directories: Vec<_> = std::env::current_dir().into_iter().collect();
    directories.push(target.replica.directory.clone());
    let program = Program {
        command,
        directories,
        privileges: target.replica.privileges.clone(),
        reports: false,
        pid_file: None,
    };
    let entry = entry(&record, target.holder_pid, program);
    let environment: Vec<_> = target.replica.environment.clone().into_iter().collect();
    enter(&entry, &environment).with_context(|| format!("cannot enter {}", target.replica.name))
}

/// The way of a program from outside of a mesh into namespaces of it.
pub(crate) fn entry(record: &Record, holder: u32, program: Program) -> Entry {
    let join = match record.user_namespace {
        true => Join::EverythingAndUser,
        false => Join::Everything,
    };
    Entry { holder, join, program }
}

/// The kernel would refuse, too, but not in words.
fn check_owner(folder: &std::path::Path) -> anyhow::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let owner = std::fs::metadata(folder)
        .with_context(|| format!("cannot look at {}", folder.display()))?
        .uid();
    if owner != geteuid().as_raw() {
        bail!(
            "{} belongs to uid {owner}: only who started a mesh may join it",
            folder.display()
        );
    }
    Ok(())
}
