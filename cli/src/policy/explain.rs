//! `watchword policy explain`: what is decided on one connection or request,
//! and which rule does it.

use std::process::ExitCode;

use super::judge::{Answer, Judge, because};
use super::question::{Flags, Question};
use super::{Files, MISTAKE};
use crate::say;
use crate::status::Format;

/// Prints the decision. Exit status 0 when it is allowed, 1 when it is denied
/// or refused, 2 when there is a mistake in files or flags.
pub(super) fn run(flags: Flags, files: &Files) -> ExitCode {
    let judge = match Judge::load(files) {
        Ok(judge) => judge,
        Err(findings) => {
            findings.iter().for_each(say::plain);
            return ExitCode::from(MISTAKE);
        }
    };
    judge.warnings.iter().for_each(say::plain);
    let question = Question::from(flags);
    if files.mesh_file.is_none() && question.protocol.is_none() && question.sent.is_none() {
        say::note(format!(
            "port {} is taken for a tcp port: --mesh-file or --protocol says what it speaks",
            question.port
        ));
    }
    let answer = match judge.answer(&question) {
        Ok(answer) => answer,
        Err(mistake) => {
            say::error(mistake);
            return ExitCode::from(MISTAKE);
        }
    };
    // The exit status tells it too, where nobody reads standard output.
    let _ = match files.output {
        Format::Table => lines(&question, &answer).iter().try_for_each(say::out),
        Format::Json => serde_json::to_string_pretty(&answer.told())
            .map_err(Into::into)
            .and_then(say::out),
    };
    if answer.outcome.is_allowed() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// For people.
fn lines(question: &Question, answer: &Answer) -> Vec<String> {
    let mut lines = vec![answer.outcome.to_string()];
    if let (Some(normal), Some(sent)) = (&answer.normal_path, &question.sent) {
        lines.push(format!("the path {} is judged, and passed on, as {normal}", sent.path));
    }
    if let Some(denial) = answer.outcome.would_deny() {
        let because = because(denial.reason, denial.policy.as_deref(), denial.rule.as_deref());
        lines.push(format!("would be denied {because}, if audit policies were enforced"));
    }
    lines
}
