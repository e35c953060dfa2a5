//! A TCP connection of which the runtime hears when somebody has to wait for it.
//!
//! Who asks an app on this machine and is answered at once never waits: telling
//! the runtime of the connection and that it is gone would cost two system calls,
//! memory, and a turn in which the answer's end is taken for news
//! (docs/decisions/0031).

use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem;
use std::net::{Shutdown, TcpStream as StdStream};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, Socket};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::coop::poll_proceed;

use super::{AppStream, send_with_more};

/// A connection to an app that may be used before the runtime knows of it.
#[derive(Debug)]
pub struct LazyStream(State);

#[derive(Debug)]
enum State {
    Unregistered(StdStream),
    Registered(TcpStream),
    /// The runtime could not take it, and it is closed.
    Gone,
}

impl LazyStream {
    /// Of a socket that does not block, and that is connected or connecting.
    #[must_use]
    pub fn new(socket: Socket) -> Self {
        Self(State::Unregistered(socket.into()))
    }

    /// For who has to wait: the runtime hears of it now.
    ///
    /// # Errors
    /// The runtime can't take it (epoll_ctl(2)). The connection is gone then.
    pub fn register(&mut self) -> io::Result<&mut TcpStream> {
        if matches!(self.0, State::Unregistered(_))
            && let State::Unregistered(stream) = mem::replace(&mut self.0, State::Gone)
        {
            self.0 = State::Registered(TcpStream::from_std(stream)?);
        }
        match &mut self.0 {
            State::Registered(stream) => Ok(stream),
            State::Unregistered(_) | State::Gone => Err(gone()),
        }
    }

    /// The socket, of which the runtime knows nothing any more.
    ///
    /// # Errors
    /// The runtime can't let go of it, or it is gone.
    pub fn into_socket(self) -> io::Result<Socket> {
        match self.0 {
            State::Unregistered(stream) => Ok(stream.into()),
            State::Registered(stream) => stream.into_std().map(Socket::from),
            State::Gone => Err(gone()),
        }
    }

    /// For options and questions that never wait. None: it is gone.
    #[must_use]
    pub fn socket(&self) -> Option<SockRef<'_>> {
        match &self.0 {
            State::Unregistered(stream) => Some(SockRef::from(stream)),
            State::Registered(stream) => Some(SockRef::from(stream)),
            State::Gone => None,
        }
    }

    /// Does what can be done without the runtime. None: it has to be waited for, or
    /// the runtime knows the connection already. Counted as any step of a task, so
    /// that one that never waits lets others have their turn.
    fn at_once<R>(
        &self,
        cx: &mut Context<'_>,
        step: impl FnOnce(&StdStream) -> io::Result<R>,
    ) -> Option<Poll<io::Result<R>>> {
        let State::Unregistered(stream) = &self.0 else {
            return None;
        };
        let Poll::Ready(turn) = poll_proceed(cx) else {
            return Some(Poll::Pending);
        };
        match step(stream) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            done => {
                turn.made_progress();
                Some(Poll::Ready(done))
            }
        }
    }
}

impl AsyncRead for LazyStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match this.at_once(cx, |mut stream| stream.read(buffer.initialize_unfilled())) {
            Some(read) => read.map_ok(|count| buffer.advance(count)),
            None => Pin::new(this.register()?).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for LazyStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match this.at_once(cx, |mut stream| stream.write(bytes)) {
            Some(written) => written,
            None => Pin::new(this.register()?).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match this.at_once(cx, |mut stream| stream.write_vectored(pieces)) {
            Some(written) => written,
            None => Pin::new(this.register()?).poll_write_vectored(cx, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Nothing waits in between.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            State::Unregistered(stream) => Poll::Ready(stream.shutdown(Shutdown::Write)),
            State::Registered(stream) => Pin::new(stream).poll_shutdown(cx),
            State::Gone => Poll::Ready(Err(gone())),
        }
    }
}

impl AppStream for LazyStream {
    fn abort(&mut self) {
        self.guard(true);
    }

    fn failure(&self) -> Option<io::Error> {
        match self.socket() {
            Some(socket) => socket.take_error().unwrap_or_else(Some),
            None => Some(gone()),
        }
    }

    fn poll_read_vectored(&mut self, cx: &mut Context<'_>, pieces: &mut [IoSliceMut<'_>]) -> Poll<io::Result<usize>> {
        match self.at_once(cx, |mut stream| stream.read_vectored(pieces)) {
            Some(read) => read,
            None => self.register()?.poll_read_vectored(cx, pieces),
        }
    }

    fn poll_write_last(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.at_once(cx, |stream| send_with_more(stream, bytes)) {
            Some(written) => written,
            None => self.register()?.poll_write_last(cx, bytes),
        }
    }

    fn guard(&mut self, on: bool) {
        // As for any TCP connection.
        let _ = self
            .socket()
            .map(|socket| socket.set_linger(on.then_some(Duration::ZERO)));
    }
}

fn gone() -> io::Error {
    io::ErrorKind::NotConnected.into()
}
