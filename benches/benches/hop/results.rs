//! Medians over the rounds, their table, and the share that is promised.

use std::fs;
use std::io::Write as _;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::contenders::{CONTENDERS, Contender};
use crate::load::{Load, Seen};
use crate::mesh::HTTP_RULE;
use crate::network::Cores;
use crate::pair::Form;

/// Watchword's CPU per request, to that of the best pair of Envoys that both
/// speak HTTP, as in a mesh of Envoys.
const LIMIT: f64 = 0.5;

/// One load on one contender.
#[derive(Clone, Copy)]
pub(crate) struct Run {
    pub(crate) contender: Contender,
    pub(crate) round: usize,
    pub(crate) load: Load,
    /// Microseconds per request of the client's and the server's side.
    pub(crate) cpu: [f64; 2],
    pub(crate) seen: Seen,
}

impl Run {
    fn both(&self) -> f64 {
        self.cpu.iter().sum()
    }
}

/// All runs.
pub(crate) struct Results {
    cores: Cores,
    runs: Vec<Run>,
}

impl Results {
    pub(crate) fn new(cores: Cores) -> Self {
        Self {
            cores,
            runs: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, run: Run) {
        self.runs.push(run);
    }

    /// The table, on standard output.
    pub(crate) fn show(&self) -> Result<()> {
        let mut out = std::io::stdout().lock();
        writeln!(out, "\ncores: {}", self.cores.name())?;
        for connections in self.connections() {
            let some = if connections == 1 { "connection" } else { "connections" };
            writeln!(
                out,
                "\n{connections:>2} {some:<29} CPU us/request: client  server    both  requests/s    p50 us    p99 us"
            )?;
            for contender in CONTENDERS {
                let median = |value: fn(&Run) -> f64| self.median(contender, connections, value);
                let spent = match contender {
                    Contender::Plain => format!("{:>7} {:>7} {:>7}", "-", "-", "-"),
                    _ => format!(
                        "{:>7.1} {:>7.1} {:>7.1}",
                        median(|run| run.cpu[0]),
                        median(|run| run.cpu[1]),
                        median(Run::both)
                    ),
                };
                writeln!(
                    out,
                    "   {:<44} {spent}  {:>10.0} {:>9.0} {:>9.0}",
                    contender.name(),
                    median(|run| run.seen.per_second),
                    median(|run| run.seen.p50),
                    median(|run| run.seen.p99)
                )?;
            }
            let (best, share) = self.share(connections);
            let verdict = if share > LIMIT { "MISSED" } else { "kept" };
            writeln!(
                out,
                "   Watchword's CPU to that of \"{}\": {share:.2} ({verdict}: at most {LIMIT})",
                best.name()
            )?;
            let half = Contender::Envoy(Form::Tcp);
            writeln!(
                out,
                "   beside it, to that of \"{}\", of which one side alone knows HTTP, as of ours: {:.2}",
                half.name(),
                self.to(half, connections)
            )?;
        }
        Ok(())
    }

    /// Everything as JSON, under the target folder. Whether the limit is kept.
    pub(crate) fn write(&self) -> Result<bool> {
        let program = std::env::current_exe()?;
        // target/release/deps/hop-…
        let target = program
            .ancestors()
            .nth(3)
            .context("a benchmark lies in target/release/deps")?;
        let folder = target.join("hop");
        fs::create_dir_all(&folder)?;
        let file = folder.join(format!("{}.json", self.cores.name()));
        let shares: Vec<_> = self
            .connections()
            .into_iter()
            .map(|count| (count, self.share(count)))
            .collect();
        let is_kept = shares.iter().all(|(_, (_, share))| *share <= LIMIT);
        let text = json!({
            "httpRule": HTTP_RULE,
            "cores": self.cores.name(),
            "limit": LIMIT,
            "shares": shares.iter().map(|(connections, (best, share))| {
                json!({
                    "connections": connections,
                    "best": best.name(),
                    "share": share,
                    "toClientAsTcp": self.to(Contender::Envoy(Form::Tcp), *connections),
                })
            }).collect::<Vec<_>>(),
            "runs": self.runs.iter().map(as_json).collect::<Vec<_>>(),
        });
        fs::write(&file, format!("{text:#}\n"))?;
        writeln!(std::io::stdout(), "\nall runs: {}", file.display())?;
        Ok(is_kept)
    }

    /// The pair of Envoys for HTTP that spends least, and what Watchword spends
    /// to that.
    fn share(&self, connections: usize) -> (Contender, f64) {
        let forms = [Form::Http1, Form::Http2].map(Contender::Envoy);
        let spent = |contender: &Contender| self.median(*contender, connections, Run::both);
        let best = forms
            .into_iter()
            .min_by(|one, other| spent(one).total_cmp(&spent(other)));
        let best = best.unwrap_or(Contender::Plain);
        (best, self.to(best, connections))
    }

    /// What Watchword spends, to what `other` does.
    fn to(&self, other: Contender, connections: usize) -> f64 {
        let spent = |contender| self.median(contender, connections, Run::both);
        spent(Contender::Watchword) / spent(other)
    }

    fn median(&self, contender: Contender, connections: usize, value: fn(&Run) -> f64) -> f64 {
        let runs = self
            .runs
            .iter()
            .filter(|run| run.contender == contender && run.load.connections == connections);
        let mut values: Vec<_> = runs.map(value).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// In the order in which they were measured first.
    fn connections(&self) -> Vec<usize> {
        let mut counts: Vec<_> = self.runs.iter().map(|run| run.load.connections).collect();
        counts.sort_unstable();
        counts.dedup();
        counts
    }
}

fn as_json(run: &Run) -> Value {
    json!({
        "contender": run.contender.name(),
        "round": run.round,
        "connections": run.load.connections,
        "requests": run.load.requests,
        "clientMicroseconds": run.cpu[0],
        "serverMicroseconds": run.cpu[1],
        "perSecond": run.seen.per_second,
        "p50Microseconds": run.seen.p50,
        "p99Microseconds": run.seen.p99,
    })
}
