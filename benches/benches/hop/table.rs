//! The table, on standard output.

use std::io::Write;

use anyhow::Result;

use crate::contenders::{Contender, HTTP, TCP};
use crate::gates::Verdict;
use crate::load::Load;
use crate::results::{Results, Run};

/// A column: its title, its width, and what it shows with how many digits.
type Column = (&'static str, usize, fn(&Run) -> f64, usize);

/// Medians of all loads, and what became of the gates.
pub(crate) fn show(results: &Results, verdicts: &[Verdict]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\ncores: {}", results.cores.name())?;
    for load in results.loads() {
        show_load(&mut out, results, load)?;
    }
    show_memory(&mut out, results)?;
    show_scale(&mut out, results)?;
    if verdicts.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{:<48} {:<28} {:>7}", "Watchword's", "to that of", "ratio")?;
    for verdict in verdicts {
        let is_kept = if verdict.is_kept { "kept" } else { "MISSED" };
        let aim = if verdict.is_aim { " (an aim)" } else { "" };
        writeln!(
            out,
            "   {:<45} {:<28} {:>7.2}  {is_kept}: {}{aim}",
            verdict.what, verdict.against, verdict.value, verdict.bound
        )?;
    }
    Ok(())
}

fn show_load(out: &mut impl Write, results: &Results, load: Load) -> Result<()> {
    let columns = columns(load);
    write!(out, "\n{:<32}", title(load))?;
    for (title, width, _, _) in &columns {
        write!(out, " {title:>width$}")?;
    }
    writeln!(out)?;
    for contender in TCP.into_iter().chain(HTTP) {
        let name = load.name();
        if results.median(contender, &name, Run::per_second).is_none() {
            continue;
        }
        write!(out, "   {:<29}", contender.name())?;
        for (title, width, value, digits) in &columns {
            let median = results.median(contender, &name, *value).unwrap_or(f64::NAN);
            let is_cpu = ["client", "server", "both"].contains(title);
            if is_cpu && contender == Contender::Plain {
                write!(out, " {:>width$}", "-")?;
            } else {
                write!(out, " {median:>width$.digits$}")?;
            }
        }
        writeln!(out)?;
    }
    Ok(())
}

fn show_memory(out: &mut impl Write, results: &Results) -> Result<()> {
    let Some(first) = results.memory.first() else {
        return Ok(());
    };
    let (idle, active) = (
        format!("of {} idle", first.idle.0),
        format!("of {} active", first.active.0),
    );
    writeln!(
        out,
        "\n{:<32} {:>8} {:>8} {:>14} {:>14}",
        "memory: MiB, KiB of each", "client", "server", idle, active
    )?;
    for memory in &results.memory {
        let [client, server] = memory.resident.map(|kibibytes| kibibytes / 1024.0);
        writeln!(
            out,
            "   {:<29} {client:>8.1} {server:>8.1} {:>14.1} {:>14.1}",
            memory.contender.name(),
            memory.idle.1,
            memory.active.1
        )?;
    }
    Ok(())
}

fn show_scale(out: &mut impl Write, results: &Results) -> Result<()> {
    if results.scale.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{:<32} {:>8}", "scale: CPU us/request", "both")?;
    for case in &results.scale {
        writeln!(
            out,
            "   {:<29} {:>8.1}",
            format!("{} {}", case.count, case.what),
            case.cpu()
        )?;
    }
    Ok(())
}

fn title(load: Load) -> String {
    match load {
        Load::Steady { .. } => load.name(),
        _ => format!("{}: CPU us/{}", load.name(), load.unit()),
    }
}

fn columns(load: Load) -> Vec<Column> {
    let digits = if matches!(load, Load::Bulk { .. }) { 0 } else { 1 };
    // Opening connections is a part of what loads at fixed times cost.
    if matches!(load, Load::Steady { .. }) {
        return vec![
            ("p50 us", 8, Run::p50, 0),
            ("p99 us", 8, Run::p99, 0),
            ("p99.9 us", 8, Run::p999, 0),
        ];
    }
    let per_second = match load {
        Load::Bulk { .. } => "MB/s",
        Load::Connections { .. } => "per second",
        Load::Requests { .. } | Load::Steady { .. } => "requests/s",
    };
    vec![
        ("client", 8, |run| run.cpu[0], digits),
        ("server", 8, |run| run.cpu[1], digits),
        ("both", 8, Run::both, digits),
        (per_second, 10, Run::per_second, 0),
    ]
}
