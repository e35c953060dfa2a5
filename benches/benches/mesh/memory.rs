//! What idle connections hold, and what is given back after them.

use std::time::Duration;

use anyhow::Result;
use watchword_tests::wait_until;

use crate::Size;
use crate::bed::{Bed, SERVICES, added};
use watchword_benches::report::Report;
use watchword_benches::{most_connections, pass};

const PART: &str = "memory";
/// For what was opened last to come to rest.
const SETTLED: Duration = Duration::from_secs(5);
/// For the CPU time of idleness.
const WINDOW: Duration = Duration::from_secs(5);

pub(crate) fn measure(size: Size, report: &mut Report) -> Result<()> {
    let bed = Bed::start("")?;
    let count = size.idle.min(most_connections());
    report.add(PART, "idle connections", count as f64, "")?;
    bed.load(&["short", "100", "8"])?;
    bed.wait_until_idle()?;
    let before = bed.memory()?;
    show(report, "resident, a warm tunnel or two", before)?;

    let held = bed.hold(count)?;
    pass(SETTLED);
    let open = bed.memory()?;
    show(report, "resident, all of them open and idle", open)?;
    let each = added(before, open).map(|kibibytes| kibibytes / count as f64);
    for (service, kibibytes) in SERVICES.iter().zip(each) {
        report.add(PART, &format!("per connection, {service}'s sidecar"), kibibytes, "KiB")?;
    }
    report.add(PART, "per connection, both", each.iter().sum(), "KiB")?;
    let cpu = bed.cpu()?;
    pass(WINDOW);
    for (service, spent) in SERVICES.iter().zip(added(cpu, bed.cpu()?)) {
        let share = 100.0 * spent / WINDOW.as_secs_f64();
        report.add(
            PART,
            &format!("CPU while they are idle, {service}'s sidecar"),
            share,
            "% of a core",
        )?;
    }

    held.close()?;
    bed.wait_until_idle()?;
    let kept = bed.metric("web", "watchword_tunnels_active")?;
    report.add(
        PART,
        "idle connections of tunnels kept after they closed",
        kept as f64,
        "",
    )?;
    show(report, "resident after they closed", bed.memory()?)?;
    if size.waits_for_the_end {
        wait_until_unused(&bed)?;
        show(report, "resident after the tunnels closed, too", bed.memory()?)?;
    }
    Ok(())
}

/// Idle tunnels are closed after a minute.
fn wait_until_unused(bed: &Bed) -> Result<()> {
    pass(Duration::from_secs(60));
    wait_until("idle tunnels to be closed", || {
        SERVICES.iter().all(|service| {
            bed.metric(service, "watchword_tunnels_active")
                .is_ok_and(|open| open == 0)
        })
    })
}

fn show(report: &mut Report, name: &str, kibibytes: [f64; 2]) -> Result<()> {
    for (service, kibibytes) in SERVICES.iter().zip(kibibytes) {
        report.add(PART, &format!("{name}, {service}'s sidecar"), kibibytes / 1024.0, "MiB")?;
    }
    Ok(())
}
