//! What each contender's proxies hold, in processes of their own: at first, for
//! an idle connection, and at most for one at work.

use std::fs;

use anyhow::Result;
use serde_json::{Value, json};
use watchword_benches::held::Held;
use watchword_benches::kernel::{memory_of, peak_of};
use watchword_benches::{most_connections, pass};

use crate::asked::Asked;
use crate::contenders::{Bed, Contender, RIVALS};
use crate::go_on;
use crate::load::Load;

/// Connections at work ask so often, each: at fixed times, since one that is
/// done earlier than others would be closed before all are open.
const PER_SECOND: usize = 2;

/// In KiB.
#[derive(Clone, Copy)]
pub(crate) struct Memory {
    pub(crate) contender: Contender,
    /// The client's and the server's side, before any connection but those of
    /// the checks.
    pub(crate) resident: [f64; 2],
    /// Connections that were idle, and what both sides hold for one.
    pub(crate) idle: (usize, f64),
    /// Connections at work, and what both sides hold for one at most.
    pub(crate) active: (usize, f64),
}

impl Memory {
    pub(crate) fn as_json(&self) -> Value {
        json!({
            "contender": self.contender.name(),
            "clientResidentKiB": self.resident[0],
            "serverResidentKiB": self.resident[1],
            "idleConnections": self.idle.0,
            "perIdleConnectionKiB": self.idle.1,
            "activeConnections": self.active.0,
            "perActiveConnectionKiB": self.active.1,
        })
    }
}

/// All that are compared, one after the other.
pub(crate) fn measure(asked: &Asked) -> Result<Vec<Memory>> {
    let contenders = [&[Contender::Watchword][..], &RIVALS, &[Contender::Floor]].concat();
    contenders.into_iter().map(|contender| one(asked, contender)).collect()
}

fn one(asked: &Asked, contender: Contender) -> Result<Memory> {
    go_on()?;
    let (resident, idle) = idle(asked, contender)?;
    go_on()?;
    Ok(Memory {
        contender,
        resident,
        idle,
        active: active(asked, contender)?,
    })
}

fn idle(asked: &Asked, contender: Contender) -> Result<([f64; 2], (usize, f64))> {
    let bed = Bed::start(asked.cores, &[contender])?;
    let count = asked.size.idle.min(most_connections());
    let before = resident(&bed, contender)?;
    let held: Held = bed.hold(contender, count)?;
    pass(asked.size.settle);
    let open = resident(&bed, contender)?;
    drop(held);
    Ok((before, (count, each(before, open, count))))
}

fn active(asked: &Asked, contender: Contender) -> Result<(usize, f64)> {
    let bed = Bed::start(asked.cores, &[contender])?;
    let (connections, seconds) = asked.size.active;
    let connections = connections.min(most_connections());
    let before = resident(&bed, contender)?;
    let pids = bed.pids(contender)?.unwrap_or_default();
    for pid in pids {
        // Begins the peak anew. Where we may not, since it runs as somebody
        // else, it counts from its start, which took less.
        let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
    }
    let load = Load::Steady {
        connections,
        per_second: connections * PER_SECOND,
        seconds,
    };
    bed.load(contender, load)?;
    let [client, server] = pids;
    let peak = [peak_of(client)?, peak_of(server)?];
    Ok((connections, each(before, peak, connections)))
}

fn resident(bed: &Bed, contender: Contender) -> Result<[f64; 2]> {
    let [client, server] = bed.pids(contender)?.unwrap_or_default();
    Ok([memory_of(client)?, memory_of(server)?])
}

/// What was added on both sides, by connection.
fn each(before: [f64; 2], after: [f64; 2], count: usize) -> f64 {
    (after.iter().sum::<f64>() - before.iter().sum::<f64>()) / count as f64
}
