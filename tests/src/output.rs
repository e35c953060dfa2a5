//! What a running process prints, kept while it runs.

use std::io::{self, BufRead, BufReader};
use std::process::Child;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// For anything that a test waits for; ample on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// Between two looks at something that can't be waited for otherwise.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

#[derive(Default)]
struct Lines {
    read: Mutex<Read>,
    more: Condvar,
}

#[derive(Default)]
struct Read {
    lines: Vec<String>,
    /// Streams that have not ended: nothing more comes once all have.
    open: usize,
}

/// All lines of one or more streams, in the order of their arrival.
#[derive(Clone, Default)]
pub struct Output {
    inner: Arc<Lines>,
}

impl Output {
    /// Of a child's streams, those of the two that are piped.
    pub fn of(child: &mut Child) -> Self {
        let output = Self::default();
        if let Some(stdout) = child.stdout.take() {
            output.follow(stdout);
        }
        if let Some(stderr) = child.stderr.take() {
            output.follow(stderr);
        }
        output
    }

    /// Reads a stream to its end, on a thread of its own.
    pub fn follow(&self, stream: impl io::Read + Send + 'static) {
        let this = self.clone();
        this.lock().open += 1;
        std::thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                this.lock().lines.push(line);
                this.inner.more.notify_all();
            }
            this.lock().open -= 1;
            this.inner.more.notify_all();
        });
    }

    /// Everything so far.
    pub fn text(&self) -> String {
        self.lock().lines.join("\n")
    }

    fn lock(&self) -> MutexGuard<'_, Read> {
        self.inner.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a line that `wanted` accepts, those so far among them.
    ///
    /// # Errors
    /// With everything so far, when none comes within [`DEADLINE`], or none can
    /// come any more.
    pub fn wait_for(&self, what: &str, wanted: impl Fn(&str) -> bool) -> Result<String> {
        let until = Instant::now() + DEADLINE;
        let mut seen = 0;
        let mut read = self.lock();
        loop {
            if let Some(line) = read.lines[seen..].iter().find(|line| wanted(line)) {
                return Ok(line.clone());
            }
            seen = read.lines.len();
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || read.open == 0 {
                bail!("waited in vain for {what}; so far:\n{}", read.lines.join("\n"));
            }
            read = self
                .inner
                .more
                .wait_timeout(read, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

/// Waits until `done` says so.
///
/// # Errors
/// With `what` when it does not within [`DEADLINE`].
#[allow(
    clippy::disallowed_methods,
    reason = "looks at the state of other processes, which can't be awaited"
)]
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) -> Result<()> {
    let until = Instant::now() + DEADLINE;
    while !done() {
        if Instant::now() > until {
            bail!("waited in vain for {what}");
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    Ok(())
}
