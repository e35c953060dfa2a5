//! Flame graphs: where the CPU time of both proxies goes, by `perf` and inferno
//! (<https://docs.rs/inferno>), which `scripts/bench-hop --flames` installs.
//!
//! Invariant: a graph is of one load alone. Its first frame is the side, whose
//! width is the side's share; frames of the kernel are marked `_[k]`.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use watchword_tests::{is_root, run, wait_until};

use crate::asked::Asked;
use crate::contenders::{Bed, Contender};
use crate::go_on;
use crate::load::Load;
use crate::results;

/// Those that are drawn.
const DRAWN: [Contender; 5] = [
    Contender::Watchword,
    Contender::Envoy,
    Contender::Haproxy,
    Contender::Nginx,
    Contender::Floor,
];
/// A second: no divisor of what timers have, or it would always meet the same.
const SAMPLES: &str = "997";
/// How stacks are walked: the programs have no frame pointers. With so many
/// bytes of each stack.
const STACKS: &str = "dwarf,16384";
/// How long a load is looked at.
const LONG_ENOUGH: Duration = Duration::from_secs(3);
/// Frames that are narrower, in per cent, are left out: a graph stays small.
const NARROWEST: &str = "0.2";

/// Draws a graph per load and contender, into a folder beside the results.
pub(crate) fn draw(asked: &Asked) -> Result<()> {
    ensure!(
        is_root(),
        "--flames looks into the kernel, which only root may: run it as root"
    );
    let folder = results::folder()?.join("flames");
    fs::create_dir_all(&folder)?;
    let bed = Bed::start(asked.cores, &DRAWN)?;
    bed.check()?;
    let is_at_full_speed = |load: &Load| !matches!(load, Load::Steady { .. });
    for load in asked.loads().into_iter().filter(is_at_full_speed) {
        for contender in DRAWN {
            go_on()?;
            let file = folder.join(format!(
                "{}.svg",
                slug(&format!("{} {}", load.name(), contender.name()))
            ));
            let drawn = graph(&bed, contender, load);
            fs::write(
                &file,
                drawn.context("scripts/bench-hop --flames installs what this runs")?,
            )?;
            writeln!(std::io::stdout(), "{}", file.display())?;
        }
    }
    Ok(())
}

/// `requests, 1 connection Watchword` is `requests-1-connection-watchword`.
fn slug(name: &str) -> String {
    let words = name.split(|letter: char| !letter.is_ascii_alphanumeric());
    let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    words.join("-").to_lowercase()
}

fn graph(bed: &Bed, contender: Contender, load: Load) -> Result<String> {
    let scratch = TempDir::new()?;
    let [client, server] = bed.pids(contender)?.context("a contender has proxies")?;
    bed.load(contender, load.warm_up())?;
    let samplers = [
        Sampler::start("client", client, scratch.path())?,
        Sampler::start("server", server, scratch.path())?,
    ];
    let began = Instant::now();
    while began.elapsed() < LONG_ENOUGH {
        go_on()?;
        bed.load(contender, load)?;
    }
    let mut stacks = String::new();
    for sampler in samplers {
        stacks.push_str(&sampler.end()?);
    }
    let folded = scratch.path().join("folded");
    fs::write(&folded, stacks)?;
    let mut draw = Command::new("inferno-flamegraph");
    draw.args(["--colors", "rust", "--deterministic", "--minwidth", NARROWEST])
        .args(["--title", &format!("{}: {}", contender.name(), load.name())])
        .arg(folded);
    run(&mut draw)
}

/// A `perf` that looks at one process. Dropped, it is ended.
struct Sampler {
    side: &'static str,
    perf: Child,
    data: PathBuf,
}

impl Sampler {
    fn start(side: &'static str, pid: i64, folder: &Path) -> Result<Self> {
        let data = folder.join(side);
        let perf = Command::new("perf")
            .args(["record", "--quiet", "--freq", SAMPLES, "--call-graph", STACKS])
            .args(["--pid", &pid.to_string(), "--output"])
            .arg(&data)
            .stdin(Stdio::null())
            .spawn()
            .context("perf")?;
        let sampler = Self { side, perf, data };
        // Its header is written once it looks.
        wait_until("perf to look", || {
            sampler.data.metadata().is_ok_and(|file| file.len() > 0)
        })?;
        Ok(sampler)
    }

    /// What it saw: a line for each stack, from the outside in, and how often.
    fn end(mut self) -> Result<String> {
        self.stop()?;
        let text = self.data.with_extension("text");
        let mut read = Command::new("perf");
        read.args(["script", "--force", "--input"]).arg(&self.data);
        fs::write(&text, run(&mut read)?)?;
        let folded = run(Command::new("inferno-collapse-perf").arg("--kernel").arg(&text))?;
        ensure!(!folded.is_empty(), "perf took no sample of the {}'s side", self.side);
        Ok(folded.lines().map(|line| format!("{};{line}\n", self.side)).collect())
    }

    fn stop(&mut self) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.perf.id())?), Signal::SIGINT)?;
        self.perf.wait()?;
        Ok(())
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        let _ = self.perf.kill();
        let _ = self.perf.wait();
    }
}
