//! What was measured: every run, and medians over the rounds.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use watchword_benches::median;

use crate::contenders::Contender;
use crate::gates::Verdict;
use crate::load::{Latency, Load};
use crate::machine;
use crate::memory::Memory;
use crate::network::Cores;
use crate::plot;
use crate::scale::Case;

/// One load on one contender, in one round.
#[derive(Clone, Copy)]
pub(crate) struct Run {
    pub(crate) contender: Contender,
    pub(crate) round: usize,
    pub(crate) load: Load,
    /// Microseconds per request, connection or MB, of the client's and the
    /// server's side.
    pub(crate) cpu: [f64; 2],
    /// Requests, connections or MB.
    pub(crate) units: f64,
    pub(crate) per_second: f64,
    pub(crate) latency: Option<Latency>,
}

impl Run {
    /// Microseconds of both sides.
    pub(crate) fn both(&self) -> f64 {
        self.cpu.iter().sum()
    }

    pub(crate) fn per_second(&self) -> f64 {
        self.per_second
    }

    pub(crate) fn p50(&self) -> f64 {
        self.latency(|latency| latency.p50)
    }

    pub(crate) fn p99(&self) -> f64 {
        self.latency(|latency| latency.p99)
    }

    pub(crate) fn p999(&self) -> f64 {
        self.latency(|latency| latency.p999)
    }

    fn latency(&self, of: fn(&Latency) -> f64) -> f64 {
        self.latency.as_ref().map_or(f64::NAN, of)
    }
}

/// All of it.
pub(crate) struct Results {
    pub(crate) cores: Cores,
    pub(crate) machine: Value,
    runs: Vec<Run>,
    pub(crate) memory: Vec<Memory>,
    pub(crate) scale: Vec<Case>,
}

impl Results {
    pub(crate) fn new(cores: Cores) -> Result<Self> {
        Ok(Self {
            cores,
            machine: machine::describe()?,
            runs: Vec::new(),
            memory: Vec::new(),
            scale: Vec::new(),
        })
    }

    pub(crate) fn add(&mut self, run: Run) {
        self.runs.push(run);
    }

    /// The loads, in the order in which they were measured first.
    pub(crate) fn loads(&self) -> Vec<Load> {
        let mut loads = Vec::new();
        for run in &self.runs {
            if !loads.contains(&run.load) {
                loads.push(run.load);
            }
        }
        loads
    }

    /// Over the rounds; nothing where the contender did not take part.
    pub(crate) fn median(&self, contender: Contender, load: &str, value: fn(&Run) -> f64) -> Option<f64> {
        let runs = self.runs.iter();
        let runs = runs.filter(|run| run.contender == contender && run.load.name() == load);
        median(&mut runs.map(value).collect::<Vec<_>>())
    }

    /// Everything as JSON, under the target folder.
    pub(crate) fn write(&self, verdicts: &[Verdict]) -> Result<()> {
        let file = folder()?.join(format!("{}.json", self.cores.name()));
        let text = json!({
            "machine": self.machine,
            "cores": self.cores.name(),
            "gates": verdicts.iter().map(Verdict::as_json).collect::<Vec<_>>(),
            "runs": self.runs.iter().map(as_json).collect::<Vec<_>>(),
            "memory": self.memory.iter().map(Memory::as_json).collect::<Vec<_>>(),
            "scale": self.scale.iter().map(Case::as_json).collect::<Vec<_>>(),
        });
        fs::write(&file, format!("{text:#}\n"))?;
        let mut out = std::io::stdout();
        writeln!(out, "\nall runs: {}", file.display())?;
        let drawing = file.with_extension("svg");
        if plot::draw(self, &drawing)? {
            writeln!(out, "plot: {}", drawing.display())?;
        }
        Ok(())
    }
}

/// Where results are kept.
pub(crate) fn folder() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    // target/release/deps/hop-…
    let target = program
        .ancestors()
        .nth(3)
        .context("a benchmark lies in target/release/deps")?;
    let folder = target.join("hop");
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn as_json(run: &Run) -> Value {
    json!({
        "contender": run.contender.name(),
        "round": run.round,
        "load": run.load.name(),
        "unit": run.load.unit(),
        "units": run.units,
        "clientMicroseconds": run.cpu[0],
        "serverMicroseconds": run.cpu[1],
        "perSecond": run.per_second,
        "latencyMicroseconds": run.latency.map(Latency::as_json),
    })
}
