//! The two edges of a tunnel: the encrypted connection to the other sidecar
//! and the plain one to the app, as traits, so that nothing here names TLS.
//!
//! Invariants: whoever drops an app's connection before both directions have
//! ended resets it, since an app must not take a cut for the end of its data.
//! That holds for a process that is killed, too.
//! Must not know: frames, streams, policies.

mod lazy;

use std::io::{self, IoSliceMut};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::sys::socket::{MsgFlags, send};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

pub use lazy::LazyStream;

/// A connection between two sidecars: ordered bytes, encrypted by whoever
/// implements it. It must not hold small writes back (TCP_NODELAY), or the
/// reason of a cut never leaves before the connection is aborted.
pub trait Transport: AsyncRead + AsyncWrite + Unpin {
    /// Whether bytes that `poll_write` took were not handed to the kernel yet.
    fn has_unsent(&self) -> bool;

    /// Whether the latest read, which has given something, has also found that
    /// this was all, and wakes its task for more as one that has to wait would.
    /// Then it need not be read once more to learn that. False where nobody knows.
    fn has_given_all(&self) -> bool {
        false
    }

    /// Makes the next drop a reset: what was not sent is thrown away, and
    /// nothing waits (zero linger on TCP).
    fn abort(&mut self);

    /// An error that the connection has met, found without reading (SO_ERROR
    /// on TCP). Asked about once a second while a reader is paused.
    fn failure(&self) -> Option<io::Error>;

    /// Makes the connection fail when what was sent stays unacknowledged for
    /// so long (TCP_USER_TIMEOUT); None: no such limit, as at the beginning.
    fn limit_silence(&self, limit: Option<Duration>);
}

/// A connection to the app. Writes must not need a flush to get going.
pub trait AppStream: AsyncRead + AsyncWrite + Unpin {
    /// As [`Transport::abort`].
    fn abort(&mut self);

    /// As [`Transport::failure`].
    fn failure(&self) -> Option<io::Error>;

    /// Whether it wakes whoever reads it, always: then nobody has to look at it
    /// before. False for an end in memory whose other end is polled by the same
    /// task.
    fn wakes_its_reader(&self) -> bool {
        true
    }

    /// Reads into several pieces of memory by one call, filling one after the
    /// other (readv(2)); into the first alone where that can't be. For who
    /// expects more than fits into one.
    fn poll_read_vectored(&mut self, cx: &mut Context<'_>, pieces: &mut [IoSliceMut<'_>]) -> Poll<io::Result<usize>> {
        let Some(first) = pieces.first_mut() else {
            return Poll::Ready(Ok(0));
        };
        let mut buffer = ReadBuf::new(first);
        ready!(Pin::new(self).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Writes what the end of the data follows at once: both may go in one
    /// packet (MSG_MORE on TCP).
    fn poll_write_last(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(self).poll_write(cx, bytes)
    }

    /// While this is on, the system resets the connection when the process is
    /// killed; off, closing it delivers what was written (linger on TCP).
    fn guard(&mut self, _on: bool) {}
}

impl AppStream for TcpStream {
    fn abort(&mut self) {
        // It fails only on a descriptor that is not a socket, and the drop
        // that follows closes it either way.
        let _ = self.set_zero_linger();
    }

    fn failure(&self) -> Option<io::Error> {
        self.take_error().unwrap_or_else(Some)
    }

    fn poll_read_vectored(&mut self, cx: &mut Context<'_>, pieces: &mut [IoSliceMut<'_>]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_read_ready(cx))?;
            match self.try_read_vectored(pieces) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read),
            }
        }
    }

    fn poll_write_last(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_write_ready(cx))?;
            match self.try_io(Interest::WRITABLE, || send_with_more(self, bytes)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    #[allow(
        deprecated,
        reason = "what blocks is a time to linger: without one a close never does"
    )]
    fn guard(&mut self, on: bool) {
        let _ = if on {
            self.set_zero_linger()
        } else {
            self.set_linger(None)
        };
    }
}

/// With the promise that more follows at once: the end.
fn send_with_more(socket: &impl AsRawFd, bytes: &[u8]) -> io::Result<usize> {
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::from_bits_retain(nix::libc::MSG_MORE);
    send(socket.as_raw_fd(), bytes, flags).map_err(io::Error::from)
}

/// An app's connection that is reset on drop, unless it was released. The
/// kernel is told so at once: it closes the connection when we are killed, and
/// by itself would tell the app that its data has ended.
#[derive(Debug)]
pub(crate) struct Leg<A: AppStream> {
    app: Option<A>,
}

impl<A: AppStream> Leg<A> {
    pub(crate) fn new(mut app: A) -> Self {
        app.guard(true);
        Self::of_guarded(app)
    }

    /// As [`new`](Self::new), where the guard is on already.
    pub(crate) fn of_guarded(app: A) -> Self {
        Self { app: Some(app) }
    }

    /// Without an app: after a release or a reset.
    pub(crate) fn gone() -> Self {
        Self { app: None }
    }

    pub(crate) fn app(&mut self) -> Option<&mut A> {
        self.app.as_mut()
    }

    pub(crate) fn take(&mut self) -> Self {
        Self { app: self.app.take() }
    }

    /// The app's connection, for somebody else to end.
    pub(crate) fn give_up(&mut self) -> Option<A> {
        self.app.take()
    }

    /// Both directions have ended.
    pub(crate) fn release(mut self) -> Option<Released<A>> {
        self.app.take().map(Released::new)
    }
}

impl<A: AppStream> Drop for Leg<A> {
    fn drop(&mut self) {
        if let Some(app) = &mut self.app {
            app.abort();
        }
    }
}

/// An app's connection whose both directions have ended. Dropped, it is closed as
/// any other.
#[derive(Debug)]
pub struct Released<A: AppStream> {
    app: Option<A>,
}

impl<A: AppStream> Released<A> {
    /// Of a connection that is [guarded](AppStream::guard).
    pub fn new(app: A) -> Self {
        Self { app: Some(app) }
    }

    /// The connection where `is_wanted`, for who makes something else of it: it is
    /// guarded still ([`AppStream::guard`]). Otherwise it is closed.
    pub fn into_guarded_if(mut self, is_wanted: impl FnOnce(&A) -> bool) -> Option<A> {
        self.app.take_if(|app| is_wanted(app))
    }
}

impl<A: AppStream> Drop for Released<A> {
    fn drop(&mut self) {
        if let Some(app) = &mut self.app {
            app.guard(false);
        }
    }
}
