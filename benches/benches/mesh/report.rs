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
        let name = name.to_owned();
        self.push(Row {
            part,
            name,
            value,
            unit,
            limit: None,
        })
    }

    /// A count that is promised to be at most `limit`.
    pub(crate) fn gate(&mut self, part: &'static str, name: &str, value: f64, limit: f64) -> Result<()> {
        let name = name.to_owned();
        self.push(Row {
            part,
            name,
            value,
            unit: "",
            limit: Some(limit),
        })
    }

    fn push(&mut self, row: Row) -> Result<()> {
        let line = json!({
            "part": row.part, "name": row.name, "value": row.value, "unit": row.unit, "limit": row.limit
        });
        writeln!(std::io::stdout(), "{line}")?;
        self.rows.push(row);
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
