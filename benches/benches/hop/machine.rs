//! On what, and with which versions, something was measured.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
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

/// Loads have our priority, and contenders sessions of their own: where one side
/// gives way to the other, a new connection takes up to twice the CPU
/// (docs/performance.md).
pub(crate) fn check_priority() -> Result<()> {
    let stat = fs::read_to_string("/proc/self/stat").context("/proc/self/stat")?;
    let process = nice_of_process(&stat).context("/proc/self/stat has no nice value")?;
    // Without it (CONFIG_SCHED_AUTOGROUP) sessions have no priority.
    let session = match fs::read_to_string("/proc/self/autogroup") {
        Ok(group) => nice_of_session(&group).context("/proc/self/autogroup has no nice value")?,
        Err(_) => 0,
    };
    ensure!(
        (process, session) == (0, 0),
        "loads would not have the priority of the proxies: this process has nice {process}, its session {session} \
         (sched(7)); start it with nice 0, and in a session of its own, as by setsid(1)"
    );
    Ok(())
}

/// Of /proc/PID/stat (proc(5)): the nineteenth field; the second, a name in
/// brackets, may hold anything.
fn nice_of_process(stat: &str) -> Option<i8> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(16)?.parse().ok()
}

/// Of /proc/PID/autogroup: "/autogroup-7 nice 0".
fn nice_of_session(group: &str) -> Option<i8> {
    group.rsplit_once("nice ")?.1.trim().parse().ok()
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
