//! A `role: agent` proxy on this machine, started by hand, as on a plain host.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::mesh::Mesh;
use crate::output::{Output, wait_until};
use crate::programs::binary;

/// A running agent. Dropped, it is stopped.
pub struct Agent {
    folder: TempDir,
    child: Child,
    output: Output,
}

impl Agent {
    /// With `id` from the mesh's control plane, for `callers`, the YAML of
    /// `workloadApi.callers`. Returns when it is ready.
    ///
    /// # Errors
    /// With its log, when it does not get ready.
    pub fn start(mesh: &Mesh, id: &str, callers: &str) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("watchword-agent-").tempdir()?;
        let mut create = Command::new(binary("watchword")?);
        create.args(["token", "create", "--mesh", mesh.file().name(), "--id", id]);
        let token = folder.path().join("token");
        fs::write(&token, crate::run(&mut create)?)?;
        let control_plane = mesh.run_folder()?;
        let config = format!(
            "role: agent\n\
             controlPlane:\n  address: 'unix:{control}'\n  id: spiffe://{domain}/watchword/control-plane\n  bundleFile: {bundle}\n\
             attestation: {{tokenFile: {token}}}\n\
             runDir: {run}\n\
             healthListen: 127.0.0.1:0\n\
             workloadApi: {{callers: {callers}}}\n",
            control = control_plane.join("control.sock").display(),
            bundle = control_plane.join("bundle.pem").display(),
            domain = mesh.file().domain(),
            token = token.display(),
            run = folder.path().display(),
        );
        fs::write(folder.path().join("agent.yaml"), config)?;
        let mut child = Command::new(binary("watchword-proxy")?)
            .args(["run", "--config"])
            .arg(folder.path().join("agent.yaml"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let output = Output::of(&mut child);
        let agent = Self { folder, child, output };
        wait_until("the agent to be ready", || agent.page("/readyz").is_ok()).with_context(|| agent.output.text())?;
        Ok(agent)
    }

    /// Where programs find it.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("workload.sock")
    }

    /// Lets other users of this machine reach the socket.
    ///
    /// # Errors
    /// When the folder's mode can't be changed.
    pub fn show_to_others(&self) -> Result<()> {
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        Ok(fs::set_permissions(self.folder.path(), open)?)
    }

    /// The value of SPIFFE_ENDPOINT_SOCKET for programs.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Its log.
    pub fn output(&self) -> &Output {
        &self.output
    }

    /// Its process ID.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A page of its admin socket.
    ///
    /// # Errors
    /// When it is not there, or says that something is wrong.
    pub fn page(&self, path: &str) -> Result<String> {
        page(&self.folder.path().join("proxy-admin.sock"), path)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn page(socket: &Path, path: &str) -> Result<String> {
    crate::run(
        Command::new("curl")
            .args(["--silent", "--fail", "--max-time", "10", "--unix-socket"])
            .arg(socket)
            .arg(format!("http://proxy{path}")),
    )
}
