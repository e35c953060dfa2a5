//! What was measured, side by side. Pure.

use comfy_table::{CellAlignment, Table, presets};
use serde_json::json;

use super::load::{Kind, Numbers};

/// Each measure, by round.
#[derive(Debug, Default)]
pub(super) struct Collected([Vec<f64>; MEASURES.len()]);

/// Key in JSON, words, unit.
const MEASURES: [(&str, &str, &str); 7] = [
    ("p50_us", "p50, 1 connection", "us"),
    ("p99_us", "p99, 1 connection", "us"),
    ("p50_us_64", "p50, 64 connections", "us"),
    ("p99_us_64", "p99, 64 connections", "us"),
    ("requests_per_second", "requests per second", "/s"),
    ("connections_per_second", "new connections per second", "/s"),
    ("megabytes_per_second", "one stream", "MB/s"),
];

impl Collected {
    /// The numbers of one load.
    pub(super) fn add(&mut self, kind: Kind, numbers: &Numbers) {
        let [p50, p99, p50_64, p99_64, requests, connections, megabytes] = &mut self.0;
        match kind {
            Kind::Calls { connections: 1 } => {
                p50.push(numbers.p50);
                p99.push(numbers.p99);
            }
            Kind::Calls { .. } => {
                p50_64.push(numbers.p50);
                p99_64.push(numbers.p99);
                requests.push(numbers.per_second);
            }
            Kind::Connects => connections.push(numbers.per_second),
            Kind::Bytes => megabytes.push(numbers.per_second / 1e6),
        }
    }

    fn medians(&self) -> impl Iterator<Item = f64> {
        self.0.iter().map(|values| {
            let mut sorted = values.clone();
            sorted.sort_by(f64::total_cmp);
            sorted.get(sorted.len() / 2).copied().unwrap_or_default()
        })
    }
}

/// Measure, plain, hop, ratio.
fn rows(
    plain: &Collected,
    hop: &Collected,
) -> impl Iterator<Item = ((&'static str, &'static str, &'static str), f64, f64, f64)> {
    let both = plain.medians().zip(hop.medians());
    MEASURES.into_iter().zip(both).map(|(measure, (plain, hop))| {
        let ratio = if plain > 0.0 { hop / plain } else { 0.0 };
        (measure, plain, hop, ratio)
    })
}

/// For people. Numbers are medians of the rounds.
pub(super) fn table(plain: &Collected, hop: &Collected) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["", "PLAIN TCP", "MTLS HOP", "RATIO"]);
    for ((_, words, unit), plain, hop, ratio) in rows(plain, hop) {
        let number = |value: f64| format!("{value:.0} {unit}");
        table.add_row([words.to_owned(), number(plain), number(hop), format!("{ratio:.2}")]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.trim_fmt()
}

/// For programs.
pub(super) fn json(plain: &Collected, hop: &Collected) -> serde_json::Result<String> {
    let measures: serde_json::Map<_, _> = rows(plain, hop)
        .map(|((key, ..), plain, hop, ratio)| (key.to_owned(), json!({"plain": plain, "mtls": hop, "ratio": ratio})))
        .collect();
    serde_json::to_string_pretty(&measures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_stand_side_by_side() {
        let (mut plain, mut hop) = (Collected::default(), Collected::default());
        for (value, collected) in [(10.0, &mut plain), (30.0, &mut hop)] {
            for noise in [0.0, 1000.0, -5.0] {
                let numbers = Numbers {
                    p50: value + noise,
                    p99: value,
                    per_second: value * 1e6,
                };
                Kind::ALL.iter().for_each(|kind| collected.add(*kind, &numbers));
            }
        }
        let text = table(&plain, &hop);
        let line = text
            .lines()
            .find(|line| line.contains("p50, 1 connection"))
            .unwrap_or_default();
        assert!(
            line.split_whitespace()
                .eq("p50, 1 connection 10 us 30 us 3.00".split(' ')),
            "{text}"
        );
        let told: serde_json::Value = serde_json::from_str(&json(&plain, &hop).unwrap_or_default()).unwrap_or_default();
        assert_eq!(
            told["megabytes_per_second"],
            json!({"plain": 10.0, "mtls": 30.0, "ratio": 3.0})
        );
    }
}
