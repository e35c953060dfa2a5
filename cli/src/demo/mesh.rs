//! The demo's mesh: `watchword up` as a child, and programs run inside of it.
//!
//! Invariant: when this is dropped, or the demo killed, the mesh ends.

use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::watch;

use super::folder::Folder;
use super::parts::ask::Answer;
use crate::exec::entry;
use crate::launcher;
use crate::launcher::privileges::Privileges;
use crate::launcher::program::Program;
use crate::mesh_folder;
use crate::record::{Record, RunningReplica};
use crate::sidecar_client::{self, Certificate};

/// A little more than `up` gives a mesh.
const START_PATIENCE: Duration = Duration::from_secs(45);
const PATIENCE: Duration = Duration::from_secs(20);
/// What of the output is kept.
const MAX_LINES: usize = 10_000;
const MAX_LINE: u64 = 64 * 1024;

/// What `up` printed so far.
type Lines = Arc<Mutex<Vec<String>>>;

/// A mesh that runs.
#[derive(Debug)]
pub(crate) struct DemoMesh {
    up: Child,
    lines: Lines,
    printed: watch::Receiver<usize>,
    /// What it consists of.
    pub(crate) record: Record,
}

impl DemoMesh {
    /// Starts the mesh that `folder` describes, and waits until it is ready.
    pub(crate) async fn start(folder: &Folder) -> anyhow::Result<Self> {
        let mut up = Command::new("/proc/self/exe")
            .args(["up", "--tied"])
            .arg(folder.mesh_file())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start `watchword up`")?;
        let (lines, (tell, mut printed)) = (Lines::default(), watch::channel(0));
        let readers = [
            up.stdout.take().map(|out| follow(out, &lines, &tell)),
            up.stderr.take().map(|out| follow(out, &lines, &tell)),
        ];
        let ready = format!("mesh {} is ready", folder.name());
        let wait = async {
            loop {
                if find(&lines, |line| line == ready).is_some() {
                    return Ok(());
                }
                tokio::select! {
                    result = printed.changed() => result?,
                    status = up.wait() => {
                        // Its last words say why.
                        for reader in readers.into_iter().flatten() {
                            let _ = reader.await;
                        }
                        bail!("{}", last_words(&lines, status?));
                    }
                }
            }
        };
        match tokio::time::timeout(START_PATIENCE, wait).await {
            Ok(result) => result?,
            Err(_) => bail!("not ready within {} s: {}", START_PATIENCE.as_secs(), all(&lines)),
        }
        let record = Record::load(&mesh_folder::base().join(folder.name()))?;
        Ok(Self {
            up,
            lines,
            printed,
            record,
        })
    }

    /// The first replica of a service.
    pub(crate) fn replica(&self, service: &str) -> anyhow::Result<&RunningReplica> {
        let found = self.record.replica(service);
        found.with_context(|| format!("the mesh has no service `{service}`"))
    }

    /// What the sidecar of a service's first replica says of its certificate.
    pub(crate) async fn certificate(&self, service: &str) -> anyhow::Result<Certificate> {
        let socket = &self.replica(service)?.admin_socket;
        let certificate = sidecar_client::get(socket, "/certs").await;
        certificate.with_context(|| format!("the sidecar of {service}"))
    }

    /// Makes one call as a service: arguments of the hidden `ask`.
    pub(crate) async fn ask(&self, service: &str, arguments: &[&str]) -> anyhow::Result<Answer> {
        let mut command = self.as_service(service, &[&["ask"], arguments].concat())?;
        let finished = tokio::time::timeout(PATIENCE, command.stdin(Stdio::null()).output());
        let finished = finished.await.context("the call does not end")??;
        if !finished.status.success() {
            bail!("{}", String::from_utf8_lossy(&finished.stderr).trim());
        }
        Ok(serde_json::from_slice(&finished.stdout)?)
    }

    /// One of the hidden programs inside a service's first replica, with no
    /// more rights than the service has.
    pub(crate) fn as_service(&self, service: &str, part: &[&str]) -> anyhow::Result<Command> {
        let running = self.replica(service)?;
        let program = Program {
            command: words("./watchword", &[&["demo-part"], part].concat()),
            directories: vec![running.replica.directory.clone()],
            privileges: running.replica.privileges.clone(),
            reports: false,
            pid_file: None,
        };
        let mut command = self.enter(running.holder_pid, program)?;
        command.envs(&running.replica.environment);
        Ok(command)
    }

    /// One of the hidden programs on the switch, with every right there.
    pub(crate) fn on_the_switch(&self, part: &[&str]) -> anyhow::Result<Command> {
        let command = words("/proc/self/exe", &[&["demo-part"], part].concat());
        self.enter(self.record.switch_pid, with_every_right(command))
    }

