//! The two ends of a connection in memory: a tunnel's stream on one side, an
//! HTTP server on the other.
//!
//! Invariants: an end that is dropped before it ended its half breaks the
//! connection, and the other end reads a reset, never an end of data: a
//! response without a length would otherwise be taken for a whole one. Must
//! not know: HTTP, tunnels' frames.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use watchword_tunnel::AppStream;

/// Bytes on their way in each direction: two full frames.
const CAPACITY: usize = 32 * 1024;

/// Two connected ends: for the tunnel, which takes it for the app, and for the
/// server.
pub(crate) fn pipe() -> (TunnelEnd, ServerEnd) {
    let (tunnel, server) = tokio::io::duplex(CAPACITY);
    let broken = Arc::new(AtomicBool::new(false));
    let tunnel = TunnelEnd {
        io: tunnel,
        broken: Arc::clone(&broken),
    };
    let server = ServerEnd {
        io: server,
        ended: false,
        broken,
    };
    (tunnel, server)
}

/// What the tunnel carries to and fro.
#[derive(Debug)]
pub(crate) struct TunnelEnd {
    io: DuplexStream,
    broken: Arc<AtomicBool>,
}

/// What the server serves on.
#[derive(Debug)]
pub(crate) struct ServerEnd {
    io: DuplexStream,
    /// Our half was ended in order.
    ended: bool,
    broken: Arc<AtomicBool>,
}

impl AppStream for TunnelEnd {
    fn abort(&mut self) {
        self.broken.store(true, Ordering::Relaxed);
    }

    fn failure(&self) -> Option<io::Error> {
        self.broken.load(Ordering::Relaxed).then(reset)
    }
}

impl Drop for ServerEnd {
    fn drop(&mut self) {
        if !self.ended {
            self.broken.store(true, Ordering::Relaxed);
        }
    }
}

fn reset() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

/// An end of data counts only when nobody broke the connection.
fn poll_read_unbroken(
    io: &mut DuplexStream,
    broken: &AtomicBool,
    cx: &mut Context<'_>,
    buffer: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    let before = buffer.filled().len();
    ready!(Pin::new(io).poll_read(cx, buffer))?;
    if buffer.filled().len() == before && buffer.remaining() > 0 && broken.load(Ordering::Relaxed) {
        return Poll::Ready(Err(reset()));
    }
    Poll::Ready(Ok(()))
}

impl AsyncRead for TunnelEnd {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        poll_read_unbroken(&mut this.io, &this.broken, cx, buffer)
    }
}

impl AsyncWrite for TunnelEnd {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

impl AsyncRead for ServerEnd {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        poll_read_unbroken(&mut this.io, &this.broken, cx, buffer)
    }
}

impl AsyncWrite for ServerEnd {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
        this.ended = true;
        Poll::Ready(Ok(()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn an_end_in_order_is_an_end_and_a_drop_is_a_reset_to_the_other_side() {
        let (mut tunnel, mut server) = pipe();
        server.write_all(b"all").await.unwrap();
        server.shutdown().await.unwrap();
        drop(server);
        let mut read = String::new();
        tunnel.read_to_string(&mut read).await.unwrap();
        assert_eq!(read, "all");

        let (mut tunnel, mut server) = pipe();
        server.write_all(b"part").await.unwrap();
        drop(server);
        let error = tunnel.read_to_string(&mut read).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert!(tunnel.failure().is_some());

        let (mut tunnel, mut server) = pipe();
        tunnel.shutdown().await.unwrap();
        assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
        tunnel.abort();
        drop(tunnel);
        assert_eq!(
            server.read(&mut [0]).await.unwrap_err().kind(),
            io::ErrorKind::ConnectionReset
        );
    }
}
