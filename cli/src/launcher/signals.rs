//! Waits for a child and hands signals on to it, in a process with one thread.

use std::process::{Child, ExitCode, ExitStatus};

use std::os::unix::process::ExitStatusExt as _;

use nix::sys::signal::{SigSet, Signal, kill, raise};
use nix::unistd::Pid;

use super::{Doing, LaunchError};

/// The signals that people and supervisors end or notify programs by.
pub(crate) const FORWARDED: [Signal; 6] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// Blocks `signals` and SIGCHLD, so that they wait for [`SigSet::wait`]. Must
/// come before the child is started, or its end could be missed.
pub(crate) fn hold_back(signals: &[Signal]) -> Result<SigSet, LaunchError> {
    let mut set: SigSet = signals.iter().copied().collect();
    set.add(Signal::SIGCHLD);
    set.thread_block().doing("block signals")?;
    Ok(set)
}

/// Waits for `child`, and hands it every other signal of `set`.
pub(crate) fn wait_forwarding(child: &mut Child, set: &SigSet) -> Result<ExitStatus, LaunchError> {
    let pid = i32::try_from(child.id()).unwrap_or(i32::MAX);
    loop {
        if let Some(status) = child.try_wait().doing("wait for a child")? {
            return Ok(status);
        }
        match set.wait().doing("wait for signals")? {
            Signal::SIGCHLD => {}
            // It may have ended meanwhile: then SIGCHLD is on its way.
            signal => drop(kill(Pid::from_raw(pid), signal)),
        }
    }
}

/// The child's status as a shell reports it: 128 plus the signal's number.
pub(crate) fn shell_code(status: ExitStatus) -> ExitCode {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// Ends as the child did, by the same signal if it was one, so that a parent
/// can tell a signal from a status of 128 and more.
pub(crate) fn mirror(status: ExitStatus) -> ExitCode {
    if let Some(signal) = status.signal().and_then(|n| Signal::try_from(n).ok()) {
        // The child has dumped core already, if it was to.
        let _ = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0);
        let only: SigSet = [signal].into_iter().collect();
        let _ = only.thread_unblock();
        let _ = raise(signal);
    }
    shell_code(status)
}