    /// Runs a program in a replica's network with every right there.
    pub(crate) async fn run_in(&self, service: &str, command: &[&str]) -> anyhow::Result<()> {
        let (name, arguments) = command.split_first().context("an empty command")?;
        let holder = self.replica(service)?.holder_pid;
        let mut command = self.enter(holder, with_every_right(words(name, arguments)))?;
        let finished = tokio::time::timeout(PATIENCE, command.stdin(Stdio::null()).output());
        let finished = finished.await.with_context(|| format!("`{name}` does not end"))??;
        if !finished.status.success() {
            let said = String::from_utf8_lossy(&finished.stderr);
            bail!("`{name} {}` in {service}: {}", arguments.join(" "), said.trim());
        }
        Ok(())
    }

    fn enter(&self, holder: u32, program: Program) -> anyhow::Result<Command> {
        let entry = entry(&self.record, holder, program);
        let mut command = Command::from(launcher::command_with("enter", &entry)?);
        command
            .env("PATH", crate::machine::search_path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        Ok(command)
    }

    /// The first line from now on, or that was printed before, for which
    /// `wanted` holds.
    pub(crate) async fn line(&self, wanted: impl Fn(&str) -> bool) -> Option<String> {
        let mut printed = self.printed.clone();
        let wait = async {
            loop {
                printed.mark_unchanged();
                if let Some(line) = find(&self.lines, &wanted) {
                    return Some(line);
                }
                printed.changed().await.ok()?;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), wait).await.ok().flatten()
    }

    /// Takes it down, and says how that went.
    pub(crate) async fn stop(mut self) -> anyhow::Result<ExitStatus> {
        if let Some(pid) = self.up.id().and_then(|pid| i32::try_from(pid).ok()) {
            kill(Pid::from_raw(pid), Signal::SIGTERM)?;
        }
        let ended = tokio::time::timeout(PATIENCE, self.up.wait()).await;
        Ok(ended.context("the mesh does not end")??)
    }
}

/// A program that goes on until its standard input is closed.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<tokio::io::Take<ChildStdout>>,
}

impl Running {
    /// Starts a command of [`DemoMesh::as_service`] or [`DemoMesh::on_the_switch`].
    pub(crate) fn start(mut command: Command) -> anyhow::Result<Self> {
        let mut child = command.spawn()?;
        let input = child.stdin.take();
        let output = child.stdout.take().context("no pipe")?;
        Ok(Self {
            child,
            input,
            output: BufReader::new(output.take(MAX_LINE)),
        })
    }

    /// Its next line.
    pub(crate) async fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        let read = tokio::time::timeout(PATIENCE, self.output.read_line(&mut line)).await;
        read.context("no answer")??;
        if line.is_empty() {
            let mut said = String::new();
            if let Some(stderr) = self.child.stderr.take() {
                let reading = stderr.take(MAX_LINE).read_to_string(&mut said).await;
                reading.context("it ended without a word")?;
            }
            bail!("{}", said.trim().trim_start_matches("error: "));
        }
        Ok(line)
    }

    /// Asks it to end, and reads what it found out.
    pub(crate) async fn finish<T: DeserializeOwned>(mut self) -> anyhow::Result<T> {
        self.input = None;
        let line = self.line().await?;
        let _ = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        serde_json::from_str(&line).with_context(|| format!("not what was expected: {line}"))
    }
}

fn with_every_right(command: Vec<String>) -> Program {
    Program {
        command,
        directories: Vec::new(),
        privileges: Privileges::Keep,
        reports: false,
        pid_file: None,
    }
}

fn words(name: &str, arguments: &[&str]) -> Vec<String> {
    [&[name], arguments].concat().into_iter().map(str::to_owned).collect()
}

fn follow(
    source: impl AsyncRead + Unpin + Send + 'static,
    lines: &Lines,
    tell: &watch::Sender<usize>,
) -> tokio::task::JoinHandle<()> {
    let (lines, tell) = (Arc::clone(lines), tell.clone());
    tokio::spawn(async move {
        let mut source = BufReader::new(source).lines();
        while let Ok(Some(line)) = source.next_line().await {
            let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
            if lines.len() < MAX_LINES {
                lines.push(line);
            }
            tell.send_modify(|count| *count += 1);
        }
    })
}

fn find(lines: &Lines, wanted: impl Fn(&str) -> bool) -> Option<String> {
    let lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
    lines.iter().find(|line| wanted(line)).cloned()
}

fn all(lines: &Lines) -> String {
    lines.lock().unwrap_or_else(PoisonError::into_inner).join("; ")
}

/// Errors, where there are some; otherwise everything.
fn last_words(lines: &Lines, status: ExitStatus) -> String {
    let errors: Vec<String> = {
        let lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        let errors = lines.iter().filter_map(|line| line.strip_prefix("error: "));
        errors.map(str::to_owned).collect()
    };
    match errors.is_empty() {
        true => format!("`watchword up` ended with {status}: {}", all(lines)),
        false => errors.join("; "),
    }
}
