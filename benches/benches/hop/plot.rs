//! The plot: a panel of bars for each measure, the contenders below each other.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::contenders::{Contender, HTTP, TCP};
use crate::load::Load;
use crate::memory::Memory;
use crate::results::{Results, Run};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const COLUMNS: usize = 3;
/// Of a panel, in pixels.
const WIDTH: u32 = 430;
const HEADER: i32 = 40;
const BAR: i32 = 22;
/// Of the names before the bars, and the numbers behind them.
const NAMES: i32 = 165;
const NUMBERS: i32 = 60;
const TITLE: i32 = 44;

const OURS: RGBColor = RGBColor(0xd9, 0x5f, 0x02);
const THEIRS: RGBColor = RGBColor(0x75, 0x8f, 0xb5);
const BESIDE: RGBColor = RGBColor(0xb8, 0xb8, 0xb8);

/// A measure.
struct Panel {
    title: String,
    bars: Vec<(Contender, f64)>,
}

/// Draws what was measured; nothing where nothing was that can be drawn.
pub(crate) fn draw(results: &Results, file: &Path) -> Result<bool> {
    let panels = panels(results);
    if panels.is_empty() {
        return Ok(false);
    }
    let most = panels.iter().map(|panel| panel.bars.len()).max().unwrap_or_default();
    let height = HEADER + 14 + BAR * i32::try_from(most)?;
    let rows = panels.len().div_ceil(COLUMNS);
    let size = (
        WIDTH * u32::try_from(COLUMNS)?,
        u32::try_from(TITLE + height * i32::try_from(rows)?)?,
    );
    let mut text = String::new();
    draw_all(results, &panels, rows, SVGBackend::with_string(&mut text, size)).map_err(|why| anyhow!("{why}"))?;
    std::fs::write(file, text)?;
    Ok(true)
}

type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

fn draw_all<'a>(results: &Results, panels: &[Panel], rows: usize, backend: SVGBackend<'a>) -> Drawn<'a> {
    let all = backend.into_drawing_area();
    all.fill(&WHITE)?;
    let (title, below) = all.split_vertically(TITLE);
    let text = format!(
        "One hop, both proxies, medians (cores: {}). Orange: Watchword. Grey: without TLS. Less is better, where nothing else is said.",
        results.cores.name()
    );
    let style = label(17).pos(Pos::new(HPos::Left, VPos::Center));
    title.draw_text(&text, &style, (14, TITLE / 2))?;
    for (area, panel) in below.split_evenly((rows, COLUMNS)).iter().zip(panels) {
        draw_panel(area, panel)?;
    }
    all.present()
}

fn draw_panel<'a>(area: &Area<'a>, panel: &Panel) -> Drawn<'a> {
    let title = label(14).pos(Pos::new(HPos::Left, VPos::Center));
    area.draw_text(&panel.title, &title, (14, HEADER / 2))?;
    let (name, number) = (
        label(12).pos(Pos::new(HPos::Right, VPos::Center)),
        label(12).pos(Pos::new(HPos::Left, VPos::Center)),
    );
    let most = panel.bars.iter().map(|(_, value)| *value).fold(0.0, f64::max);
    let (width, _) = area.dim_in_pixel();
    let room = f64::from(width.cast_signed() - NAMES - NUMBERS);
    let mut top = HEADER;
    for (contender, value) in &panel.bars {
        let middle = top + BAR / 2;
        let end = NAMES + (value / most * room).max(1.0) as i32;
        area.draw_text(contender.name(), &name, (NAMES - 6, middle))?;
        let bar = [(NAMES, top + 3), (end, top + BAR - 3)];
        area.draw(&Rectangle::new(bar, color(*contender).filled()))?;
        area.draw_text(&short(*value), &number, (end + 5, middle))?;
        top += BAR;
    }
    Ok(())
}

fn label(size: i32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&BLACK)
}

fn color(contender: Contender) -> RGBColor {
    match contender {
        Contender::Watchword | Contender::WatchwordHttp => OURS,
        Contender::Floor | Contender::Plain => BESIDE,
        _ if contender.is_redirected() => BESIDE,
        _ => THEIRS,
    }
}

fn short(value: f64) -> String {
    let digits = if value < 100.0 { 1 } else { 0 };
    format!("{value:.digits$}")
}

/// All measures of which something is known.
fn panels(results: &Results) -> Vec<Panel> {
    let mut panels = Vec::new();
    for load in results.loads() {
        let name = load.name();
        let over = name.split(", ").nth(1).unwrap_or_default();
        let both = Run::both as fn(&Run) -> f64;
        let mut add = |title: String, of: &[Contender], value| {
            let bars = of
                .iter()
                .filter_map(|one| Some((*one, results.median(*one, &name, value)?)));
            panels.push(Panel {
                title,
                bars: bars.collect(),
            });
        };
        let proxies = &TCP[..TCP.len() - 1];
        match load {
            Load::Requests { .. } => {
                add(format!("CPU us per request: {over}"), proxies, both);
                add(format!("HTTP: CPU us per request: {over}"), &HTTP, both);
            }
            Load::Steady { .. } => {
                add(format!("p50 us: {over}"), &TCP, Run::p50);
                add(format!("p99 us: {over}"), &TCP, Run::p99);
            }
            Load::Connections { .. } => {
                add("CPU us per new connection".to_owned(), proxies, both);
                add(
                    "new connections per second: more is better".to_owned(),
                    proxies,
                    Run::per_second,
                );
            }
            Load::Bulk { .. } => {
                add("CPU us per MB".to_owned(), proxies, both);
                add("MB per second: more is better".to_owned(), proxies, Run::per_second);
            }
        }
    }
    for (title, value) in [
        ("MiB resident of both proxies at first", at_first as fn(&Memory) -> f64),
        ("KiB of an idle connection", |memory| memory.idle.1),
        ("KiB of an active connection, at most", |memory| memory.active.1),
    ] {
        let bars = results.memory.iter().map(|memory| (memory.contender, value(memory)));
        let bars: Vec<_> = bars.collect();
        if !bars.is_empty() {
            let title = title.to_owned();
            panels.push(Panel { title, bars });
        }
    }
    panels
}

fn at_first(memory: &Memory) -> f64 {
    memory.resident.iter().sum::<f64>() / 1024.0
}
