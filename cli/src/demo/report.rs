//! What the demo promised, and what was seen: for people as it goes, or as one
//! JSON document at the end.

use std::time::{Duration, Instant};

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use crate::say;

/// A claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// As programs know it.
    pub(crate) name: &'static str,
    /// What is claimed.
    pub(crate) promised: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Result {
    name: &'static str,
    ok: bool,
    promised: &'static str,
    seen: String,
    ms: u64,
}

/// All steps so far.
#[derive(Debug)]
pub(crate) struct Report {
    json: bool,
    steps: Vec<Result>,
}

#[derive(Serialize)]
struct Document<'a> {
    steps: &'a [Result],
    ok: bool,
}

impl Report {
    /// With `json` nothing is printed before [`Self::finish`].
    pub(crate) fn new(json: bool) -> Self {
        Self {
            json,
            steps: Vec::new(),
        }
    }

    /// Does what proves a claim. An error is what was seen instead.
    pub(crate) async fn step(&mut self, step: Step, proof: impl Future<Output = anyhow::Result<String>>) {
        self.begin(step);
        let began = Instant::now();
        let result = proof.await;
        self.end(step, result, began.elapsed());
    }

    /// A claim that can't be looked at.
    pub(crate) fn not_tried(&mut self, step: Step, because: &str) {
        self.begin(step);
        let result = Err(anyhow::anyhow!("not tried, since {because}"));
        self.end(step, result, Duration::ZERO);
    }

    /// Says what is being done.
    pub(crate) fn progress(&self, what: &str) {
        if !self.json {
            say::plain(format!("== {what}"));
        }
    }

    fn begin(&self, step: Step) {
        self.progress(step.name);
        self.tell("promised", Style::new(), step.promised);
    }

    fn end(&mut self, step: Step, result: anyhow::Result<String>, took: Duration) {
        let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let (ok, seen) = match result {
            Ok(seen) => (true, seen),
            Err(error) => (false, format!("{error:#}")),
        };
        let (label, colour) = match ok {
            true => ("seen", AnsiColor::Green),
            false => ("NOT SO", AnsiColor::Red),
        };
        self.tell(label, colour.on_default(), &format!("{seen} ({ms} ms)"));
        self.steps.push(Result {
            name: step.name,
            ok,
            promised: step.promised,
            seen,
            ms,
        });
    }

    fn tell(&self, label: &str, style: Style, text: &str) {
        if !self.json {
            say::plain(format!("   {style}{label:<9}{style:#} {text}"));
        }
    }

    /// Sums up on standard output. Whether everything was as promised.
    pub(crate) fn finish(&self) -> std::io::Result<bool> {
        let kept = self.steps.iter().filter(|step| step.ok).count();
        let ok = kept == self.steps.len();
        if self.json {
            let document = Document { steps: &self.steps, ok };
            say::out(serde_json::to_string_pretty(&document)?)?;
        } else {
            say::out(format!("{kept} of {} steps as promised", self.steps.len()))?;
        }
        Ok(ok)
    }
}
