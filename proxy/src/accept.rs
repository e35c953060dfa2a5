//! Accepting connections, within the limit of open files.
//!
//! Invariants: it goes on for ever, whatever fails. The last descriptors are
//! left to connections that were accepted already, to new certificates and to
//! probes: more callers wait in the kernel's queue meanwhile. Trouble that
//! lasts is counted each time, and logged now and then.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use watchword_daemon::{Trouble, is_near_descriptor_limit};

use crate::telemetry::Telemetry;

/// Before another try.
const PAUSE: Duration = Duration::from_millis(50);

/// Accepts for ever and hands each connection to `begin`, which must not wait.
pub(crate) async fn accept(listener: &TcpListener, telemetry: &Telemetry, begin: impl Fn(TcpStream, SocketAddr)) {
    let mut trouble = Trouble::default();
    let mut newest = 0;
    let mut far_from_limit = 0;
    loop {
        match next(listener, newest, &mut far_from_limit).await {
            Ok((stream, from)) => {
                newest = stream.as_raw_fd();
                begin(stream, SocketAddr::new(from.ip().to_canonical(), from.port()));
            }
            Err(error) => {
                telemetry.accept_paused();
                if let Some(pauses) = trouble.note() {
                    tracing::warn!(
                        %error,
                        pauses,
                        "new connections wait; if this lasts, raise the limit of open files (RLIMIT_NOFILE)"
                    );
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// The next connection, unless descriptors are short. The limit is asked for
/// when there are more than ever before.
async fn next(
    listener: &TcpListener,
    newest: RawFd,
    far_from_limit: &mut RawFd,
) -> io::Result<(TcpStream, SocketAddr)> {
    if newest > *far_from_limit && is_near_descriptor_limit(newest) {
        // Others may have been closed since.
        let probe = listener.as_fd().try_clone_to_owned()?;
        if is_near_descriptor_limit(probe.as_raw_fd()) {
            return Err(io::Error::from_raw_os_error(nix::libc::EMFILE));
        }
    } else {
        *far_from_limit = newest.max(*far_from_limit);
    }
    listener.accept().await
}
