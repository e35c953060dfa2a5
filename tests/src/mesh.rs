//! A mesh on this machine, by `watchword up`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output as Finished, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::output::{Output, wait_until};
use crate::programs::binary;
use crate::tools::tool;

/// A mesh file with its policies, in a folder of its own.
pub struct MeshFile {
    folder: TempDir,
    name: String,
    domain: String,
    log: &'static str,
    changes: String,
    /// Who holds the network that `up` is started in.
    network: Option<u32>,
}

impl MeshFile {
    /// `services` is the YAML below `services:`; `policies` a policy file.
    ///
    /// # Errors
    /// When the files can't be written.
    pub fn new(services: &str, policies: &str) -> Result<Self> {
        Self::with("", services, policies)
    }

    /// With more top-level keys.
    ///
    /// # Errors
    /// When the files can't be written.
    pub fn with(top: &str, services: &str, policies: &str) -> Result<Self> {
        Self::of_domain("example.org", top, services, policies)
    }

    /// Of another trust domain than `example.org`.
    ///
    /// # Errors
    /// When the files can't be written.
    pub fn of_domain(domain: &str, top: &str, services: &str, policies: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("t{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = tempfile::Builder::new().prefix("watchword-test-").tempdir()?;
        // The apps run as somebody else when we are root.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(folder.path(), open)?;
        let indented: String = services.lines().map(|line| format!("  {line}\n")).collect();
        let text =
            format!("name: {name}\ntrustDomain: {domain}\npolicies: [policies.yaml]\n{top}\nservices:\n{indented}");
        fs::write(folder.path().join("mesh.yaml"), text)?;
        fs::write(folder.path().join("policies.yaml"), policies)?;
        Ok(Self {
            folder,
            name,
            domain: domain.to_owned(),
            log: "info",
            changes: String::new(),
            network: None,
        })
    }

    /// Its trust domain.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// What the daemons log, instead of every call.
    #[must_use]
    pub fn log(self, level: &'static str) -> Self {
        Self { log: level, ..self }
    }

    /// Runs on a machine that these shell commands have changed: see
    /// [`crate::altered`].
    #[must_use]
    pub fn on_machine(self, changes: String) -> Self {
        Self { changes, ..self }
    }

    /// `up` is started in the network, and user namespace, of this process.
    #[must_use]
    pub fn in_network_of(self, pid: u32) -> Self {
        Self {
            network: Some(pid),
            ..self
        }
    }

    /// Writes a file beside the mesh file.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.folder.path().join(name);
        fs::write(&path, text)?;
        Ok(path)
    }

    /// Makes a folder beside the mesh file that apps may write to, whoever runs
    /// them.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn open_folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.folder.path().join(name);
        fs::create_dir(&path)?;
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
        Ok(path)
    }

    /// A tool of the tests, copied beside the mesh file, where whoever runs an
    /// app can read it.
    ///
    /// # Errors
    /// When there is no such tool.
    pub fn lend(&self, name: &str) -> Result<PathBuf> {
        let program = tool(name)?;
        let (file_name, folder) = (program.file_name(), program.parent());
        let (file_name, folder) = file_name.zip(folder).context("a program has a name and a folder")?;
        let own_folder = folder
            .file_name()
            .is_some_and(|of| of.to_string_lossy().starts_with(name));
        let lent = self.folder.path().join(name);
        let from = if own_folder { folder } else { &program };
        crate::run(Command::new("cp").arg("-r").arg(from).arg(&lent))?;
        Ok(if own_folder { lent.join(file_name) } else { lent })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The mesh's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `watchword up` to its end: for files that are refused.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn up_to_its_end(&self) -> Result<Finished> {
        Ok(self.up_command()?.stdin(Stdio::null()).output()?)
    }

    /// Starts the mesh and waits until it is ready.
    ///
    /// # Errors
    /// With the mesh's log, when it does not get ready.
    pub fn up(self) -> Result<Mesh> {
        let mesh = self.start()?;
        let wanted = format!("mesh {} is ready", mesh.file.name);
        mesh.output
            .wait_for("the mesh to be ready", |line| line.contains(&wanted))?;
        Ok(mesh)
    }

    /// Starts the mesh and does not wait.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(self) -> Result<Mesh> {
        let mut child = self
            .up_command()?
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let output = Output::of(&mut child);
        Ok(Mesh {
            file: self,
            child,
            output,
        })
    }

    fn up_command(&self) -> Result<Command> {
        let program = binary("watchword")?;
        let mut command = match (self.changes.as_str(), self.network) {
            ("", None) => Command::new(program),
            ("", Some(pid)) => {
                let mut command = enter_network(pid.into());
                command.arg(program);
                command
            }
            (changes, _) => crate::altered(changes, program),
        };
        command
            .arg("up")
            .arg(self.folder.path().join("mesh.yaml"))
            .env("WATCHWORD_LOG", self.log);
        Ok(command)
    }
}

