//! Instructions of a test in this program, counted by running it once more
//! under valgrind: processors of virtual machines often count none.

use std::env;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// How often a test is to do its work.
const TIMES: &str = "WATCHWORD_COSTS_TIMES";

/// As [`of`] said, or once.
pub(crate) fn wished() -> u32 {
    env::var(TIMES).map_or(1, |times| times.parse().expect("a number of times"))
}

/// Of all that it takes to run a test of [`work`](super::work) with its work
/// done so many times.
pub(crate) fn of(test: &str, times: u32) -> Result<u64> {
    let mut valgrind = Command::new("valgrind");
    valgrind
        .args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"])
        .arg(env::current_exe()?)
        .args(["--exact", &format!("work::alone::{test}")])
        .env(TIMES, times.to_string());
    let output = valgrind
        .output()
        .context("can't run valgrind: install the package of that name, as scripts/test does")?;
    let said = String::from_utf8_lossy(&output.stderr);
    let passed = String::from_utf8_lossy(&output.stdout).contains("1 passed");
    ensure!(output.status.success() && passed, "{test} under valgrind: {said}");
    let line = said.lines().find(|line| line.contains("I   refs:"));
    let count = line.and_then(|line| line.split_whitespace().last());
    let count = count.with_context(|| format!("no count in what valgrind said: {said}"))?;
    Ok(count.replace(',', "").parse()?)
}
