//! Certificates per second, with as many callers on each side.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use tokio::task::JoinSet;
use watchword_benches::median;
use watchword_benches::report::Report;
use watchword_tests::{Vault, process};

use crate::direct::Direct;
use crate::plane::{Plane, attest};
use crate::{CALLERS, Size};

/// What the issue asks for.
const SHARE: f64 = 0.9;

/// The callers of a control plane.
struct Callers {
    plane: Plane,
}

impl Callers {
    fn start(authority: &str) -> Result<Self> {
        Ok(Self {
            plane: Plane::start(authority)?,
        })
    }

    /// How long so many certificates take all callers together, each with a
    /// connection of its own. (One without a certificate is closed after 30 s.)
    async fn round(&self, count: usize) -> Result<Duration> {
        let tokens = Arc::new(self.plane.tokens(count).await?);
        let next = Arc::new(AtomicUsize::new(0));
        let began = Instant::now();
        let mut callers = JoinSet::new();
        for _ in 0..CALLERS {
            let channel = self.plane.channel(self.plane.anonymous()?).await?;
            let (tokens, next) = (Arc::clone(&tokens), Arc::clone(&next));
            callers.spawn(async move {
                while let Some(token) = tokens.get(next.fetch_add(1, Ordering::Relaxed)) {
                    attest(&channel, token.clone()).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(caller) = callers.join_next().await {
            caller??;
        }
        Ok(began.elapsed())
    }

    /// The times of certificates, one after the other, shortest first.
    async fn one_by_one(&self, count: usize) -> Result<Vec<Duration>> {
        let mut times = Vec::with_capacity(count);
        let tokens = self.plane.tokens(count).await?;
        let channel = self.plane.channel(self.plane.anonymous()?).await?;
        for token in tokens {
            let began = Instant::now();
            attest(&channel, token).await?;
            times.push(began.elapsed());
        }
        times.sort();
        Ok(times)
    }
}

/// How long so many certificates take Vault's own callers.
async fn direct_round(callers: &mut Vec<Direct>, count: usize) -> Result<Duration> {
    let next = Arc::new(AtomicUsize::new(0));
    let began = Instant::now();
    let mut running = JoinSet::new();
    for mut caller in callers.drain(..) {
        let next = Arc::clone(&next);
        running.spawn(async move {
            while next.fetch_add(1, Ordering::Relaxed) < count {
                caller.sign().await?;
            }
            anyhow::Ok(caller)
        });
    }
    while let Some(caller) = running.join_next().await {
        callers.push(caller??);
    }
    Ok(began.elapsed())
}

pub(crate) async fn of_vault(size: Size, report: &mut Report) -> Result<()> {
    let vault = Vault::start()?;
    give_vault_a_core(&vault)?;
    let token = vault.token_file(&[])?;
    let auth = format!("{{tokenFile: {}}}", token.display());
    let through = Callers::start(&vault.authority(&auth))?;
    let mut direct = Vec::new();
    for _ in 0..CALLERS {
        direct.push(Direct::connect(&vault).await?);
    }
    let (mut rates, mut direct_rates, mut shares) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..size.rounds {
        let alone = rate(size.round, direct_round(&mut direct, size.round).await?);
        let ours = rate(size.round, through.round(size.round).await?);
        rates.push(ours);
        direct_rates.push(alone);
        shares.push(ours / alone);
    }
    let part = "certificates that Vault signs";
    report.add(
        part,
        "per second, from Vault directly",
        median(&mut direct_rates).unwrap_or_default(),
        "/s",
    )?;
    report.add(
        part,
        "per second, through the control plane",
        median(&mut rates).unwrap_or_default(),
        "/s",
    )?;
    let share = median(&mut shares).unwrap_or_default();
    if size.judges {
        report.gate_at_least(part, "the share of the latter, median of the rounds", share, SHARE)?;
    } else {
        report.add(part, "the share of the latter", share, "")?;
    }
    share_all_cores()?;
    show_times(part, &through.one_by_one(size.single).await?, report)
}

/// In life Vault has machines of its own: here it gets the first core, and
/// callers and control planes that start from now on the others.
fn give_vault_a_core(vault: &Vault) -> Result<()> {
    let cores = std::thread::available_parallelism()?.get();
    ensure!(cores > 1, "one core for Vault and one for all others are needed");
    let (mut vaults, mut others) = (CpuSet::new(), CpuSet::new());
    vaults.set(0)?;
    for core in 1..cores {
        others.set(core)?;
    }
    let address = vault.address().replace("https://", "-dev-listen-address=");
    let vault = process(&[&address])?;
    for thread in std::fs::read_dir(format!("/proc/{vault}/task"))? {
        let thread = thread?.file_name().to_string_lossy().parse()?;
        sched_setaffinity(Pid::from_raw(thread), &vaults)?;
    }
    Ok(sched_setaffinity(Pid::from_raw(0), &others)?)
}

/// All cores for everybody again.
fn share_all_cores() -> Result<()> {
    let mut all = CpuSet::new();
    for core in 0..CpuSet::count() {
        all.set(core)?;
    }
    Ok(sched_setaffinity(Pid::from_raw(0), &all)?)
}

pub(crate) async fn of_the_embedded_authority(size: Size, report: &mut Report) -> Result<()> {
    let part = "certificates of the embedded authority";
    let callers = Callers::start("authority: embedded")?;
    let (mut rates, mut per_core) = (Vec::new(), Vec::new());
    for _ in 0..size.rounds {
        let before = callers.plane.cpu()?;
        let took = callers.round(size.round).await?;
        // The tokens are made before the clock starts, but by the same process.
        let used = callers
            .plane
            .cpu()?
            .saturating_sub(before)
            .max(Duration::from_millis(10));
        rates.push(rate(size.round, took));
        per_core.push(rate(size.round, used));
    }
    report.add(part, "per second", median(&mut rates).unwrap_or_default(), "/s")?;
    report.add(
        part,
        "per second of the control plane's CPU, join tokens included",
        median(&mut per_core).unwrap_or_default(),
        "/s",
    )?;
    show_times(part, &callers.one_by_one(size.single).await?, report)
}

fn show_times(part: &'static str, times: &[Duration], report: &mut Report) -> Result<()> {
    for (name, share) in [("one at a time, p50", 0.5), ("one at a time, p99", 0.99)] {
        report.add(part, name, 1e3 * quantile(times, share), "ms")?;
    }
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "small counts")]
fn rate(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

/// In seconds, of sorted times.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "small counts"
)]
fn quantile(times: &[Duration], share: f64) -> f64 {
    let index = (times.len() as f64 * share) as usize;
    times.get(index).or(times.last()).map_or(0.0, Duration::as_secs_f64)
}
