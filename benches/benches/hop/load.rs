//! The loads, and what their makers saw: requests by h2load, new connections
//! by wrk, a large file by curl.
//!
//! Invariant: a run in which something was not answered, or not with 200, is an
//! error.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

/// How the requests name the server, whoever is dialled.
pub(crate) const PATH: &str = "/orders/1";
/// The large file: sparse, so that only its way costs.
pub(crate) const BULK_MEGABYTES: usize = 256;
/// New connections at a time.
const AT_A_TIME: &str = "8";
/// Latencies count once all connections are open and have said something, in
/// microseconds: what opening one takes is measured by itself.
const OPENING: u64 = 250_000;
/// A run that takes longer has failed.
const SECONDS: &str = "120";

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// One request after the other on each connection.
    Requests { connections: usize, requests: usize },
    /// Requests at fixed times, whether or not the one before is answered.
    Steady {
        connections: usize,
        per_second: usize,
        seconds: usize,
    },
    /// Each with one request.
    Connections { seconds: usize },
    /// So much of the large file, one time after the other on one connection.
    Bulk { megabytes: usize, times: usize },
}

impl Load {
    /// Of the measurement: the same for every size.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Requests { connections, .. } => format!("requests, {}", count(connections)),
            Self::Steady { connections, .. } => format!("latency, {}", count(connections)),
            Self::Connections { .. } => "new connections".to_owned(),
            Self::Bulk { .. } => "bulk".to_owned(),
        }
    }

    /// What its CPU time is divided by.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::Requests { .. } | Self::Steady { .. } => "request",
            Self::Connections { .. } => "connection",
            Self::Bulk { .. } => "MB",
        }
    }

    /// As many connections with one request each, for loads that count what
    /// requests cost.
    pub(crate) fn opening(self) -> Option<Self> {
        let Self::Requests { connections, .. } = self else {
            return None;
        };
        Some(Self::Requests {
            connections,
            requests: connections,
        })
    }

    /// How many it asks for; none where that is not said in advance.
    pub(crate) fn requests(self) -> usize {
        match self {
            Self::Requests { requests, .. } => requests,
            Self::Steady {
                per_second, seconds, ..
            } => per_second * seconds,
            Self::Connections { .. } | Self::Bulk { .. } => 0,
        }
    }

    /// A little of the same kind: what proxies keep is there afterwards.
    pub(crate) fn warm_up(self) -> Self {
        match self {
            Self::Requests { connections, requests } => Self::Requests {
                connections,
                requests: (requests / 10).max(connections),
            },
            Self::Steady { connections, .. } => Self::Requests {
                connections,
                requests: connections * 5,
            },
            Self::Connections { .. } | Self::Bulk { .. } => Self::Requests {
                connections: 8,
                requests: 80,
            },
        }
    }
}

fn count(connections: usize) -> String {
    let some = if connections == 1 { "connection" } else { "connections" };
    format!("{connections} {some}")
}

/// What came of it, as the caller saw it.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Requests, connections or MB.
    pub(crate) units: f64,
    pub(crate) seconds: f64,
    /// Microseconds from the sending of a request to the end of its answer, of
    /// each that counts.
    pub(crate) latencies: Vec<u64>,
}

impl Seen {
    /// The same load once more.
    pub(crate) fn add(&mut self, more: Self) {
        self.units += more.units;
        self.seconds += more.seconds;
        self.latencies.extend(more.latencies);
    }

    pub(crate) fn per_second(&self) -> f64 {
        self.units / self.seconds
    }

    /// None where no request was timed by itself.
    pub(crate) fn latency(&self) -> Option<Latency> {
        let mut took = self.latencies.clone();
        took.sort_unstable();
        let at = |share: f64| Some(*took.get((took.len() as f64 * share) as usize)? as f64);
        Some(Latency {
            p50: at(0.5)?,
            p99: at(0.99)?,
            p999: at(0.999)?,
        })
    }
}

/// In microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
}

impl Latency {
    pub(crate) fn as_json(self) -> Value {
        json!({"p50": self.p50, "p99": self.p99, "p999": self.p999})
    }
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

    /// Makes a load on `dials`, which stands for `server`, by commands that
    /// `run` runs at the client.
    pub(crate) fn make(&self, load: Load, dials: &str, run: impl Fn(&[String]) -> Result<String>) -> Result<Seen> {
        match load {
            Load::Requests { connections, requests } => self.h2load((connections, requests), &[], dials, run),
            Load::Steady {
                connections,
                per_second,
                seconds,
            } => {
                let each = per_second as f64 / connections as f64;
                // They begin one after the other within the time between two
                // requests of one, or all would ask at once.
                let options = [
                    format!("--rps={each}"),
                    format!("--rate={}", per_second.div_ceil(1000)),
                    "--rate-period=1ms".to_owned(),
                ];
                let options = if connections == 1 { &options[..1] } else { &options[..] };
                self.h2load((connections, per_second * seconds), options, dials, run)
            }
            Load::Connections { seconds } => connections(seconds, dials, run),
            Load::Bulk { megabytes, times } => bulk((megabytes, times), dials, run),
        }
    }

