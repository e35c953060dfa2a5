//! The encrypted connection with a program that does its own TLS.
//!
//! close_notify ends one direction, as FIN does on TCP (RFC 8446 section
//! 6.1); a bare FIN is an error to whoever reads.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use watchword_mtls::TlsStream;
use watchword_tunnel::AppStream;

/// TLS over TCP, in a box of its own: it is moved from future to future.
pub(crate) struct ForeignTls(Box<TlsStream<TcpStream>>);

impl ForeignTls {
    pub(crate) fn new(tls: TlsStream<TcpStream>) -> Self {
        Self(Box::new(tls))
    }
}

impl AppStream for ForeignTls {
    fn abort(&mut self) {
        // It fails only on what is no socket; the drop closes it either way.
        let _ = self.0.get_ref().set_zero_linger();
    }

    fn failure(&self) -> Option<io::Error> {
        AppStream::failure(self.0.get_ref())
    }

    fn guard(&mut self, on: bool) {
        let linger = on.then_some(std::time::Duration::ZERO);
        let _ = SockRef::from(self.0.get_ref()).set_linger(linger);
    }
}

impl AsyncRead for ForeignTls {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for ForeignTls {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}
