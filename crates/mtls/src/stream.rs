//! An encrypted connection after its handshake.
//!
//! Must not know: how it was made, what is said on it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncBufRead as _, AsyncRead, AsyncWrite, ReadBuf};

use crate::generation::LANES_ALPN;
use crate::handshake::Peer;

/// An encrypted, mutually authenticated connection.
#[derive(Debug)]
pub struct TlsStream<IO> {
    inner: tokio_rustls::TlsStream<IO>,
    /// Met behind bytes that were read: the next read is told.
    failure: Option<io::Error>,
    has_given_all: bool,
}

impl<IO> TlsStream<IO> {
    pub(crate) fn new(inner: tokio_rustls::TlsStream<IO>) -> Self {
        Self {
            inner,
            failure: None,
            has_given_all: false,
        }
    }

    /// Whether the latest read has found nothing behind what it gave, and wakes its
    /// task for more as one that has to wait would.
    pub fn has_given_all(&self) -> bool {
        self.has_given_all
    }

    /// The connection underneath.
    pub fn get_ref(&self) -> &IO {
        self.inner.get_ref().0
    }

    /// Who is at the other end; nothing where a certificate is optional and
    /// none was sent.
    pub fn peer(&self) -> Option<Peer> {
        Peer::of(self.inner.get_ref().1)
    }

    /// Lets so many bytes be written by one call, which the socket gets by one
    /// call, too. As they are copied here first, this is also what a socket
    /// that takes nothing can make us hold. 64 KiB unless told.
    pub fn take_at_once(&mut self, bytes: usize) {
        match &mut self.inner {
            tokio_rustls::TlsStream::Client(stream) => stream.get_mut().1.set_buffer_limit(Some(bytes)),
            tokio_rustls::TlsStream::Server(stream) => stream.get_mut().1.set_buffer_limit(Some(bytes)),
        }
    }

    /// Whether both ends agreed to carry many tunnels on it.
    pub fn has_lanes(&self) -> bool {
        self.alpn() == Some(LANES_ALPN)
    }

    /// What both ends agreed to speak (ALPN).
    pub(crate) fn alpn(&self) -> Option<&[u8]> {
        self.inner.get_ref().1.alpn_protocol()
    }

    /// Whether bytes wait in TLS that the socket has not taken yet.
    pub fn has_unsent(&self) -> bool {
        self.inner.get_ref().1.wants_write()
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.has_given_all = false;
        if let Some(failure) = this.failure.take() {
            return Poll::Ready(Err(failure));
        }
        let before = buffer.filled().len();
        while buffer.remaining() > 0 {
            let has_given = buffer.filled().len() > before;
            match Pin::new(&mut this.inner).poll_fill_buf(cx) {
                Poll::Ready(Ok([])) => break,
                Poll::Ready(Ok(bytes)) => {
                    let count = bytes.len().min(buffer.remaining());
                    buffer.put_slice(bytes.get(..count).unwrap_or_default());
                    Pin::new(&mut this.inner).consume(count);
                }
                Poll::Ready(Err(failure)) if has_given => {
                    this.failure = Some(failure);
                    break;
                }
                Poll::Pending if has_given => {
                    this.has_given_all = true;
                    break;
                }
                Poll::Ready(Err(failure)) => return Poll::Ready(Err(failure)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
