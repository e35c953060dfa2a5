//! Sockets that have called the app, for the next call from the same address.
//!
//! An app sees its caller's address, so a socket takes seven system calls until it
//! can call it. One whose connection is over has them behind it: connect() to no
//! address (AF_UNSPEC, connect(2)) takes the connection away and leaves options
//! and the address that it is bound to; its port is free. And nobody closes it
//! (docs/decisions/0029).
//!
//! Invariants: a socket is kept only where the app's kernel has acknowledged all
//! that was sent, the end included, so that nothing is lost with it; there are so
//! many at most, and those of callers that come no more make room.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::libc::{self, ENOTCONN};
use nix::sys::socket::{SockaddrIn, connect};
use socket2::Socket;
use watchword_tunnel::LazyStream;

use super::Source;

/// Of so many calls that end at once all sockets are used again.
const MOST: usize = 64;

/// Of one worker, which alone takes and keeps them.
#[derive(Debug, Default)]
pub(crate) struct UsedSockets(Mutex<VecDeque<(Source, Socket)>>);

impl UsedSockets {
    /// The one that was used last, whose memory is the warmest.
    pub(super) fn take(&self, source: Source) -> Option<Socket> {
        let mut sockets = self.lock();
        let last = sockets.iter().rposition(|(bound, _)| *bound == source)?;
        sockets.remove(last).map(|(_, socket)| socket)
    }

    pub(super) fn keep(&self, source: Source, socket: Socket) {
        let mut sockets = self.lock();
        if sockets.len() >= MOST {
            sockets.pop_front();
        }
        sockets.push_back((source, socket));
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(Source, Socket)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the connection is over for the kernel as well: both ends have come, and
/// what was sent is acknowledged. It has no peer any more then (getpeername(2)).
pub(super) fn is_over(stream: &LazyStream) -> bool {
    let peer = stream.socket().map(|socket| socket.peer_addr());
    peer.is_some_and(|peer| peer.is_err_and(|error| error.raw_os_error() == Some(ENOTCONN)))
}

/// The socket of a connection that is over, made new.
pub(super) fn renew(stream: LazyStream) -> io::Result<Socket> {
    let socket = stream.into_socket()?;
    connect(socket.as_raw_fd(), &no_address())?;
    Ok(socket)
}

fn no_address() -> SockaddrIn {
    let family = libc::sa_family_t::try_from(libc::AF_UNSPEC).unwrap_or_default();
    SockaddrIn::from(libc::sockaddr_in {
        sin_family: family,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: 0 },
        sin_zero: [0; 8],
    })
}

#[cfg(test)]
#[path = "used_tests.rs"]
mod tests;