    fn h2load(
        &self,
        (connections, requests): (usize, usize),
        options: &[String],
        dials: &str,
        run: impl Fn(&[String]) -> Result<String>,
    ) -> Result<Seen> {
        // h2load appends. The first time there is none.
        let _ = fs::remove_file(&self.0);
        let (clients, total) = (connections.to_string(), requests.to_string());
        let log = self.0.display().to_string();
        let url = format!("http://server{PATH}");
        let words = [
            "timeout",
            SECONDS,
            "h2load",
            "--h1",
            "--threads",
            "1",
            "--clients",
            &clients,
            "--requests",
            &total,
            "--log-file",
            &log,
            "--connect-to",
            dials,
        ];
        let mut command = words.map(str::to_owned).to_vec();
        command.extend_from_slice(options);
        command.push(url);
        let said = run(&command)?;
        self.seen(requests, !options.is_empty(), &said)
    }

    /// What the last load saw. `said`: what h2load printed.
    fn seen(&self, requests: usize, is_steady: bool, said: &str) -> Result<Seen> {
        let text = fs::read_to_string(&self.0).with_context(|| said.to_owned())?;
        let mut took = Vec::with_capacity(requests);
        let (mut begin, mut end) = (u64::MAX, 0);
        for line in text.lines() {
            let fields: Vec<_> = line.split('\t').collect();
            let [began, status, microseconds] = fields.as_slice() else {
                bail!("h2load's log has a line {line:?}");
            };
            ensure!(*status == "200", "an answer with {status}\n{said}");
            let (began, long): (u64, u64) = (began.parse()?, microseconds.parse()?);
            (begin, end) = (begin.min(began), end.max(began + long));
            took.push((began, long));
        }
        ensure!(
            took.len() == requests,
            "{} of {requests} requests were answered\n{said}",
            took.len(),
        );
        // Of loads at fixed times, which go on for longer than that.
        let latest = if is_steady { begin + OPENING } else { 0 };
        let counting = took.into_iter().filter(|(began, _)| *began >= latest);
        Ok(Seen {
            units: requests as f64,
            seconds: (end - begin).max(1) as f64 / 1e6,
            latencies: counting.map(|(_, long)| long).collect(),
        })
    }
}

/// New connections with a request each, by wrk.
fn connections(seconds: usize, dials: &str, run: impl Fn(&[String]) -> Result<String>) -> Result<Seen> {
    let (long, url) = (format!("-d{seconds}s"), format!("http://{dials}{PATH}"));
    let command = [
        "timeout",
        SECONDS,
        "wrk",
        "-t1",
        &format!("-c{AT_A_TIME}"),
        &long,
        "-H",
        "Host: server",
        "-H",
        "Connection: close",
        &url,
    ];
    let said = run(&command.map(str::to_owned))?;
    // It has lines for these only where there were some.
    let is_clean = !said.contains("Socket errors") && !said.contains("Non-2xx");
    ensure!(is_clean, "new connections failed:\n{said}");
    let line = said.lines().find(|line| line.contains(" requests in "));
    let words: Vec<_> = line
        .unwrap_or_default()
        .split([' ', ','])
        .filter(|word| !word.is_empty())
        .collect();
    let [count, "requests", "in", took, ..] = words.as_slice() else {
        bail!("wrk said\n{said}");
    };
    let (count, took): (f64, f64) = (count.parse()?, took.trim_end_matches('s').parse()?);
    ensure!(count > 0.0, "no connection was answered\n{said}");
    Ok(Seen {
        units: count,
        seconds: took,
        latencies: Vec::new(),
    })
}

/// The large file by curl, on one connection.
fn bulk((megabytes, times): (usize, usize), dials: &str, run: impl Fn(&[String]) -> Result<String>) -> Result<Seen> {
    // curl makes as many of the one.
    let (wanted, url) = (megabytes * 1_000_000, format!("http://{dials}/bulk?[1-{times}]"));
    let range = format!("0-{}", wanted - 1);
    let words = [
        "curl",
        "--silent",
        "--show-error",
        "--fail",
        "--max-time",
        SECONDS,
        "--noproxy",
        "*",
    ];
    let asks = [
        "--output",
        "/dev/null",
        "--write-out",
        "%{size_download} %{time_total}\n",
        "--range",
        &range,
        &url,
    ];
    let said = run(&[&words[..], &asks]
        .concat()
        .iter()
        .map(|word| (*word).to_owned())
        .collect::<Vec<_>>())?;
    let mut seen = Seen::default();
    for line in said.lines() {
        let (bytes, took) = line.split_once(' ').context("curl says two numbers")?;
        ensure!(bytes.parse() == Ok(wanted), "{bytes} of {wanted} bytes came");
        seen.units += megabytes as f64;
        seen.seconds += took.parse::<f64>()?;
    }
    ensure!(said.lines().count() == times, "{times} files were wanted:\n{said}");
    Ok(seen)
}