/// A running mesh. Dropped, it is taken down.
pub struct Mesh {
    file: MeshFile,
    child: Child,
    output: Output,
}

impl Mesh {
    /// Everything that `up` printed, the daemons' logs among it.
    pub fn output(&self) -> &Output {
        &self.output
    }

    /// Its file.
    pub fn file(&self) -> &MeshFile {
        &self.file
    }

    /// A command inside a service's network, as that service.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn exec(&self, service: &str, command: &[&str]) -> Result<Finished> {
        Ok(self.exec_command(service, command)?.output()?)
    }

    /// As [`Mesh::exec`], to be started by the caller.
    ///
    /// # Errors
    /// When our binary was not built.
    pub fn exec_command(&self, service: &str, command: &[&str]) -> Result<Command> {
        let mut exec = Command::new(binary("watchword")?);
        exec.args(["exec", "--mesh", &self.file.name, service, "--"])
            .args(command)
            .stdin(Stdio::null());
        Ok(exec)
    }

    /// As [`Mesh::exec`]; an error when it fails.
    ///
    /// # Errors
    /// With its outputs and the mesh's log.
    pub fn exec_ok(&self, service: &str, command: &[&str]) -> Result<String> {
        let finished = self.exec(service, command)?;
        ensure!(
            finished.status.success(),
            "{command:?} as {service}: {}\n{}{}\n--- the mesh's log:\n{}",
            finished.status,
            String::from_utf8_lossy(&finished.stdout),
            String::from_utf8_lossy(&finished.stderr),
            self.output.text()
        );
        Ok(String::from_utf8_lossy(&finished.stdout).into_owned())
    }

    /// `watchword status -o json`.
    ///
    /// # Errors
    /// When it fails or prints no JSON.
    pub fn status(&self) -> Result<Value> {
        let mut status = Command::new(binary("watchword")?);
        let text = crate::run(status.args(["status", "--mesh", &self.file.name, "-o", "json"]))?;
        serde_json::from_str(&text).with_context(|| text.clone())
    }

    /// The folder with its sockets and `mesh.json`.
    ///
    /// # Errors
    /// When there is none.
    pub fn run_folder(&self) -> Result<PathBuf> {
        let base = if crate::is_root() {
            PathBuf::from("/run/watchword")
        } else if let Some(runtime) = std::env::var_os("XDG_RUNTIME_DIR") {
            PathBuf::from(runtime).join("watchword")
        } else {
            PathBuf::from(format!("/tmp/watchword-{}", nix::unistd::getuid()))
        };
        let folder = base.join(&self.file.name);
        ensure!(folder.is_dir(), "{} is not there", folder.display());
        Ok(folder)
    }

    /// `mesh.json`: processes and addresses.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn record(&self) -> Result<Value> {
        let text = fs::read_to_string(self.run_folder()?.join("mesh.json"))?;
        Ok(serde_json::from_str(&text)?)
    }

    /// A command in the network namespace of a process of the mesh, with every
    /// right there: for looking on, and for attackers.
    ///
    /// # Errors
    /// When the process is not known.
    pub fn in_network_of(&self, pid: i64, command: &[&str]) -> Command {
        let mut enter = enter_network(pid);
        enter.args(command).stdin(Stdio::null());
        enter
    }

    /// The control plane's process ID.
    ///
    /// # Errors
    /// When it does not run.
    pub fn control_plane(&self) -> Result<Pid> {
        let is_ours = |command: &str| command.contains("watchword-control-plane") && command.contains(&self.file.name);
        let mut found = fs::read_dir("/proc")?.flatten().filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let command = fs::read_to_string(entry.path().join("cmdline")).ok()?;
            is_ours(&command).then(|| Pid::from_raw(pid))
        });
        found.next().context("no control plane of this mesh runs")
    }

    /// The process ID of `up`.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap_or_default())
    }

    /// Sends a signal to `up` and waits for its end.
    ///
    /// # Errors
    /// With the log, when it does not end.
    pub fn end_by(&mut self, signal: Signal) -> Result<ExitStatus> {
        kill(self.pid(), signal)?;
        let mut status = None;
        let child = &mut self.child;
        wait_until("`up` to end", || {
            status = child.try_wait().ok().flatten();
            status.is_some()
        })
        .with_context(|| self.output.text())?;
        status.context("it has ended")
    }
}

/// A command, to be added, in the network of a process, with every right there.
pub fn enter_network(pid: i64) -> Command {
    let mut enter = Command::new("nsenter");
    if !crate::is_root() {
        enter.args(["--user", "--preserve-credentials"]);
    }
    enter.args(["--net", "--target", &pid.to_string(), "--"]);
    enter
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.end_by(Signal::SIGTERM);
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
