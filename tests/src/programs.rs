//! The programs under test and the tools beside them.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// One of our binaries, from the folder that this test was built into.
///
/// # Errors
/// When it was not built.
pub fn binary(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let folder = test
        .parent()
        .and_then(|deps| deps.parent())
        .context("a test lies in target/release/deps")?;
    let path = folder.join(name);
    ensure!(
        path.is_file(),
        "{} is missing: run `cargo build --release --workspace` first",
        path.display()
    );
    Ok(path)
}

/// Whether this test may do what only root may.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Runs a command to its end and returns what it printed; an error when it fails.
///
/// # Errors
/// With both outputs when the exit status is not 0.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{command:?}"))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "{command:?} ended with {}\n{stdout}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(stdout)
}
