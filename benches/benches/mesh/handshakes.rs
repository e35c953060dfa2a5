//! How many handshakes new connections cost.

use anyhow::Result;

use crate::Size;
use crate::bed::{Bed, added};
use watchword_benches::report::Report;

const PART: &str = "handshakes";
/// Issue 4's promise, per 1,000 new connections.
const LIMIT: f64 = 10.0;
const CONCURRENCY: &str = "8";

pub(crate) fn measure(size: Size, report: &mut Report) -> Result<()> {
    let bed = Bed::start("")?;
    let made = || bed.metric("web", "watchword_tunnel_handshakes_total");
    let before = made()?;
    let cpu = bed.cpu()?;
    bed.load(&["short", &size.short.to_string(), CONCURRENCY])?;
    let spent: f64 = added(cpu, bed.cpu()?).iter().sum();
    let handshakes = made()? - before;
    let thousands = size.short as f64 / 1000.0;
    report.add(
        PART,
        "new connections, 8 at a time, from no tunnel on",
        size.short as f64,
        "",
    )?;
    report.add(
        PART,
        "CPU of both sidecars per connection",
        spent * 1e6 / size.short as f64,
        "us",
    )?;
    report.add(PART, "handshakes", handshakes as f64, "")?;
    report.gate(PART, "handshakes per 1,000", handshakes as f64 / thousands, LIMIT)
}
