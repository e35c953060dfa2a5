//! What the command says to people outside of its regular output.

use std::fmt::Display;
use std::io::Write as _;

use anstyle::{AnsiColor, Style};

/// One error, on standard error.
pub(crate) fn error(message: impl Display) {
    let style = AnsiColor::Red.on_default().bold();
    labelled("error", style, message);
}

/// Something to know that is no error, on standard error.
pub(crate) fn note(message: impl Display) {
    labelled("note", AnsiColor::Cyan.on_default(), message);
}

/// A line on standard error as it is: for diagnostics that carry their own
/// file and line.
pub(crate) fn plain(message: impl Display) {
    // Nobody is left to be told when standard error is gone.
    let _ = writeln!(anstream::stderr(), "{message}");
}

/// A line of regular output. Fails when standard output is closed.
pub(crate) fn out(message: impl Display) -> std::io::Result<()> {
    writeln!(anstream::stdout(), "{message}")
}

fn labelled(label: &str, style: Style, message: impl Display) {
    let _ = writeln!(anstream::stderr(), "{style}{label}:{style:#} {message}");
}
