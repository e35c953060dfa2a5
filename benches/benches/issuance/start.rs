//! A mesh that starts all at once: how long until everybody has a certificate,
//! and how evenly that was spread over Vault.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::task::JoinSet;
use watchword_benches::report::Report;
use watchword_tests::{MOUNT, Vault};

use crate::Size;
use crate::plane::{Plane, attest};

const PART: &str = "a start of all workloads at once, signed by Vault";
/// Parts of the time in which Vault was at work.
const SLICES: usize = 10;

pub(crate) async fn measure(size: Size, report: &mut Report) -> Result<()> {
    let vault = Vault::start()?;
    let auth = format!("{{tokenFile: {}}}", vault.token_file(&[])?.display());
    let plane = Arc::new(Plane::start(&vault.authority(&auth))?);
    let tokens = plane.tokens(size.start).await?;
    let client = plane.anonymous()?;
    let began = Instant::now();
    let mut workloads = JoinSet::new();
    for token in tokens {
        let (plane, client) = (Arc::clone(&plane), client.clone());
        workloads.spawn(async move {
            let mut failures = 0_u32;
            loop {
                let attempt = async { attest(&plane.channel(client.clone()).await?, token.clone()).await };
                if attempt.await.is_ok() {
                    return (failures, began.elapsed());
                }
                // As a sidecar does without a certificate.
                let pause = watchword_identity::schedule::pause_after(failures + 1, Duration::ZERO, 0.5);
                failures += 1;
                tokio::time::sleep(pause).await;
            }
        });
    }
    let (mut failures, mut last) = (0, Duration::ZERO);
    while let Some(workload) = workloads.join_next().await {
        let (failed, done) = workload?;
        failures += failed;
        last = last.max(done);
    }
    report.add(
        PART,
        &format!("seconds until the last of {} has one", size.start),
        last.as_secs_f64(),
        "s",
    )?;
    report.add(PART, "tries that failed and were made again", f64::from(failures), "")?;
    let times = signing_times(&vault)?;
    let (first, end) = times.first().zip(times.last()).context("Vault signed nothing")?;
    report.add(PART, "seconds in which Vault signed them", end - first, "s")?;
    report.add(
        PART,
        "the busiest tenth of that time, against an even load",
        busiest(&times),
        "times",
    )
}

/// When Vault answered, in seconds of the day, in order.
fn signing_times(vault: &Vault) -> Result<Vec<f64>> {
    let log = std::fs::read_to_string(vault.folder().join("audit.log"))?;
    let mut times = Vec::new();
    for line in log.lines() {
        let line: Value = serde_json::from_str(line)?;
        let path = line["request"]["path"].as_str().unwrap_or_default();
        if line["type"] == "response" && path.starts_with(&format!("{MOUNT}/sign/")) {
            times.push(seconds_of_day(line["time"].as_str().context("a time")?).context("a time as in RFC 3339")?);
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// Of `2026-01-31T12:34:56.789Z`.
fn seconds_of_day(time: &str) -> Option<f64> {
    let clock = time.split('T').nth(1)?.trim_end_matches('Z');
    let mut parts = clock.split(':').map(|part| part.parse::<f64>().ok());
    Some(3600.0 * parts.next()?? + 60.0 * parts.next()?? + parts.next()??)
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "small counts"
)]
fn busiest(times: &[f64]) -> f64 {
    let Some((first, last)) = times.first().zip(times.last()) else {
        return 0.0;
    };
    let slice = (last - first).max(1e-9) / SLICES as f64;
    let mut counts = [0_usize; SLICES];
    for time in times {
        let index = (((time - first) / slice) as usize).min(SLICES - 1);
        if let Some(count) = counts.get_mut(index) {
            *count += 1;
        }
    }
    counts.iter().max().copied().unwrap_or_default() as f64 * SLICES as f64 / times.len() as f64
}
