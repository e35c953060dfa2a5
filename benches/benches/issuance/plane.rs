//! A control plane of its own process, and callers of it.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use hyper_util::rt::TokioIo;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use watchword_identity::{Bundle, SpiffeId, TrustDomain};
use watchword_mtls::{ControlClient, Now};
use watchword_proto::admin::{AdminClient, CreateTokenRequest};
use watchword_proto::control::{AttestRequest, IdentityClient, attest_request::Evidence};
use watchword_tests::{Output, binary};

use crate::WORKLOAD;

/// Calls at a time on one connection: the control plane takes 16.
pub(crate) const AT_ONCE: usize = 12;
/// Above what the slowest part takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct Plane {
    folder: TempDir,
    child: Child,
    id: SpiffeId,
}

impl Plane {
    /// `authority` is that line of the mesh file.
    pub(crate) fn start(authority: &str) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("watchword-bench-").tempdir()?;
        let mesh = folder.path().join("mesh.yaml");
        let text = format!(
            "trustDomain: example.org\nstateDir: state\nrunDir: run\n{authority}\n\
             services:\n  web: {{ports: {{8080: tcp}}, endpoints: []}}\n"
        );
        fs::write(&mesh, text)?;
        let mut child = Command::new(binary("watchword-control-plane")?)
            .args(["run", "--die-with-stdin", "--config"])
            .arg(mesh)
            .env("WATCHWORD_LOG", "info")
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let output = Output::of(&mut child);
        let plane = Self {
            folder,
            child,
            id: SpiffeId::new("spiffe://example.org/watchword/control-plane")?,
        };
        output.wait_for("the control plane", |line| line.contains("control plane ready"))?;
        Ok(plane)
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.folder.path().join("run").join(name)
    }

    /// So many join tokens.
    pub(crate) async fn tokens(&self, count: usize) -> Result<Vec<String>> {
        let path = self.socket("admin.sock");
        let connect = tower::service_fn(move |_: http::Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://admin.invalid")
            .connect_with_connector(connect)
            .await?;
        let mut tokens = Vec::with_capacity(count);
        while tokens.len() < count {
            let together = (0..(count - tokens.len()).min(AT_ONCE)).map(|_| {
                let mut client = AdminClient::new(channel.clone());
                let spiffe_id = WORKLOAD.to_owned();
                tokio::spawn(async move { client.create_token(CreateTokenRequest { spiffe_id }).await })
            });
            for task in together.collect::<Vec<_>>() {
                tokens.push(task.await??.into_inner().token);
            }
        }
        Ok(tokens)
    }

    /// The roots of its mesh.
    pub(crate) fn bundle(&self) -> Result<Bundle> {
        let pem = fs::read(self.socket("bundle.pem"))?;
        Ok(Bundle::from_pem(TrustDomain::new("example.org")?, &pem)?)
    }

    /// How a caller without an identity connects.
    pub(crate) fn anonymous(&self) -> Result<ControlClient> {
        Ok(ControlClient::anonymous(self.bundle()?, now())?)
    }

    /// A connection of its own.
    pub(crate) async fn channel(&self, client: ControlClient) -> Result<Channel> {
        let (path, id) = (self.socket("control.sock"), self.id.clone());
        let connect = tower::service_fn(move |_: http::Uri| {
            let (path, id, client) = (path.clone(), id.clone(), client.clone());
            async move {
                let stream = UnixStream::connect(path).await?;
                let stream = client.connect(stream, &id).await.map_err(std::io::Error::other)?;
                Ok::<_, std::io::Error>(TokioIo::new(stream))
            }
        });
        let endpoint = Endpoint::from_static("http://control-plane.invalid").timeout(PATIENCE);
        Ok(endpoint.connect_with_connector(connect).await?)
    }

    /// User and system time that it has used.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields: Vec<&str> = stat.rsplit(") ").next().context("a name")?.split(' ').collect();
        let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok());
        let ticks = ticks(11).zip(ticks(12)).context("times")?;
        // What the kernel tells user programs is always in hundredths.
        Ok(Duration::from_millis(10 * (ticks.0 + ticks.1)))
    }

    /// Resident memory that is its own, in bytes.
    pub(crate) fn memory(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kilobytes: u64 = line
            .and_then(|line| line.trim().strip_suffix(" kB"))
            .context("RssAnon")?
            .parse()?;
        Ok(1024 * kilobytes)
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).unwrap_or_default();
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

/// Certificates of real processes are judged by the time of day.
#[allow(
    clippy::disallowed_methods,
    reason = "nothing here is to be repeated at another time"
)]
pub(crate) fn now() -> Now {
    Now::new(SystemTime::now)
}

/// A first certificate, for a token. DER, leaf first, and its key.
pub(crate) async fn attest(channel: &Channel, token: String) -> Result<(Vec<Vec<u8>>, rcgen::KeyPair)> {
    let (key, csr) = crate::request()?;
    let request = AttestRequest {
        csr: csr.der().to_vec(),
        evidence: Some(Evidence::JoinToken(token)),
    };
    let answer = IdentityClient::new(channel.clone()).attest(request).await?.into_inner();
    ensure!(answer.chain.len() > 1, "a chain of {}", answer.chain.len());
    Ok((answer.chain, key))
}
