//! What pages of docs/ show, for tests that do it.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::binary;

/// The first block of a kind (`sh`, `yaml`) behind a heading, or any other text
/// that the page has.
///
/// # Errors
/// When the page has no such block.
pub fn shown<'a>(page: &'a str, heading: &str, kind: &str) -> Result<&'a str> {
    let block = page.split_once(heading).and_then(|(_, section)| {
        let (_, rest) = section.split_once(&format!("```{kind}\n"))?;
        Some(rest.split_once("```")?.0)
    });
    block.with_context(|| format!("no {kind} block behind {heading:?}"))
}

/// A line that the page shows, for a shell in a folder that finds our programs.
///
/// # Errors
/// When they were not built.
pub fn shell(line: &str, folder: &Path) -> Result<Command> {
    let programs = binary("watchword")?;
    let programs = programs.parent().context("a program lies in a folder")?;
    let mut shell = Command::new("sh");
    shell
        .args(["-c", line])
        .current_dir(folder)
        .env("PATH", format!("{}:{}", programs.display(), std::env::var("PATH")?));
    Ok(shell)
}
