//! What it costs when both sidecars of many tunnels get new certificates.
//!
//! A mesh of its own for each look: its sidecars start together, and so their
//! certificates are replaced at about one time, before any has expired. The
//! CPU time of the sidecars is read from a second before the first new
//! certificate to three after the second one; what the same time costs
//! without one, just before, is taken off.

use std::cell::Cell;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use watchword_tests::Output;
use watchword_tunnel::MAX_LANES;

use crate::Size;
use crate::bed::{Bed, SERVICES};
use watchword_benches::held::Held;
use watchword_benches::report::Report;

/// Only the first is made alone, and has a connection of its own (decisions/0025).
const OWN: usize = 1;
const PART: &str = "rotation";
/// A renewal is under way before its certificate is there.
const BEFORE: Duration = Duration::from_secs(1);
/// For all tunnels to notice.
const AFTER: Duration = Duration::from_secs(3);
const SAMPLE: Duration = Duration::from_millis(50);

/// What is open meanwhile.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tunnels {
    None,
    /// With a stream on each.
    Busy,
    Idle,
}

/// In seconds of CPU of both sidecars.
#[derive(Clone, Copy, Default)]
struct Found {
    rotation: f64,
    /// Per second without a rotation.
    waiting: f64,
    /// To open the connections, with their handshakes.
    opening: f64,
}

pub(crate) fn measure(size: Size, report: &mut Report) -> Result<()> {
    let none = median(size, Tunnels::None)?;
    let busy = median(size, Tunnels::Busy)?;
    let idle = median(size, Tunnels::Idle)?;
    let count = size.tunnels as f64;
    report.add(PART, "tunnels", count, "")?;
    report.add(
        PART,
        "a rotation of both sidecars without tunnels",
        none.rotation * 1e3,
        "ms",
    )?;
    for (name, found) in [("a stream on each", busy), ("all idle", idle)] {
        report.add(PART, &format!("with tunnels, {name}"), found.rotation * 1e3, "ms")?;
        let each = (found.rotation - none.rotation) / count;
        report.add(PART, &format!("with tunnels, {name}: per tunnel"), each * 1e6, "us")?;
        report.add(PART, &format!("waiting, {name}"), found.waiting * 100.0, "% of a core")?;
    }
    report.add(PART, "as many new connections", busy.opening * 1e3, "ms")?;
    report.add(
        PART,
        "a rotation with streams, to that",
        busy.rotation / busy.opening,
        "",
    )?;
    report.add(
        PART,
        "a rotation with idle tunnels, to that",
        idle.rotation / busy.opening,
        "",
    )
}

fn median(size: Size, tunnels: Tunnels) -> Result<Found> {
    let found = (0..size.rotations)
        .map(|_| look(size, tunnels))
        .collect::<Result<Vec<_>>>()?;
    let middle = |value: fn(&Found) -> f64| {
        let mut values: Vec<_> = found.iter().map(value).collect();
        watchword_benches::median(&mut values).unwrap_or_default()
    };
    Ok(Found {
        rotation: middle(|found| found.rotation),
        waiting: middle(|found| found.waiting),
        opening: middle(|found| found.opening),
    })
}

fn look(size: Size, tunnels: Tunnels) -> Result<Found> {
    let bed = Bed::start(&format!("certificates: {{ttl: {}s}}", size.lifetime))?;
    let rotations = rotations(bed.mesh.output());
    let mut samples = Samples::default();
    samples.take(&bed)?;
    let held = open(&bed, tunnels, size.tunnels)?;
    samples.take(&bed)?;
    let opening = samples.spent(samples.first()?, samples.last()?);
    if tunnels == Tunnels::Idle {
        // All but a few share connections, which is what the metric counts.
        let kept = bed.metric("web", "watchword_tunnels_active")?;
        let least = (OWN + size.tunnels.saturating_sub(OWN).div_ceil(MAX_LANES)) as u64;
        ensure!(kept >= least, "only {kept} connections are idle");
    }
    ensure!(
        rotations.try_recv().is_err(),
        "certificates were replaced before all was open: this machine is too busy"
    );
    let settled = Instant::now();
    let mut replaced = Vec::new();
    while replaced.len() < SERVICES.len() {
        replaced.extend(samples.take_until(&bed, &rotations)?);
    }
    let (first, last) = (replaced.first().context("two")?, replaced.last().context("two")?);
    let (begin, end) = (*first - BEFORE, *last + AFTER);
    while Instant::now() < end {
        let another = samples.take_until(&bed, &rotations)?;
        ensure!(another.is_none(), "a second rotation came too early");
    }
    ensure!(
        begin > settled + BEFORE,
        "too little time before the rotation: this machine is too busy"
    );
    let waiting = samples.spent(settled, begin) / (begin - settled).as_secs_f64();
    let rotation = samples.spent(begin, end) - waiting * (end - begin).as_secs_f64();
    held.map_or(Ok(()), Held::close)?;
    Ok(Found {
        rotation,
        waiting,
        opening,
    })
}

fn open(bed: &Bed, tunnels: Tunnels, count: usize) -> Result<Option<Held>> {
    if tunnels == Tunnels::None {
        return Ok(None);
    }
    let held = bed.hold(count)?;
    if tunnels == Tunnels::Busy {
        return Ok(Some(held));
    }
    held.close()?;
    bed.wait_until_idle()?;
    Ok(None)
}

/// When each sidecar says that it has a new certificate, from now on.
fn rotations(output: &Output) -> Receiver<Instant> {
    let (sender, receiver) = channel();
    for service in SERVICES {
        let (output, sender) = (output.clone(), sender.clone());
        let is_new = move |line: &str| {
            line.contains("new certificate") && line.contains(&format!("id=spiffe://example.org/{service} "))
        };
        let mut known = output.text().lines().filter(|line| is_new(line)).count();
        // It ends with the mesh.
        std::thread::spawn(move || {
            loop {
                let count = Cell::new(0);
                let is_next = |line: &str| {
                    count.set(count.get() + usize::from(is_new(line)));
                    count.get() > known
                };
                let found = output.wait_for("a new certificate", is_next);
                if found.is_err() || sender.send(Instant::now()).is_err() {
                    return;
                }
                known += 1;
            }
        });
    }
    receiver
}

/// CPU time of both sidecars over time.
#[derive(Default)]
struct Samples {
    taken: Vec<(Instant, f64)>,
}

impl Samples {
    fn take(&mut self, bed: &Bed) -> Result<()> {
        self.taken.push((Instant::now(), bed.cpu()?.iter().sum()));
        Ok(())
    }

    /// A sample, after a moment or when a certificate was replaced.
    fn take_until(&mut self, bed: &Bed, rotations: &Receiver<Instant>) -> Result<Option<Instant>> {
        let replaced = match rotations.recv_timeout(SAMPLE) {
            Ok(at) => Some(at),
            Err(RecvTimeoutError::Timeout) => None,
            Err(error) => return Err(error).context("the mesh has ended"),
        };
        self.take(bed)?;
        Ok(replaced)
    }

    fn first(&self) -> Result<Instant> {
        Ok(self.taken.first().context("no sample")?.0)
    }

    fn last(&self) -> Result<Instant> {
        Ok(self.taken.last().context("no sample")?.0)
    }

    /// Between two moments, by the samples next to them.
    fn spent(&self, from: Instant, to: Instant) -> f64 {
        let at = |moment: Instant| {
            let after = self.taken.partition_point(|(at, _)| *at < moment);
            self.taken
                .get(after)
                .or(self.taken.last())
                .map_or(0.0, |(_, spent)| *spent)
        };
        at(to) - at(from)
    }
}
