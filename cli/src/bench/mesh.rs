//! The mesh that is measured.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde_json::json;
use tempfile::TempDir;
use tokio::process::Command;

use super::load::{Kind, Numbers};
use crate::own_mesh::OwnMesh;

/// Client and server, and with which names.
pub(super) type Pair = (&'static str, &'static str);
/// The plain one first.
pub(super) const PAIRS: [Pair; 2] = [("plain-client", "plain-server"), ("client", "server")];
const PORT: u16 = 7000;
/// Beside the time that a load takes.
const PATIENCE: Duration = Duration::from_secs(40);

/// Runs loads in a mesh.
#[derive(Clone, Debug)]
pub(super) struct Loader {
    name: String,
    own: PathBuf,
}

/// Runs until it is stopped, or dropped.
pub(super) struct BenchMesh {
    loader: Loader,
    mesh: OwnMesh,
    _folder: TempDir,
}

impl BenchMesh {
    /// Returns when it is ready.
    pub(super) async fn start() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("watchword-bench-").tempdir()?;
        let name = format!("bench-{}", std::process::id());
        let own = std::env::current_exe().context("cannot tell where this program is")?;
        let file = folder.path().join("mesh.yaml");
        // JSON is YAML.
        std::fs::write(&file, mesh_file(&name, &own).to_string())?;
        std::fs::write(folder.path().join("policies.yaml"), POLICIES)?;
        let mesh = OwnMesh::start(&file, &name).await?;
        Ok(Self {
            loader: Loader { name, own },
            mesh,
            _folder: folder,
        })
    }

    /// See [`OwnMesh::ended`].
    pub(super) async fn ended(&mut self) -> anyhow::Error {
        self.mesh.ended().await
    }

    /// What runs loads in it.
    pub(super) fn loader(&self) -> Loader {
        self.loader.clone()
    }

    /// Takes it down.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        let ended = self.mesh.stop().await?;
        ensure!(ended.success(), "`watchword up` ended with {ended}");
        Ok(())
    }
}

impl Loader {
    /// One load from a pair's client to its server.
    pub(super) async fn load(&self, pair: Pair, kind: Kind, long: Duration) -> anyhow::Result<Numbers> {
        let (client, server) = pair;
        let output = Command::new(&self.own)
            .args(["exec", "--mesh", &self.name, client, "--"])
            .arg(&self.own)
            .args(["bench-end", "load", &format!("{server}:{PORT}")])
            .args([serde_json::to_string(&kind)?, long.as_millis().to_string()])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(long + PATIENCE, output)
            .await
            .context("the load does not end")??;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!(
                "{client} cannot call {server}: {}",
                said.trim().trim_start_matches("error: ")
            );
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

const POLICIES: &str = "\
name: server
service: spiffe://bench.invalid/server
allow: [{name: the client calls, from: [spiffe://bench.invalid/client]}]
";

fn mesh_file(name: &str, own: &std::path::Path) -> serde_json::Value {
    let serve = json!([own, "bench-end", "serve", PORT.to_string()]);
    let wait = json!(["sleep", "infinity"]);
    // As root another user might not be let into this program's folder.
    let mut server = json!({"run": serve, "ports": {PORT.to_string(): "tcp"}, "healthy": {"port": PORT}});
    let mut client = json!({"run": wait});
    if crate::launcher::user_namespace::is_full_root() {
        for service in [&mut server, &mut client] {
            service["user"] = "root".into();
        }
    }
    let foreign = |service: &serde_json::Value| {
        let mut service = service.clone();
        service["peer"] = "mtls".into();
        service
    };
    json!({
        "name": name,
        "trustDomain": "bench.invalid",
        "policies": ["policies.yaml"],
        "services": {
            "plain-client": foreign(&client),
            "plain-server": foreign(&server),
            "client": client,
            "server": server,
        },
    })
}
