//! Instructions of some work, counted by running a test of this program once
//! more under valgrind: processors of virtual machines often count none.

use std::env;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{COSTS, Cost};

/// What that test is to do, and how often.
const WORK: &str = "WATCHWORD_COSTS_WORK";
const TIMES: &str = "WATCHWORD_COSTS_TIMES";

/// The work that [`of`] asks for; without valgrind each once.
#[test]
fn the_work_is_done() {
    let times = env::var(TIMES).map_or(1, |times| times.parse().expect("a number of times"));
    let wished = env::var(WORK).ok();
    let is_wished = |cost: &&Cost| wished.as_ref().is_none_or(|wished| wished == cost.what);
    COSTS.iter().filter(is_wished).for_each(|cost| (cost.work)(times));
}

/// Of all that it takes to do it so many times, the test itself included.
pub(crate) fn of(cost: &Cost, times: u32) -> Result<u64> {
    let mut valgrind = Command::new("valgrind");
    valgrind
        .args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"])
        .arg(env::current_exe()?)
        .args(["--exact", "instructions::the_work_is_done"])
        .env(WORK, cost.what)
        .env(TIMES, times.to_string());
    let output = valgrind
        .output()
        .context("can't run valgrind: install the package of that name, as scripts/test does")?;
    let said = String::from_utf8_lossy(&output.stderr);
    let passed = String::from_utf8_lossy(&output.stdout).contains("1 passed");
    ensure!(
        output.status.success() && passed,
        "{} under valgrind: {said}",
        cost.what
    );
    let line = said.lines().find(|line| line.contains("I   refs:"));
    let count = line.and_then(|line| line.split_whitespace().last());
    let count = count.with_context(|| format!("no count in what valgrind said: {said}"))?;
    Ok(count.replace(',', "").parse()?)
}
