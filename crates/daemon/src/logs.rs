//! Logs: one JSON line per event on standard error, by level and target.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Sets up the process's logs. `filter` is used when `WATCHWORD_LOG` is unset
/// or can't be understood. JSON, but readable on a terminal.
pub fn init_tracing(filter: &str) {
    let filter = EnvFilter::try_from_env("WATCHWORD_LOG").unwrap_or_else(|_| EnvFilter::new(filter));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let result = if std::io::stderr().is_terminal() {
        builder.try_init()
    } else {
        builder.json().flatten_event(true).with_ansi(false).try_init()
    };
    if let Err(error) = result {
        tracing::debug!(%error, "logs were set up already");
    }
}
