//! Load by h2load: keep-alive connections over HTTP/1.1, each with one
//! request after the other, until a fixed number of them is answered.
//!
//! Invariant: a run in which a request was not answered with 200 is an error.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// The server as the requests name it, whoever is dialled.
pub(crate) const URL: &str = "http://server:8080/orders/1";
/// A run that takes longer has failed.
const SECONDS: &str = "120";

/// How much is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) connections: usize,
    pub(crate) requests: usize,
}

/// What came of it, as the caller saw it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) per_second: f64,
    /// In microseconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

/// A folder that h2load writes what it saw into, whoever runs it.
pub(crate) struct Log(PathBuf);

impl Log {
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        let folder = folder.join("log");
        fs::create_dir(&folder)?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777))?;
        Ok(Self(folder.join("requests")))
    }

    /// The command that makes the load, to whom it dials. Forgets the last one.
    pub(crate) fn command(&self, load: Load, dials: &str) -> Vec<String> {
        // h2load appends. The first time there is none.
        let _ = fs::remove_file(&self.0);
        let (connections, requests) = (load.connections.to_string(), load.requests.to_string());
        let log = self.0.display().to_string();
        [
            "timeout",
            SECONDS,
            "h2load",
            "--h1",
            "--threads",
            "1",
            "--clients",
            &connections,
            "--requests",
            &requests,
            "--log-file",
            &log,
            "--connect-to",
            dials,
            URL,
        ]
        .map(str::to_owned)
        .to_vec()
    }

    /// What the last load saw. `said`: what h2load printed.
    pub(crate) fn seen(&self, load: Load, said: &str) -> Result<Seen> {
        let text = fs::read_to_string(&self.0).with_context(|| said.to_owned())?;
        let mut took = Vec::with_capacity(load.requests);
        let (mut begin, mut end) = (u64::MAX, 0);
        for line in text.lines() {
            let fields: Vec<_> = line.split('\t').collect();
            let [began, status, microseconds] = fields.as_slice() else {
                anyhow::bail!("h2load's log has a line {line:?}");
            };
            ensure!(*status == "200", "an answer with {status}\n{said}");
            let (began, long): (u64, u64) = (began.parse()?, microseconds.parse()?);
            (begin, end) = (begin.min(began), end.max(began + long));
            took.push(long);
        }
        ensure!(
            took.len() == load.requests,
            "{} of {} requests were answered\n{said}",
            took.len(),
            load.requests
        );
        took.sort_unstable();
        let at = |share: f64| {
            took.get((took.len() as f64 * share) as usize)
                .copied()
                .unwrap_or_default() as f64
        };
        Ok(Seen {
            per_second: load.requests as f64 * 1e6 / (end - begin).max(1) as f64,
            p50: at(0.5),
            p99: at(0.99),
        })
    }
}
