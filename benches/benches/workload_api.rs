//! What streams of the workload socket cost: the time from a renewal to the
//! last of many subscribers, and memory for each.
//!
//! Starts a mesh and an agent; the subscribers are this process. A table for
//! people goes to standard error, a line of JSON per number to standard output.
//!
//! Invariant: one subscriber and many are timed in the same run, from the line
//! in the agent's log that says that the certificate is there.

use std::collections::{HashMap, HashSet};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tonic::Request;
use tonic::transport::{Channel, Endpoint};
use watchword_benches::report::Report;
use watchword_proto::workload_api::{SpiffeWorkloadApiClient, X509svidRequest};
use watchword_tests::{Agent, MeshFile, Output};

const PART: &str = "workload-api";
const RENEWED: &str = "new certificate for a workload";

/// How much is done.
#[derive(Clone, Copy)]
struct Size {
    streams: usize,
    /// Connections with one stream each; the agent allows 256 of one user.
    connections: usize,
    rotations: usize,
}

const FULL: Size = Size {
    streams: 1_000,
    connections: 200,
    rotations: 5,
};
/// As a test, to see that all of it works.
const SMALL: Size = Size {
    streams: 20,
    connections: 5,
    rotations: 1,
};

fn main() -> Result<ExitCode> {
    // Cargo says --bench; without it this is a test.
    let is_benchmark = std::env::args().any(|word| word == "--bench");
    let size = if is_benchmark { FULL } else { SMALL };
    let mut report = Report::default();
    let one = Size { streams: 1, ..size };
    let single = told_within(one)?;
    report.add(PART, "from a renewal to the only stream, median", millis(single), "ms")?;
    let many = told_within(size)?;
    report.add(
        PART,
        &format!("from a renewal to the last of {} streams, median", size.streams),
        millis(many),
        "ms",
    )?;
    let ratio = many.as_secs_f64() / single.as_secs_f64();
    report.add(PART, "many over one", ratio, "times")?;
    memory(size, &mut report)?;
    report.show()?;
    Ok(ExitCode::SUCCESS)
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}

/// An agent for this user, whose certificates live for six seconds.
fn agent() -> Result<(watchword_tests::Mesh, Agent)> {
    let top = "certificates: {ttl: 6s}\nregistry: [{id: spiffe://example.org/host}]";
    let policies = "name: web\nservice: spiffe://example.org/web\nallow: []\n";
    let mesh = MeshFile::with(top, "web: {run: [sleep, infinity]}\n", policies)?.up()?;
    let callers = format!("[{{uid: {}}}]", nix::unistd::geteuid());
    let agent = Agent::start(&mesh, "spiffe://example.org/host", &callers)?;
    Ok((mesh, agent))
}

async fn connect(agent: &Agent) -> Result<Channel> {
    let socket = agent.socket();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Ok(Endpoint::from_static("http://localhost")
        .connect_with_connector(connector)
        .await?)
}

/// Tells each certificate and when it came, for as long as somebody listens.
async fn follow(channel: Channel, told: mpsc::UnboundedSender<(Vec<u8>, Instant)>) -> Result<()> {
    let mut request = Request::new(X509svidRequest {});
    request.metadata_mut().insert("workload.spiffe.io", "true".parse()?);
    let mut stream = SpiffeWorkloadApiClient::new(channel)
        .fetch_x509svid(request)
        .await?
        .into_inner();
    while let Some(update) = stream.message().await? {
        let svid = update.svids.into_iter().next().context("an update has an SVID")?;
        if told.send((svid.x509_svid, Instant::now())).is_err() {
            break;
        }
    }
    Ok(())
}

/// When the log says that there is a new one, once for each.
fn renewals(log: &Output) -> mpsc::UnboundedReceiver<Instant> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let log = log.clone();
    std::thread::spawn(move || {
        let mut seen = HashSet::new();
        while let Ok(line) = log.wait_for("a renewal", |line| line.contains(RENEWED) && !seen.contains(line)) {
            if sender.send(Instant::now()).is_err() {
                return;
            }
            seen.insert(line);
        }
    });
    receiver
}

/// The median of all rotations.
fn told_within(size: Size) -> Result<Duration> {
    let (_mesh, agent) = agent()?;
    let mut renewals = renewals(agent.output());
    runtime()?.block_on(async {
        let channel = connect(&agent).await?;
        let (sender, mut told) = mpsc::unbounded_channel();
        for _ in 0..size.streams {
            tokio::spawn(follow(channel.clone(), sender.clone()));
        }
        drop(sender);
        let mut times = Vec::new();
        let mut counts: HashMap<Vec<u8>, usize> = HashMap::new();
        while times.len() <= size.rotations {
            let (svid, at) = told.recv().await.context("all streams have ended")?;
            let count = counts.entry(svid).or_default();
            *count += 1;
            if *count == size.streams {
                let renewed = renewals.recv().await.context("the agent's log has ended")?;
                times.push(at.saturating_duration_since(renewed));
            }
        }
        // The first is no rotation: streams began while it was signed.
        times.remove(0);
        times.sort_unstable();
        times.get(times.len() / 2).copied().context("at least one rotation")
    })
}

/// Resident memory in KiB, once it has carried a rotation.
fn resident(agent: &Agent) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid()))?;
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .context("VmRSS")?;
    Ok(line.split_whitespace().nth(1).context("a number")?.parse()?)
}

fn memory(size: Size, report: &mut Report) -> Result<()> {
    for (what, streams, connections) in [
        ("a stream on a connection that it shares", size.streams, 1),
        (
            "a stream with a connection of its own",
            size.connections,
            size.connections,
        ),
    ] {
        let (_mesh, agent) = agent()?;
        let grown = runtime()?.block_on(async {
            let (sender, mut told) = mpsc::unbounded_channel();
            let mut channels = vec![connect(&agent).await?];
            tokio::spawn(follow(channels.first().context("one")?.clone(), sender.clone()));
            two_updates(&mut told, 1).await?;
            let before = resident(&agent)?;
            while channels.len() < connections {
                channels.push(connect(&agent).await?);
            }
            for channel in channels.iter().cycle().take(streams) {
                tokio::spawn(follow(channel.clone(), sender.clone()));
            }
            two_updates(&mut told, streams).await?;
            anyhow::Ok(resident(&agent)? - before)
        })?;
        let each = (grown / streams as f64 * 10.0).round() / 10.0;
        report.add(PART, &format!("memory of {what}, of {streams}"), each, "KiB")?;
    }
    Ok(())
}

/// Waits until so many streams have been told of two certificates.
async fn two_updates(told: &mut mpsc::UnboundedReceiver<(Vec<u8>, Instant)>, streams: usize) -> Result<()> {
    for _ in 0..2 * streams {
        told.recv().await.context("all streams have ended")?;
    }
    Ok(())
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}
