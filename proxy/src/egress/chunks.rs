//! A TCP connection's bytes over a Unix socket, which by itself can't say
//! whether its end is an end or a reset.
//!
//! Each way goes in chunks: two bytes of length, big-endian, and so many bytes;
//! a length of 0 ends the direction in order. A socket that ends before that
//! was reset. Must be flushed: what a write took may wait here.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use watchword_tunnel::AppStream;

const HEAD: usize = 2;
const MAX_CHUNK: usize = 16 * 1024;

/// One end.
pub(super) struct Chunks {
    socket: UnixStream,
    head: [u8; HEAD],
    head_read: usize,
    /// Of the chunk that is being read.
    left: usize,
    has_ended: bool,
    out: Vec<u8>,
    out_sent: usize,
    is_shut: bool,
}

impl Chunks {
    pub(super) fn new(socket: UnixStream) -> Self {
        Self {
            socket,
            head: [0; HEAD],
            head_read: 0,
            left: 0,
            has_ended: false,
            out: Vec::new(),
            out_sent: 0,
            is_shut: false,
        }
    }

    fn poll_drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest @ [_, ..]) = self.out.get(self.out_sent..) {
            let count = ready!(Pin::new(&mut self.socket).poll_write(context, rest))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out_sent += count;
        }
        self.out.clear();
        self.out_sent = 0;
        Poll::Ready(Ok(()))
    }

    /// Reads on in the head of a chunk.
    fn poll_head(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut head = ReadBuf::new(self.head.get_mut(self.head_read..).unwrap_or_default());
        ready!(Pin::new(&mut self.socket).poll_read(context, &mut head))?;
        match head.filled().len() {
            0 => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            count => self.head_read += count,
        }
        if self.head_read == HEAD {
            self.head_read = 0;
            self.left = u16::from_be_bytes(self.head).into();
            self.has_ended = self.left == 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Chunks {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.left == 0 {
            if this.has_ended {
                return Poll::Ready(Ok(()));
            }
            ready!(this.poll_head(context))?;
        }
        let room = buffer.remaining().min(this.left);
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(room));
        ready!(Pin::new(&mut this.socket).poll_read(context, &mut part))?;
        let count = part.filled().len();
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        buffer.advance(count);
        this.left -= count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Chunks {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_drain(context))?;
        let chunk = bytes.get(..bytes.len().min(MAX_CHUNK)).unwrap_or_default();
        if let Ok(length @ 1..) = u16::try_from(chunk.len()) {
            this.out.extend(length.to_be_bytes());
            this.out.extend_from_slice(chunk);
            // What does not go now goes with the next write or flush.
            if let Poll::Ready(Err(error)) = this.poll_drain(context) {
                return Poll::Ready(Err(error));
            }
        }
        Poll::Ready(Ok(chunk.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_drain(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(context))?;
        if !this.is_shut {
            this.is_shut = true;
            this.out.extend([0; HEAD]);
        }
        this.poll_drain(context)
    }
}

impl AppStream for Chunks {
    /// A drop before both directions have ended is one anyway.
    fn abort(&mut self) {}

    fn failure(&self) -> Option<io::Error> {
        if !self.has_ended {
            return self.socket.take_error().unwrap_or_else(Some);
        }
        // Nothing comes any more, but for the end of the socket itself.
        match self.socket.try_read(&mut [0]) {
            Ok(_) => Some(io::ErrorKind::ConnectionReset.into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => Some(error),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn pair() -> (Chunks, Chunks) {
        let (one, other) = UnixStream::pair().unwrap();
        (Chunks::new(one), Chunks::new(other))
    }

    #[tokio::test]
    async fn every_byte_arrives_and_an_end_is_an_end_each_way() {
        let (mut one, mut other) = pair();
        let sent: Vec<u8> = (0..300_000u32).map(|number| number.to_le_bytes()[0]).collect();
        let expected = sent.clone();
        let writer = tokio::spawn(async move {
            one.write_all(&sent).await.unwrap();
            one.shutdown().await.unwrap();
            let mut back = Vec::new();
            one.read_to_end(&mut back).await.unwrap();
            back
        });
        let mut got = Vec::new();
        other.read_to_end(&mut got).await.unwrap();
        assert!(got == expected);
        other.write_all(b"back").await.unwrap();
        other.shutdown().await.unwrap();
        assert_eq!(writer.await.unwrap(), b"back");
    }

    #[tokio::test]
    async fn a_socket_that_ends_without_a_word_is_a_reset() {
        let (mut one, mut other) = pair();
        one.write_all(b"half").await.unwrap();
        one.flush().await.unwrap();
        drop(one);
        let mut got = [0; 4];
        other.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"half");
        let error = other.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn who_vanishes_after_its_own_end_is_found() {
        let (mut one, mut other) = pair();
        one.shutdown().await.unwrap();
        other.read_to_end(&mut Vec::new()).await.unwrap();
        assert!(other.failure().is_none());
        drop(one);
        other.socket.readable().await.unwrap();
        assert!(other.failure().is_some());
    }
}
