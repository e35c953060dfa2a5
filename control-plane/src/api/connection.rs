//! A caller's connection: its bytes, and who proved to be at its other end.
//!
//! Invariants: a connection ends when the SVID that it was made with does,
//! and soon when it was made with none. It holds its place among the counted
//! connections until it is dropped.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::OwnedSemaphorePermit;
use tonic::transport::server::Connected;
use watchword_mtls::{Peer, TlsStream};

/// Where a connection came in.
#[derive(Debug)]
pub enum Transport {
    /// On `listen`.
    Tcp(TcpStream),
    /// On control.sock.
    Unix(UnixStream),
}

impl Transport {
    /// Where it came from, for logs.
    pub fn describe(&self) -> String {
        match self {
            Self::Tcp(stream) => stream
                .peer_addr()
                .map_or_else(|_| "tcp".into(), |address| address.to_string()),
            Self::Unix(stream) => stream
                .peer_cred()
                .map_or_else(|_| "unix".into(), |caller| format!("unix uid {}", caller.uid())),
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// Who calls: goes with each request of a connection.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Nothing when it sent no certificate.
    pub peer: Option<Peer>,
    /// Where it came from, for logs.
    pub from: String,
}

/// When a connection is over, whatever its caller does.
pub(super) type End = Pin<Box<dyn Future<Output = ()> + Send>>;

/// An encrypted connection of a caller.
pub struct ControlConnection {
    stream: TlsStream<Transport>,
    caller: Caller,
    end: Option<End>,
    _place: Vec<OwnedSemaphorePermit>,
}

impl ControlConnection {
    pub(super) fn new(
        stream: TlsStream<Transport>,
        caller: Caller,
        end: End,
        place: Vec<OwnedSemaphorePermit>,
    ) -> Self {
        Self {
            stream,
            caller,
            end: Some(end),
            _place: place,
        }
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.end.as_mut().is_some_and(|end| end.as_mut().poll(cx).is_ready()) {
            self.end = None;
        }
        match self.end {
            Some(_) => Ok(()),
            None => Err(io::Error::new(io::ErrorKind::TimedOut, "the connection's time is over")),
        }
    }
}

impl std::fmt::Debug for ControlConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ControlConnection")
            .field("caller", &self.caller)
            .finish_non_exhaustive()
    }
}

impl Connected for ControlConnection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for ControlConnection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.poll_end(cx)?;
        Pin::new(&mut this.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for ControlConnection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
