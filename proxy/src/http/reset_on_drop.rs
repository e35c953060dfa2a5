//! A caller's connection that is reset unless it was ended in order: who
//! drops it in the middle must not make it look whole.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use watchword_tunnel::AppStream;

/// See the module.
#[derive(Debug)]
pub(crate) struct ResetOnDrop<S> {
    io: S,
    /// Read from it already.
    early: Bytes,
}

impl<S: AppStream> ResetOnDrop<S> {
    /// `early` comes before what `io` still has.
    pub(crate) fn new(mut io: S, early: Vec<u8>) -> Self {
        io.guard(true);
        Self {
            io,
            early: early.into(),
        }
    }
}

impl<S: AppStream> AsyncRead for ResetOnDrop<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.early.is_empty() {
            return Pin::new(&mut this.io).poll_read(cx, buffer);
        }
        let count = this.early.len().min(buffer.remaining());
        buffer.put_slice(this.early.get(..count).unwrap_or_default());
        this.early.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AppStream> AsyncWrite for ResetOnDrop<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
        this.io.guard(false);
        Poll::Ready(Ok(()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
