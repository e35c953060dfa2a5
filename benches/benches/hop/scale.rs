//! Whether a request costs Watchword the same beside many connections, and
//! under many rules.

use anyhow::Result;
use serde_json::{Value, json};
use watchword_benches::kernel::cpu_of;
use watchword_benches::{median, most_connections};

use crate::asked::Asked;
use crate::contenders::Contender;
use crate::go_on;
use crate::load::Load;
use crate::mesh::Sidecars;

const CONNECTIONS: usize = 64;
/// As many as the loads of the other parts have at least.
const REQUESTS: usize = 10_000;

/// A case: so many of something, and microseconds per request, by round.
pub(crate) struct Case {
    pub(crate) what: &'static str,
    pub(crate) count: usize,
    rounds: Vec<f64>,
}

impl Case {
    fn new(what: &'static str, count: usize) -> Self {
        Self {
            what,
            count,
            rounds: Vec::new(),
        }
    }

    /// Of both sides.
    pub(crate) fn cpu(&self) -> f64 {
        median(&mut self.rounds.clone()).unwrap_or(f64::NAN)
    }

    pub(crate) fn as_json(&self) -> Value {
        json!({"beside": self.what, "count": self.count, "microsecondsPerRequest": self.rounds})
    }
}

/// Other connections that are open.
pub(crate) const OPEN: &str = "open connections";
/// Rules for the server.
pub(crate) const RULES: &str = "rules";

pub(crate) fn measure(asked: &Asked) -> Result<Vec<Case>> {
    let mut cases = connections(asked)?;
    cases.extend(rules(asked)?);
    Ok(cases)
}

fn connections(asked: &Asked) -> Result<Vec<Case>> {
    let sidecars = Sidecars::start(asked.cores, 2)?;
    let counts = asked
        .size
        .beside
        .map(|count| count.min(most_connections() - CONNECTIONS));
    let mut cases = counts.map(|count| Case::new(OPEN, count));
    for _ in 0..asked.size.rounds {
        for case in &mut cases {
            go_on()?;
            let _held = sidecars.hold(case.count)?;
            case.rounds.push(spent(&sidecars)?);
        }
    }
    Ok(cases.into())
}

/// Both meshes run at once, so that they can take turns.
fn rules(asked: &Asked) -> Result<Vec<Case>> {
    let mut meshes = Vec::new();
    for count in asked.size.rules {
        meshes.push((Sidecars::start(asked.cores, count)?, Case::new(RULES, count)));
    }
    for _ in 0..asked.size.rounds {
        for (sidecars, case) in &mut meshes {
            go_on()?;
            case.rounds.push(spent(sidecars)?);
        }
    }
    Ok(meshes.into_iter().map(|(_, case)| case).collect())
}

/// Microseconds of both sidecars per request.
fn spent(sidecars: &Sidecars) -> Result<f64> {
    let load = Load::Requests {
        connections: CONNECTIONS,
        requests: REQUESTS,
    };
    let cpu = || -> Result<f64> {
        let [client, server] = sidecars.pids();
        Ok(cpu_of(client)? + cpu_of(server)?)
    };
    sidecars.load(Contender::Watchword, load.warm_up())?;
    let before = cpu()?;
    sidecars.load(Contender::Watchword, load)?;
    Ok((cpu()? - before) * 1e6 / REQUESTS as f64)
}
