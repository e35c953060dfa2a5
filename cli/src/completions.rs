//! `watchword completions`: what a shell needs to complete this command.

use clap::{Command, CommandFactory as _};
use clap_complete::Shell;

use crate::say;

/// Prints the script.
pub(crate) fn run(shell: Shell) -> anyhow::Result<()> {
    say::out(script(shell).trim_end())?;
    Ok(())
}

pub(crate) fn script(shell: Shell) -> String {
    let whole = crate::Cli::command();
    // Hidden commands are no use to people, and shells would offer them.
    let visible = whole
        .get_subcommands()
        .filter(|command| !command.is_hide_set())
        .cloned();
    let mut shown = Command::new("watchword")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommands(visible);
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut shown, "watchword", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}
