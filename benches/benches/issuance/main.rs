//! What issuance costs: through the control plane as a share of what Vault
//! itself gives, with the embedded authority, for one caller, for a mesh that
//! starts all at once, and for many proxies that are just connected.
//!
//! Starts real control planes and a real Vault. A table for people goes to
//! standard error, a line of JSON per number to standard output. The share is
//! a gate: the exit status is 1 when it is missed.
//!
//! Invariant: what is compared ran in turns in the same run, with as many
//! callers, each of which makes a fresh key and request for each certificate.

mod connected;
mod direct;
mod plane;
mod start;
mod throughput;

use std::process::ExitCode;

use anyhow::Result;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use watchword_benches::report::Report;

/// How much is done.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    /// Rounds of each contender, in turns.
    pub(crate) rounds: usize,
    /// Certificates per round.
    pub(crate) round: usize,
    /// Certificates, one after the other.
    pub(crate) single: usize,
    /// Workloads that start at once.
    pub(crate) start: usize,
    /// Proxies that are connected.
    pub(crate) connected: usize,
    /// Whether it is long enough for its numbers to be judged.
    pub(crate) judges: bool,
}

/// As the README says.
const FULL: Size = Size {
    rounds: 5,
    round: 1_000,
    single: 500,
    start: 2_000,
    connected: 10_000,
    judges: true,
};
/// As a test, to see that all of it works.
const SMALL: Size = Size {
    rounds: 1,
    round: 40,
    single: 20,
    start: 60,
    connected: 100,
    judges: false,
};

/// Who asks for certificates at the same time.
pub(crate) const CALLERS: usize = 8;
/// Whom certificates are for.
pub(crate) const WORKLOAD: &str = "spiffe://example.org/web";

const PARTS: [&str; 4] = ["vault", "embedded", "start", "connected"];

fn main() -> Result<ExitCode> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    // Cargo says --bench; without it this is a test.
    let is_benchmark = words.iter().any(|word| word == "--bench");
    let filters: Vec<_> = words.iter().filter(|word| !word.starts_with('-')).collect();
    let is_wanted = |part: &str| filters.is_empty() || filters.iter().any(|filter| part.contains(filter.as_str()));
    let size = if is_benchmark { FULL } else { SMALL };
    let mut report = Report::default();
    watchword_benches::raise_limits();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for part in PARTS.into_iter().filter(|part| is_wanted(part)) {
        runtime.block_on(async {
            match part {
                "vault" => throughput::of_vault(size, &mut report).await,
                "embedded" => throughput::of_the_embedded_authority(size, &mut report).await,
                "start" => start::measure(size, &mut report).await,
                _ => connected::measure(size, &mut report).await,
            }
        })?;
    }
    report.show()?;
    Ok(ExitCode::from(u8::from(report.has_failed())))
}

/// A fresh key, and the request that a sidecar would make with it.
pub(crate) fn request() -> Result<(KeyPair, rcgen::CertificateSigningRequest)> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(WORKLOAD.try_into()?)];
    let request = params.serialize_request(&key)?;
    Ok((key, request))
}
