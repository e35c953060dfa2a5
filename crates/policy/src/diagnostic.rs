//! What is wrong in a file that a person wrote, and where.
//!
//! Invariant: a `Diagnostic` always has a position that exists for people:
//! line and column start at 1. It knows nothing of YAML or of policies.

use std::fmt;

/// A place in a text: both numbers count from 1, the column in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Line, from 1.
    pub line: u64,
    /// Column in characters, from 1.
    pub column: u64,
}

impl Position {
    /// The first character of a file: for what concerns the file as a whole.
    pub const START: Self = Self { line: 1, column: 1 };
}

/// How much a [`Diagnostic`] weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Severity {
    /// The file is not used.
    Error,
    /// The file is used, but probably does not say what was meant.
    Warning,
}

impl Severity {
    /// `error` or `warning`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// One mistake in one file. Displays as `file:line:column: error: message`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Diagnostic {
    /// The file as the user named it.
    pub file: String,
    /// Line, from 1.
    pub line: u64,
    /// Column in characters, from 1.
    pub column: u64,
    /// Whether it keeps the file from being used.
    pub severity: Severity,
    /// What is wrong and what was expected, on one line.
    pub message: String,
}

impl Diagnostic {
    /// An error that keeps `file` from being used.
    #[must_use]
    pub fn error(file: &str, at: Position, message: impl Into<String>) -> Self {
        Self::new(file, at, Severity::Error, message.into())
    }

    /// A warning about `file`.
    #[must_use]
    pub fn warning(file: &str, at: Position, message: impl Into<String>) -> Self {
        Self::new(file, at, Severity::Warning, message.into())
    }

    /// Whether it is an error.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    fn new(file: &str, at: Position, severity: Severity, message: String) -> Self {
        Self {
            file: file.to_owned(),
            line: at.line.max(1),
            column: at.column.max(1),
            severity,
            message: on_one_line(message),
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            line,
            column,
            severity,
            message,
        } = self;
        write!(f, "{file}:{line}:{column}: {}: {message}", severity.as_str())
    }
}

/// Gathers the diagnostics of one file, so that a reader can go on after the
/// first mistake.
#[derive(Debug)]
pub struct Report {
    file: String,
    diagnostics: Vec<Diagnostic>,
}

impl Report {
    /// An empty report on `file`.
    #[must_use]
    pub fn new(file: &str) -> Self {
        Self {
            file: file.to_owned(),
            diagnostics: Vec::new(),
        }
    }

    /// The file that this report is on.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Adds an error.
    pub fn error(&mut self, at: Position, message: impl Into<String>) {
        let diagnostic = Diagnostic::error(&self.file, at, message);
        self.diagnostics.push(diagnostic);
    }

    /// Adds a warning.
    pub fn warning(&mut self, at: Position, message: impl Into<String>) {
        let diagnostic = Diagnostic::warning(&self.file, at, message);
        self.diagnostics.push(diagnostic);
    }

    /// The value with the warnings if there was no error; otherwise everything
    /// that was found. Both lists are in the order of the file.
    ///
    /// # Errors
    /// All diagnostics, when one of them is an error or when there is no value.
    pub fn finish<T>(mut self, value: Option<T>) -> Result<(T, Vec<Diagnostic>), Vec<Diagnostic>> {
        self.diagnostics.sort_by_key(|found| (found.line, found.column));
        match value {
            Some(value) if !self.diagnostics.iter().any(Diagnostic::is_error) => Ok((value, self.diagnostics)),
            _ => Err(self.diagnostics),
        }
    }
}

/// Escapes line breaks and other control characters, which would let a file
/// forge lines of a terminal or a log.
fn on_one_line(message: String) -> String {
    if !message.chars().any(char::is_control) {
        return message;
    }
    let escape = |c: char| -> String {
        if c.is_control() {
            c.escape_default().collect()
        } else {
            c.to_string()
        }
    };
    message.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::{Diagnostic, Position, Report};

    #[test]
    fn displays_place_weight_and_message() {
        let at = Position { line: 3, column: 7 };
        assert_eq!(
            Diagnostic::error("a.yaml", at, "expected a list").to_string(),
            "a.yaml:3:7: error: expected a list"
        );
        assert_eq!(
            Diagnostic::warning("a.yaml", at, "a\nb").to_string(),
            "a.yaml:3:7: warning: a\\nb"
        );
    }

    #[test]
    fn an_error_takes_the_value_away_and_a_warning_does_not() {
        let mut report = Report::new("a.yaml");
        report.warning(Position { line: 2, column: 1 }, "late");
        report.warning(Position::START, "early");
        let (value, warnings) = report.finish(Some(1)).unwrap_or_default();
        assert_eq!(value, 1);
        assert_eq!(warnings.len(), 2);
        assert_eq!(warnings[0].message, "early");

        let mut report = Report::new("a.yaml");
        report.error(Position::START, "wrong");
        assert!(report.finish(Some(1)).is_err());
        assert!(Report::new("a.yaml").finish(None::<u8>).is_err());
    }
}
