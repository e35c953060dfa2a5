//! Numbers as they are found, and as a table at the end.

use std::io::Write;

use anyhow::Result;
use serde_json::json;

/// All numbers of a run.
#[derive(Debug, Default)]
pub struct Report {
    rows: Vec<Row>,
}

/// What was promised of a number.
#[derive(Debug, Clone, Copy)]
enum Promise {
    AtMost(f64),
    AtLeast(f64),
}

impl Promise {
    fn is_kept(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtMost(limit) => format!("at most {limit}"),
            Self::AtLeast(limit) => format!("at least {limit}"),
        }
    }
}

#[derive(Debug)]
struct Row {
    part: &'static str,
    name: String,
    value: f64,
    unit: &'static str,
    promise: Option<Promise>,
}

impl Row {
    fn has_failed(&self) -> bool {
        self.promise.is_some_and(|promise| !promise.is_kept(self.value))
    }
}

impl Report {
    /// A number; at once as a line of JSON.
    ///
    /// # Errors
    /// When standard output is gone.
    pub fn add(&mut self, part: &'static str, name: &str, value: f64, unit: &'static str) -> Result<()> {
        self.push(Row {
            part,
            name: name.to_owned(),
            value,
            unit,
            promise: None,
        })
    }

    /// A count that is promised to be at most `limit`.
    ///
    /// # Errors
    /// When standard output is gone.
    pub fn gate(&mut self, part: &'static str, name: &str, value: f64, limit: f64) -> Result<()> {
        self.push(Row {
            part,
            name: name.to_owned(),
            value,
            unit: "",
            promise: Some(Promise::AtMost(limit)),
        })
    }

    /// A ratio that is promised to be at least `limit`.
    ///
    /// # Errors
    /// When standard output is gone.
    pub fn gate_at_least(&mut self, part: &'static str, name: &str, value: f64, limit: f64) -> Result<()> {
        self.push(Row {
            part,
            name: name.to_owned(),
            value,
            unit: "",
            promise: Some(Promise::AtLeast(limit)),
        })
    }

    fn push(&mut self, row: Row) -> Result<()> {
        let line = json!({
            "part": row.part, "name": row.name, "value": row.value, "unit": row.unit,
            "promise": row.promise.map(Promise::text)
        });
        writeln!(std::io::stdout(), "{line}")?;
        self.rows.push(row);
        Ok(())
    }

    /// The table.
    ///
    /// # Errors
    /// When standard error is gone.
    pub fn show(&self) -> Result<()> {
        let mut out = std::io::stderr().lock();
        let mut part = "";
        for row in &self.rows {
            if row.part != part {
                part = row.part;
                writeln!(out, "\n{part}")?;
            }
            let verdict = match row.promise.map(Promise::text) {
                Some(text) if row.has_failed() => format!("   MISSED: {text}"),
                Some(text) => format!("   ({text})"),
                None => String::new(),
            };
            writeln!(out, "  {:<66} {:>10.2} {}{verdict}", row.name, row.value, row.unit)?;
        }
        Ok(())
    }

    /// Whether a promise was not kept.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.rows.iter().any(Row::has_failed)
    }
}
