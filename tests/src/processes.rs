//! Processes of a mesh by what their command lines say, and what is done to
//! them.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The one process whose command line holds all of `words`.
///
/// # Errors
/// When there is none, or more than one.
pub fn process(words: &[&str]) -> Result<Pid> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let line = command_line(&entry.path());
        if words.iter().all(|word| line.contains(word)) {
            found.push(Pid::from_raw(pid));
        }
    }
    ensure!(found.len() == 1, "{} processes with {words:?}", found.len());
    found.pop().context("there is one")
}

fn command_line(process: &Path) -> String {
    // A process that ends meanwhile has none.
    let bytes = std::fs::read(process.join("cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

/// A process that was stopped. Dropped, it goes on.
#[derive(Debug)]
pub struct Stopped(Pid);

impl Stopped {
    /// Stops a process, as if the machine had no time for it.
    ///
    /// # Errors
    /// When it is gone.
    pub fn stop(pid: Pid) -> Result<Self> {
        kill(pid, Signal::SIGSTOP)?;
        Ok(Self(pid))
    }

    /// Lets it go on after a while.
    #[allow(clippy::disallowed_methods, reason = "the while is what is tested")]
    pub fn for_a_while(self, long: Duration) {
        std::thread::sleep(long);
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGCONT);
    }
}
