//! The processes of a mesh, and what the kernel counts for one.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use watchword_tests::Mesh;

/// The process of the first sidecar of a service.
///
/// # Errors
/// When the mesh has none.
pub fn sidecar(mesh: &Mesh, service: &str) -> Result<i64> {
    let (record, name) = (mesh.record()?, format!("{service}-1"));
    let replicas = record["replicas"].as_array().context("a record has replicas")?;
    let found = replicas.iter().find(|replica| replica["name"] == name.as_str());
    found.and_then(|replica| replica["proxyPid"].as_i64()).context(name)
}

/// Seconds of CPU of all threads of a process; those that have ended do not
/// count.
///
/// # Errors
/// When it is gone.
pub fn cpu_of(pid: i64) -> Result<f64> {
    let mut nanoseconds = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        // One that ends just now has no file any more.
        let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) else {
            continue;
        };
        nanoseconds += text
            .split(' ')
            .next()
            .context("schedstat has numbers")?
            .parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanoseconds).as_secs_f64())
}

/// Resident memory of a process in KiB.
///
/// # Errors
/// When it is gone.
pub fn memory_of(pid: i64) -> Result<f64> {
    status_of(pid, "VmRSS:")
}

/// The most that it had resident in KiB, from its start or since it was begun
/// anew (`clear_refs`).
///
/// # Errors
/// When it is gone.
pub fn peak_of(pid: i64) -> Result<f64> {
    status_of(pid, "VmHWM:")
}

fn status_of(pid: i64, name: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kibibytes = line.and_then(|rest| rest.trim().strip_suffix(" kB"));
    Ok(kibibytes.with_context(|| format!("a process has {name}"))?.parse()?)
}
