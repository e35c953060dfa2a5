//! A mesh that a command runs for itself: `watchword up` as a child.
//!
//! Invariants: when this is dropped, or the command killed, the mesh ends;
//! what it prints is read all the time, or it would stand still.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A little more than `up` gives a mesh.
const START_PATIENCE: Duration = Duration::from_secs(45);
const STOP_PATIENCE: Duration = Duration::from_secs(20);
/// For a line of its log to come.
const LINE_PATIENCE: Duration = Duration::from_secs(5);
/// What of the output is kept.
const MAX_LINES: usize = 10_000;

/// What `up` printed so far.
type Lines = Arc<Mutex<Vec<String>>>;

/// A mesh that runs.
#[derive(Debug)]
pub(crate) struct OwnMesh {
    up: Child,
    lines: Lines,
    printed: watch::Receiver<usize>,
    readers: Vec<JoinHandle<()>>,
}

impl OwnMesh {
    /// Starts the mesh of that file and name, and waits until it is ready.
    pub(crate) async fn start(file: &Path, name: &str) -> anyhow::Result<Self> {
        let mut up = Command::new("/proc/self/exe")
            .args(["up", "--tied"])
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start `watchword up`")?;
        let (lines, (tell, printed)) = (Lines::default(), watch::channel(0));
        let out = up.stdout.take().map(|out| follow(out, &lines, &tell));
        let errors = up.stderr.take().map(|out| follow(out, &lines, &tell));
        let mut mesh = Self {
            up,
            lines,
            printed,
            readers: out.into_iter().chain(errors).collect(),
        };
        let ready = format!("mesh {name} is ready");
        match tokio::time::timeout(START_PATIENCE, mesh.until(|line| line == ready)).await {
            Ok(Some(_)) => Ok(mesh),
            Ok(None) => Err(mesh.ended().await),
            Err(_) => bail!("not ready within {} s: {}", START_PATIENCE.as_secs(), mesh.all()),
        }
    }

    /// The first line, of those that were printed and those to come, for which
    /// `wanted` holds; none if it does not come in time.
    pub(crate) async fn line(&self, wanted: impl Fn(&str) -> bool) -> Option<String> {
        tokio::time::timeout(LINE_PATIENCE, self.until(wanted))
            .await
            .ok()
            .flatten()
    }

    async fn until(&self, wanted: impl Fn(&str) -> bool) -> Option<String> {
        let mut printed = self.printed.clone();
        loop {
            printed.mark_unchanged();
            let found = lock(&self.lines).iter().find(|line| wanted(line)).cloned();
            if found.is_some() {
                return found;
            }
            // An error when both outputs are closed.
            printed.changed().await.ok()?;
        }
    }

    /// Waits until it ends by itself, and says why.
    pub(crate) async fn ended(&mut self) -> anyhow::Error {
        let status = match self.up.wait().await {
            Ok(status) => status,
            Err(error) => return error.into(),
        };
        // Its last words say why.
        for reader in self.readers.drain(..) {
            let _ = reader.await;
        }
        let errors: Vec<String> = {
            let lines = lock(&self.lines);
            let errors = lines.iter().filter_map(|line| line.strip_prefix("error: "));
            errors.map(str::to_owned).collect()
        };
        match errors.is_empty() {
            true => anyhow::anyhow!("`watchword up` ended with {status}: {}", self.all()),
            false => anyhow::anyhow!("{}", errors.join("; ")),
        }
    }

    /// Takes it down, and says how that went.
    pub(crate) async fn stop(mut self) -> anyhow::Result<ExitStatus> {
        if let Some(pid) = self.up.id().and_then(|pid| i32::try_from(pid).ok()) {
            kill(Pid::from_raw(pid), Signal::SIGTERM)?;
        }
        let ended = tokio::time::timeout(STOP_PATIENCE, self.up.wait()).await;
        Ok(ended.context("the mesh does not end")??)
    }

    fn all(&self) -> String {
        lock(&self.lines).join("; ")
    }
}

/// For a server in such a mesh: on all addresses of a port, those of IPv4 alone
/// where there is no IPv6.
pub(crate) async fn listen(port: u16) -> anyhow::Result<TcpListener> {
    if let Ok(listener) = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        return Ok(listener);
    }
    let all_of_ipv4 = (Ipv4Addr::UNSPECIFIED, port);
    let listener = TcpListener::bind(all_of_ipv4).await;
    listener.with_context(|| format!("cannot listen on port {port}"))
}

fn follow(
    source: impl AsyncRead + Unpin + Send + 'static,
    lines: &Lines,
    tell: &watch::Sender<usize>,
) -> JoinHandle<()> {
    let (lines, tell) = (Arc::clone(lines), tell.clone());
    tokio::spawn(async move {
        let mut source = BufReader::new(source).lines();
        while let Ok(Some(line)) = source.next_line().await {
            let mut lines = lock(&lines);
            if lines.len() < MAX_LINES {
                lines.push(line);
            }
            drop(lines);
            tell.send_modify(|count| *count += 1);
        }
    })
}

fn lock(lines: &Lines) -> std::sync::MutexGuard<'_, Vec<String>> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}
