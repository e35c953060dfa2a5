//! Connections that another program holds open while something is measured:
//! the benchmark's own binary, once more, in a namespace.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// What such a program says when all are open. It ends with its input.
pub const OPEN: &str = "open";
/// What it says when all are closed in order, if it does that.
pub const CLOSED: &str = "closed";

/// Connections that are open until they are closed or dropped.
pub struct Held {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Held {
    /// Starts `command`, and waits until it says that all are open.
    ///
    /// # Errors
    /// When it can't be started, or says something else.
    pub fn open(command: &mut Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let mut held = Self {
            child,
            input,
            output: BufReader::new(output.context("stdout is piped")?),
        };
        held.hear(OPEN)?;
        Ok(held)
    }

    /// Closes them in order, and waits until that is done.
    ///
    /// # Errors
    /// When the program says something else, or fails.
    pub fn close(mut self) -> Result<()> {
        self.input = None;
        self.hear(CLOSED)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "the load ended with {status}");
        Ok(())
    }

    fn hear(&mut self, wanted: &str) -> Result<()> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        ensure!(line.trim() == wanted, "the load said {line:?} instead of {wanted}");
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.child.wait();
    }
}

/// The same work in so many threads, and what each made.
///
/// # Errors
/// The first one's that failed.
pub fn in_threads<T: Send>(count: usize, work: impl Fn() -> Result<T> + Sync) -> Result<Vec<T>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|_| scope.spawn(&work)).collect();
        let results = threads.into_iter().map(|thread| match thread.join() {
            Ok(result) => result,
            Err(_) => bail!("a thread panicked"),
        });
        results.collect()
    })
}
