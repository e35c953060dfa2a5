//! What bytes go through: a connection, with TLS or without.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::AsRawFd as _;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use mio::event::Source as _;
use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use watchword_mtls::TlsStream;

use super::encrypted::Raw;

pub(super) enum Socket {
    Plain(TcpStream),
    Encrypted(Box<TlsStream<Raw>>),
}

impl Socket {
    /// After the handshake.
    pub(super) fn kept(tls: TlsStream<Raw>) -> Self {
        tls.get_ref().is_shaking.set(false);
        Self::Encrypted(Box::new(tls))
    }

    pub(super) fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        match self {
            Self::Plain(socket) => registry.register(socket, token, interests),
            Self::Encrypted(tls) => SourceFd(&tls.get_ref().socket.as_raw_fd()).register(registry, token, interests),
        }
    }

    /// The kernel says that there is something to be read.
    pub(super) fn is_readable(&self) {
        if let Self::Encrypted(tls) = self {
            tls.get_ref().is_drained.set(false);
        }
    }

    pub(super) fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(room),
            Self::Encrypted(tls) => {
                let mut room = ReadBuf::new(room);
                let read = Pin::new(tls).poll_read(&mut Context::from_waker(Waker::noop()), &mut room);
                at_once(read)?;
                Ok(room.filled().len())
            }
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Encrypted(tls) => {
                let cx = &mut Context::from_waker(Waker::noop());
                let count = at_once(Pin::new(&mut *tls).poll_write(cx, bytes))?;
                // What the socket does not take goes with the next write.
                let _ = Pin::new(tls).poll_flush(cx)?;
                Ok(count)
            }
        }
    }

    /// No more bytes come from us.
    pub(super) fn end(&self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.shutdown(Shutdown::Write),
            Self::Encrypted(tls) => tls.get_ref().socket.shutdown(Shutdown::Write),
        }
    }
}

fn at_once<R>(polled: Poll<io::Result<R>>) -> io::Result<R> {
    match polled {
        Poll::Ready(done) => done,
        Poll::Pending => Err(ErrorKind::WouldBlock.into()),
    }
}
