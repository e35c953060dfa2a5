//! `watchword policy test`: decisions against those that are expected.

mod cases;

use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;
use watchword_control_plane::mesh_file::read_text_file;
use watchword_policy::Diagnostic;

use super::judge::{Answer, Judge, Told};
use super::{Files, MISTAKE};
use crate::say;
use crate::status::Format;
use cases::Case;

/// How a case went.
struct Tried<'c> {
    case: &'c Case,
    answer: Answer,
}

/// What programs are told.
#[derive(Serialize)]
struct Report {
    passed: usize,
    failed: usize,
    cases: Vec<ReportedCase>,
}

#[derive(Serialize)]
struct ReportedCase {
    name: String,
    line: u64,
    passed: bool,
    expected: &'static str,
    expected_rule: Option<String>,
    decided: Told,
}

/// Tries all cases, and prints those that differ and a summary. Exit status 1
/// when one differs, 2 when there is a mistake in a file.
pub(super) fn run(cases: &Path, files: &Files) -> ExitCode {
    match try_all(cases, files) {
        Ok(all_passed) if all_passed => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(findings) => {
            findings.iter().for_each(say::plain);
            ExitCode::from(MISTAKE)
        }
    }
}

fn try_all(path: &Path, files: &Files) -> Result<bool, Vec<Diagnostic>> {
    let file = path.display().to_string();
    let cases = read_text_file(path)
        .map_err(|error| vec![error])
        .and_then(|text| cases::read(&file, &text));
    // Mistakes of both are told at once.
    let (cases, judge) = match (cases, Judge::load(files)) {
        (Ok(cases), Ok(judge)) => (cases, judge),
        (cases, judge) => return Err([cases.err(), judge.err()].into_iter().flatten().flatten().collect()),
    };
    judge.warnings.iter().for_each(say::plain);
    let mut tried = Vec::new();
    let mut mistakes = Vec::new();
    for case in &cases {
        match judge.answer(&case.question) {
            Ok(answer) => tried.push(Tried { case, answer }),
            Err(mistake) => mistakes.push(Diagnostic::error(&file, case.at, mistake)),
        }
    }
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    let failed = tried.iter().filter(|tried| !tried.passed()).count();
    // The exit status tells it too, where nobody reads standard output.
    let _ = print(&file, &tried, failed, files.output);
    Ok(failed == 0)
}

fn print(file: &str, tried: &[Tried<'_>], failed: usize, format: Format) -> std::io::Result<()> {
    let passed = tried.len() - failed;
    if format == Format::Json {
        let cases = tried.iter().map(Tried::reported).collect();
        return say::out(serde_json::to_string_pretty(&Report { passed, failed, cases })?);
    }
    for tried in tried.iter().filter(|tried| !tried.passed()) {
        say::out(tried.complaint(file))?;
    }
    say::out(format!("{passed} passed, {failed} failed"))
}

impl Tried<'_> {
    fn passed(&self) -> bool {
        let outcome = &self.answer.outcome;
        let rule = self.case.rule.as_deref();
        outcome.is_allowed() == self.case.expect.is_allow() && rule.is_none_or(|rule| outcome.is_by(rule))
    }

    fn complaint(&self, file: &str) -> String {
        let Case {
            name, at, expect, rule, ..
        } = self.case;
        let by = rule
            .as_ref()
            .map_or_else(String::new, |rule| format!(" by rule `{rule}`"));
        format!(
            "{file}:{}:{}: {name}: expected {}{by}, but it is {}",
            at.line,
            at.column,
            expect.as_str(),
            self.answer.outcome
        )
    }

    fn reported(&self) -> ReportedCase {
        ReportedCase {
            name: self.case.name.clone(),
            line: self.case.at.line,
            passed: self.passed(),
            expected: self.case.expect.as_str(),
            expected_rule: self.case.rule.clone(),
            decided: self.answer.told(),
        }
    }
}

#[cfg(test)]
mod tests;
