//! The parts in which contenders take turns.

use std::time::Duration;

use anyhow::Result;
use watchword_benches::kernel::cpu_of;
use watchword_benches::pass;

use crate::asked::Asked;
use crate::contenders::{Bed, Contender, HTTP, TCP};
use crate::go_on;
use crate::load::{Load, Seen};
use crate::results::{Results, Run};

/// What ends a load is done by then.
const SETTLED: Duration = Duration::from_millis(50);

pub(crate) fn measure(asked: &Asked, results: &mut Results) -> Result<()> {
    let loads = asked.loads();
    if loads.is_empty() {
        return Ok(());
    }
    let has_requests = loads.iter().any(|load| !takers(*load, &HTTP).is_empty());
    let http: &[Contender] = if has_requests { &HTTP } else { &[] };
    let bed = Bed::start(asked.cores, &[&TCP, http].concat())?;
    bed.check()?;
    for round in 0..asked.size.rounds {
        for load in &loads {
            let contenders = takers(*load, &[&TCP[..], &HTTP].concat());
            let mut tallies: Vec<_> = contenders.iter().map(|_| Tally::default()).collect();
            for turn in 0..asked.size.turns * contenders.len() {
                go_on()?;
                // Nobody is always the first.
                let shift = round + turn / contenders.len();
                let index = (turn + shift) % contenders.len();
                tallies[index].add(&bed, contenders[index], *load)?;
            }
            for (contender, tally) in contenders.into_iter().zip(tallies) {
                results.add(tally.run(contender, round, *load));
            }
        }
    }
    bed.check()
}

/// Of these, those that a load is made on. Contenders that know HTTP are there
/// for what requests cost them.
fn takers(load: Load, of: &[Contender]) -> Vec<Contender> {
    let is_requests = matches!(load, Load::Requests { .. });
    let is_bulk = matches!(load, Load::Bulk { .. });
    let takes = of
        .iter()
        .filter(|contender| is_requests || TCP.contains(contender))
        .filter(|contender| !(is_bulk && contender.is_least()));
    takes.copied().collect()
}

/// What a contender's turns in a round come to. They are short, so that a minute
/// in which others use the machine is everybody's.
#[derive(Default)]
struct Tally {
    /// Seconds of the client's and the server's side.
    cpu: [f64; 2],
    /// What that was for.
    units: f64,
    seen: Seen,
}

impl Tally {
    fn add(&mut self, bed: &Bed, contender: Contender, load: Load) -> Result<()> {
        bed.load(contender, load.warm_up())?;
        let begun = cpu(bed, contender)?;
        // What it takes to open the connections is taken off: it is measured by
        // itself, and dearer for some than for others.
        let opening = load.opening();
        if let Some(opening) = opening {
            bed.load(contender, opening)?;
        }
        let before = cpu(bed, contender)?;
        let seen = bed.load(contender, load)?;
        let after = cpu(bed, contender)?;
        for side in [0, 1] {
            let opened = opening.map_or(0.0, |_| before[side] - begun[side]);
            self.cpu[side] += after[side] - before[side] - opened;
        }
        self.units += seen.units - opening.map_or(0, Load::requests) as f64;
        self.seen.add(seen);
        Ok(())
    }

    fn run(self, contender: Contender, round: usize, load: Load) -> Run {
        Run {
            contender,
            round,
            load,
            cpu: self.cpu.map(|spent| spent * 1e6 / self.units),
            units: self.seen.units,
            per_second: self.seen.per_second(),
            latency: self.seen.latency(),
        }
    }
}

/// Seconds of CPU of the proxies: the client's side, the server's.
fn cpu(bed: &Bed, contender: Contender) -> Result<[f64; 2]> {
    let Some([client, server]) = bed.pids(contender)? else {
        return Ok([0.0; 2]);
    };
    pass(SETTLED);
    Ok([cpu_of(client)?, cpu_of(server)?])
}
