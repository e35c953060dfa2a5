//! Numbers as they are found, and as a table at the end.

use std::io::Write;

use anyhow::Result;
use serde_json::json;

#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

struct Row {
    part: &'static str,
    name: String,
    value: f64,
    unit: &'static str,
    /// The most that it may be.
    limit: Option<f64>,
}

impl Row {
    fn has_failed(&self) -> bool {
        self.limit.is_some_and(|limit| self.value > limit)
    }
}

impl Report {
    /// A number; at once as a line of JSON.
    pub(crate) fn add(&mut self, part: &'static str, name: &str, value: f64, unit: &'static str) -> Result<()> {
        self.push(part, name, value, unit, None)
    }

    /// A number that is promised to be at most `limit`.
    pub(crate) fn gate(
        &mut self,
        (part, name): (&'static str, &str),
        value: f64,
        unit: &'static str,
        limit: f64,
    ) -> Result<()> {
        self.push(part, name, value, unit, Some(limit))
    }

    fn push(
        &mut self,
        part: &'static str,
        name: &str,
        value: f64,
        unit: &'static str,
        limit: Option<f64>,
    ) -> Result<()> {
        let line = json!({"part": part, "name": name, "value": value, "unit": unit, "limit": limit});
        writeln!(std::io::stdout(), "{line}")?;
        self.rows.push(Row {
            part,
            name: name.to_owned(),
            value,
            unit,
            limit,
        });
        Ok(())
    }

    /// The table.
    pub(crate) fn show(&self) -> Result<()> {
        let mut out = std::io::stderr().lock();
        let mut part = "";
        for row in &self.rows {
            if row.part != part {
                part = row.part;
                writeln!(out, "\n{part}")?;
            }
            let verdict = match row.limit {
                Some(limit) if row.has_failed() => format!("   TOO MUCH: at most {limit}"),
                Some(limit) => format!("   (at most {limit})"),
                None => String::new(),
            };
            writeln!(out, "  {:<66} {:>10.2} {}{verdict}", row.name, row.value, row.unit)?;
        }
        Ok(())
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.rows.iter().any(Row::has_failed)
    }
}
