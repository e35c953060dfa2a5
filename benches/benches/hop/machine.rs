//! On what, and with which versions, something was measured.

use std::fs;
use std::process::Command;

use anyhow::Result;
use serde_json::{Value, json};
use watchword_tests::{binary, tool};

pub(crate) fn describe() -> Result<Value> {
    let cpu = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split(':').nth(1));
    let envoy = tool("envoy")?.display().to_string();
    let watchword = binary("watchword")?.display().to_string();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    Ok(json!({
        "cpu": model.map(str::trim),
        "cores": cores,
        "kernel": says(&["uname", "-sr"]),
        "date": says(&["date", "--utc", "--iso-8601=seconds"]),
        "watchword": says(&[&watchword, "--version"]),
        "envoy": says(&[&envoy, "--version"]),
        "haproxy": says(&["haproxy", "-v"]),
        "nginx": says(&["nginx", "-v"]),
        "h2load": says(&["h2load", "--version"]),
        "wrk": says(&["wrk", "--version"]),
        "curl": says(&["curl", "--version"]),
        "openssl": says(&["openssl", "version"]),
    }))
}

/// The first line that a program says of itself, on whichever stream, without
/// where it lies on this machine.
fn says(command: &[&str]) -> Option<String> {
    let (program, words) = command.split_first()?;
    let output = Command::new(program).args(words).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    let line = text.lines().find(|line| !line.trim().is_empty())?;
    Some(line.replace(program, "").trim().to_owned())
}
