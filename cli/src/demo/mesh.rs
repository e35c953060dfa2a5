//! The demo's mesh, and programs that are run inside of it.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::folder::Folder;
use super::parts::ask::Answer;
use crate::exec::entry;
use crate::launcher;
use crate::launcher::privileges::Privileges;
use crate::launcher::program::Program;
use crate::mesh_folder;
use crate::own_mesh::OwnMesh;
use crate::record::{Record, RunningReplica};
use crate::sidecar_client::{self, Certificate};

const PATIENCE: Duration = Duration::from_secs(20);
const MAX_LINE: u64 = 64 * 1024;

/// A mesh that runs.
#[derive(Debug)]
pub(crate) struct DemoMesh {
    mesh: OwnMesh,
    /// What it consists of.
    pub(crate) record: Record,
}

impl DemoMesh {
    /// Starts the mesh that `folder` describes, and waits until it is ready.
    pub(crate) async fn start(folder: &Folder) -> anyhow::Result<Self> {
        let mesh = OwnMesh::start(folder.mesh_file(), folder.name()).await?;
        let record = Record::load(&mesh_folder::base().join(folder.name()))?;
        Ok(Self { mesh, record })
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
        let command = self.as_service(service, &[&["ask"], arguments].concat())?;
        Ok(serde_json::from_slice(&to_its_end(command).await?)?)
    }

    /// The same as somebody on the network who has no sidecar.
    pub(crate) async fn ask_without_a_sidecar(&self, arguments: &[&str]) -> anyhow::Result<Answer> {
        let command = self.on_the_switch(&[&["ask"], arguments].concat())?;
        Ok(serde_json::from_slice(&to_its_end(command).await?)?)
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
        let command = self.enter(holder, with_every_right(words(name, arguments)))?;
        let done = to_its_end(command).await;
        done.with_context(|| format!("`{name} {}` in {service}", arguments.join(" ")))?;
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

    /// See [`OwnMesh::line`].
    pub(crate) async fn line(&self, wanted: impl Fn(&str) -> bool) -> Option<String> {
        self.mesh.line(wanted).await
    }

    /// See [`OwnMesh::stop`].
    pub(crate) async fn stop(self) -> anyhow::Result<ExitStatus> {
        self.mesh.stop().await
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

/// What it printed; an error says what it complained of.
async fn to_its_end(mut command: Command) -> anyhow::Result<Vec<u8>> {
    let finished = tokio::time::timeout(PATIENCE, command.stdin(Stdio::null()).output()).await;
    let finished = finished.context("it does not end")??;
    if !finished.status.success() {
        bail!("{}", String::from_utf8_lossy(&finished.stderr).trim());
    }
    Ok(finished.stdout)
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
