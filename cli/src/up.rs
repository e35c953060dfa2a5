//! `watchword up`: a whole mesh on this machine, in the foreground.
//!
//! The process that people start checks everything first, then starts the
//! mesh in namespaces of its own and only holds the pipe whose closing ends
//! all of it. docs/architecture.md shows the tree of processes.
//!
//! Invariants: a mistake in a file starts nothing; when this process ends,
//! even by kill -9, the mesh ends.

pub(crate) mod addresses;
mod app;
mod bridge;
mod control_plane;
mod daemon_log;
mod helpers;
mod listening;
mod network;
mod output;
pub(crate) mod plan;
#[cfg(test)]
mod plan_tests;
mod process;
mod progress;
mod render;
#[cfg(test)]
mod render_tests;
mod run_dir;
mod sidecar;
mod stage;
pub(crate) mod supervise;
mod users;
mod wholeness;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ExitCode, ExitStatus, Stdio};

use anyhow::bail;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{getgid, getuid};
use watchword_control_plane::mesh_file::MeshFile;

pub(crate) use self::helpers::listen_at;
use self::plan::{Machine, Plan, Tools};
use self::users::Users;
use crate::doctor;
use crate::launcher::{self, user_namespace};
use crate::machine::{self, State};
use crate::mesh_folder::{self, FolderError, MeshFolder};
use crate::say;

/// Exit status for a mistake in a file.
const MISTAKE: u8 = 2;

/// Runs the mesh that `file` describes until ctrl-C, SIGTERM or SIGHUP.
/// Exit status 0 when it was asked to end, 1 when it could not start or
/// failed, 2 for a mistake in a file.
///
/// `tied` ends it with the process that started it, however that ends.
pub(crate) fn run(file: &Path, tied: bool) -> ExitCode {
    if tied && let Err(error) = set_pdeathsig(Signal::SIGTERM) {
        say::error(format!("cannot tie the mesh to who starts it: {error}"));
        return ExitCode::FAILURE;
    }
    let Some(mesh) = check(file) else {
        return ExitCode::from(MISTAKE);
    };
    match start(&mesh) {
        Ok(code) => code,
        Err(error) => {
            say::error(format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Reads the mesh file, all policies and trust bundles, and prints what is wrong.
fn check(file: &Path) -> Option<MeshFile> {
    let mesh = MeshFile::load(file).map_err(print_all).ok()?;
    let policies = mesh.load_policies().map_err(print_all).ok()?;
    policies.warnings.iter().for_each(say::plain);
    mesh.load_trust_bundles().map_err(print_all).ok()?;
    Some(mesh)
}

fn print_all(diagnostics: Vec<watchword_policy::Diagnostic>) {
    diagnostics.iter().for_each(say::plain);
}

fn start(mesh: &MeshFile) -> anyhow::Result<ExitCode> {
    let users = users();
    if !users.root() && mesh.services.values().any(|service| service.user.is_some()) {
        say::note("without root every service runs as you: `user:` has no effect");
    }
    let base = mesh_folder::base();
    let Some(tools) = look_at_machine(&base, users.root()) else {
        return Ok(ExitCode::FAILURE);
    };
    let machine = Machine {
        workload_folder: workload_folder(&base),
        base: base.clone(),
        ipv6: machine::has_ipv6(),
        tools,
    };
    let plan = Plan::new(mesh, machine, &users)?;
    let mut signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    signals.add(Signal::SIGCHLD);
    // From here on there is something to remove; and the child's end must not
    // be missed.
    signals.thread_block()?;
    // Also removes what meshes that were killed have left.
    mesh_folder::running(&base);
    let folder = match MeshFolder::create(&base, &plan.name) {
        Err(FolderError::Running { name }) => bail!("{}", doctor::is_running(&base, &name)),
        created => created?,
    };
    let result = helpers::check(&plan).and_then(|()| contain(&plan, &folder, &signals));
    folder.remove();
    result
}

/// Says what `doctor` would say is not good; nothing if a mesh can't start.
fn look_at_machine(base: &Path, root: bool) -> Option<Tools> {
    let examined = machine::examine(base, root);
    let of = |state| examined.findings.iter().filter(move |finding| finding.state == state);
    of(State::Warning).for_each(say::note);
    of(State::Missing).for_each(say::error);
    let is_whole = of(State::Missing).next().is_none();
    examined.tools.filter(|_| is_whole)
}

/// Where programs find their workload socket: where it is in a pod, too, if
/// there is such a folder, or root could make it.
fn workload_folder(base: &Path) -> PathBuf {
    let usual = Path::new("/run/watchword");
    if usual.is_dir() { usual } else { base }.to_owned()
}

fn contain(plan: &Plan, folder: &MeshFolder, signals: &SigSet) -> anyhow::Result<ExitCode> {
    let order = supervise::Order {
        plan: plan.clone(),
        up_pid: std::process::id(),
    };
    mesh_folder::write_private(
        &folder.path().join(supervise::ORDER_FILE),
        &serde_json::to_string(&order)?,
    )?;
    let mut child = launcher::command("contain", folder.path())
        .env("PATH", machine::search_path())
        .stdin(Stdio::piped())
        .spawn()?;
    let pipe = child.stdin.take();
    let end = hold(&mut child, pipe, signals)?;
    // As shells tell it: ended by a signal, not by the supervisor itself.
    let killed = end.status.code().is_none_or(|code| code >= 128);
    match end.asked {
        // It may have been too early for the supervisor to answer.
        true if killed => Ok(ExitCode::SUCCESS),
        false if killed => bail!("the mesh's supervisor was killed, and everything in the mesh with it"),
        _ => Ok(launcher::exit_code(end.status)),
    }
}

struct End {
    status: ExitStatus,
    asked: bool,
}

/// Waits for the mesh to end. The first signal asks it to, the second one
/// closes the pipe, and with it everything.
fn hold(child: &mut Child, mut pipe: Option<ChildStdin>, signals: &SigSet) -> anyhow::Result<End> {
    let mut asked = false;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(End { status, asked });
        }
        if signals.wait()? == Signal::SIGCHLD {
            continue;
        }
        let reached = !asked && pipe.as_mut().is_some_and(|pipe| pipe.write_all(b"t").is_ok());
        if !reached {
            pipe = None;
        }
        asked = true;
    }
}

fn users() -> Users {
    if !user_namespace::is_full_root() {
        return Users::Caller {
            uid: getuid().as_raw(),
            gid: getgid().as_raw(),
        };
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u32>().ok());
    let sudo = number("SUDO_UID").zip(number("SUDO_GID")).filter(|(uid, _)| *uid != 0);
    Users::Root { sudo }
}
