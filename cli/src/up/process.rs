//! Children of the supervisor: started with their output printed, ended with
//! patience, started again with more of it each time.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::output::{Output, Prefix, Stream};

/// How long a program may take to end after SIGTERM.
pub(crate) const GRACE: Duration = Duration::from_secs(5);
/// A program that ran this long starts again as if for the first time.
const STEADY: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Starts `command` with standard output and error printed behind `prefix`.
/// The child is killed when it is dropped.
pub(crate) fn spawn(command: std::process::Command, output: &Output, prefix: &Prefix) -> std::io::Result<Child> {
    let mut command = Command::from(command);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn()?;
    if let Some(stdout) = child.stdout.take() {
        tokio::spawn(output.clone().copy(stdout, prefix.clone(), Stream::Out));
    }
    if let Some(stderr) = child.stderr.take() {
        tokio::spawn(output.clone().copy(stderr, prefix.clone(), Stream::Err));
    }
    Ok(child)
}

/// Leaves our own daemons nothing of the caller's environment but what they
/// read. Their logs show warnings, unless WATCHWORD_LOG says otherwise.
pub(crate) fn daemon_environment(command: &mut std::process::Command) {
    command.env_clear().env("WATCHWORD_LOG", "warn");
    for name in ["PATH", "WATCHWORD_LOG", "RUST_BACKTRACE", "TZ"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
}

/// Waits for `child` to end, or ends it when `stop` comes first: then `None`.
/// Meanwhile `watch` runs, once.
pub(crate) async fn wait_or_stop(
    child: &mut Child,
    stop: impl Future<Output = ()>,
    watch: impl Future<Output = ()>,
) -> Option<std::io::Result<ExitStatus>> {
    let watch = async {
        watch.await;
        // Its end decides nothing.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        status = child.wait() => return Some(status),
        () = stop => {}
        () = watch => {}
    }
    end(child).await;
    None
}

/// SIGTERM, and after [`GRACE`] SIGKILL.
pub(crate) async fn end(child: &mut Child) {
    if let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

/// How a child ended that was waited for: as [`describe`], or why nobody knows.
pub(crate) fn describe_end(status: std::io::Result<ExitStatus>) -> String {
    status.map_or_else(|error| error.to_string(), describe)
}

/// `exit status 3` or `signal SIGKILL`.
pub(crate) fn describe(status: ExitStatus) -> String {
    match (
        status.code(),
        status.signal().and_then(|number| Signal::try_from(number).ok()),
    ) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// Pauses between starts, which double.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    next: Duration,
    started: Instant,
}

impl Backoff {
    /// The first pause is `first`, the longest half a minute.
    pub(crate) fn new(first: Duration) -> Self {
        Self {
            first,
            next: first,
            started: Instant::now(),
        }
    }

    /// To be called when the program starts.
    pub(crate) fn starting(&mut self) {
        self.started = Instant::now();
    }

    /// To be called when the program ended: how long to wait.
    pub(crate) fn pause(&mut self) -> Duration {
        if self.started.elapsed() >= STEADY {
            self.next = self.first;
        }
        let pause = self.next;
        self.next = pause.saturating_mul(2).min(LONGEST_PAUSE);
        pause
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_double_and_a_steady_run_forgives() {
        let mut backoff = Backoff::new(Duration::from_secs(1));
        let pauses: Vec<u64> = (0..7).map(|_| backoff.pause().as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        backoff.starting();
        tokio::time::advance(STEADY - Duration::from_secs(1)).await;
        assert_eq!(backoff.pause().as_secs(), 30);
        backoff.starting();
        tokio::time::advance(STEADY).await;
        assert_eq!(backoff.pause().as_secs(), 1);
    }

    fn program(script: &str) -> Child {
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(script).kill_on_drop(true).spawn().unwrap()
    }

    #[tokio::test]
    async fn a_stop_ends_the_program_also_after_the_watch_is_over() {
        let (asked, stop) = tokio::sync::oneshot::channel::<()>();
        let mut child = program("exec sleep 600");
        let stopped = wait_or_stop(&mut child, async { drop(stop.await) }, async { drop(asked) });
        assert!(tokio::time::timeout(GRACE, stopped).await.unwrap().is_none());
        assert!(child.try_wait().unwrap().is_some(), "it is gone");
    }

    #[tokio::test]
    async fn an_end_of_its_own_is_told() {
        let mut child = program("exit 3");
        let status = wait_or_stop(&mut child, std::future::pending(), async {}).await;
        assert_eq!(status.unwrap().unwrap().code(), Some(3));
    }

    #[test]
    fn an_end_is_told_as_people_know_it() {
        assert_eq!(describe(ExitStatus::from_raw(3 << 8)), "exit status 3");
        assert_eq!(describe(ExitStatus::from_raw(9)), "signal SIGKILL");
    }
}
