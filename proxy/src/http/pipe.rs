//! The two ends of a connection in memory: a tunnel's stream on one side, an
//! HTTP server on the other.
//!
//! Invariants: an end that is dropped before it ended its half breaks the
//! connection, and the other end reads a reset, never an end of data: a
//! response without a length would otherwise be taken for a whole one. Within
//! one task nobody is woken: who polls both ends asks [`News`] whether there is
//! something for the other one. Must not know: HTTP, tunnels' frames.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use watchword_tunnel::AppStream;

/// Bytes on their way in each direction: two full frames.
const CAPACITY: usize = 32 * 1024;
/// Memory that an empty direction keeps.
const SPARE: usize = 4 * 1024;

/// Two connected ends, for the tunnel, which takes it for the app, and for the
/// server; and what tells who polls both how far they are.
pub(crate) fn pipe() -> (TunnelEnd, ServerEnd, News) {
    let shared = Arc::<Shared>::default();
    (
        TunnelEnd(Arc::clone(&shared)),
        ServerEnd {
            shared: Arc::clone(&shared),
            ended: false,
        },
        News(shared),
    )
}

/// What the tunnel carries to and fro.
#[derive(Debug)]
pub(crate) struct TunnelEnd(Arc<Shared>);

/// What the server serves on.
#[derive(Debug)]
pub(crate) struct ServerEnd {
    shared: Arc<Shared>,
    /// Our half was ended in order.
    ended: bool,
}

/// Whether an end has something to do since it was asked last.
#[derive(Debug)]
pub(crate) struct News(Arc<Shared>);

impl News {
    pub(crate) fn for_tunnel(&self) -> bool {
        std::mem::take(&mut self.0.lock().news[TUNNEL])
    }

    pub(crate) fn for_server(&self) -> bool {
        std::mem::take(&mut self.0.lock().news[SERVER])
    }
}

/// Indices of the two ends.
const TUNNEL: usize = 0;
const SERVER: usize = 1;

#[derive(Debug, Default)]
struct Shared(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// By who reads it.
    ways: [Way; 2],
    /// Who waits: each end as a reader and as a writer.
    wakers: [[Option<Waker>; 2]; 2],
    news: [bool; 2],
    gone: [bool; 2],
    broken: bool,
}

/// Bytes in one direction.
#[derive(Debug, Default)]
struct Way {
    bytes: BytesMut,
    ended: bool,
}

/// Indices of what an end waits for.
const READ: usize = 0;
const WRITE: usize = 1;

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poll_read(&self, own: usize, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.lock();
        let state = &mut *state;
        let way = &mut state.ways[own];
        if way.bytes.is_empty() {
            return if state.broken {
                Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
            } else if way.ended || state.gone[other(own)] {
                Poll::Ready(Ok(()))
            } else {
                state.wait(own, READ, cx);
                Poll::Pending
            };
        }
        let was_full = way.bytes.len() >= CAPACITY;
        let count = way.bytes.len().min(buffer.remaining());
        buffer.put_slice(&way.bytes[..count]);
        way.bytes.advance(count);
        if way.bytes.is_empty() && way.bytes.capacity() > SPARE {
            way.bytes = BytesMut::new();
        }
        if was_full {
            state.tell(other(own), WRITE, Some(cx));
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write(&self, own: usize, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut state = self.lock();
        let state = &mut *state;
        if state.broken || state.gone[other(own)] || state.ways[other(own)].ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let mut room = CAPACITY.saturating_sub(state.ways[other(own)].bytes.len());
        if room == 0 {
            state.wait(own, WRITE, cx);
            return Poll::Pending;
        }
        let mut count = 0;
        for slice in slices {
            let part = &slice[..slice.len().min(room)];
            state.ways[other(own)].bytes.extend_from_slice(part);
            room -= part.len();
            count += part.len();
        }
        state.tell(other(own), READ, Some(cx));
        Poll::Ready(Ok(count))
    }

    fn end(&self, own: usize, cx: &Context<'_>) {
        let mut state = self.lock();
        state.ways[other(own)].ended = true;
        state.tell(other(own), READ, Some(cx));
    }

    /// Without order where `broken`.
    fn leave(&self, own: usize, broken: bool) {
        let mut state = self.lock();
        state.broken |= broken;
        state.gone[own] = true;
        state.tell(other(own), READ, None);
        state.tell(other(own), WRITE, None);
    }
}

impl State {
    fn wait(&mut self, own: usize, what: usize, cx: &Context<'_>) {
        let waker = &mut self.wakers[own][what];
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    /// An end of the task that is being polled is told by [`News`] alone.
    fn tell(&mut self, whom: usize, what: usize, cx: Option<&Context<'_>>) {
        self.news[whom] = true;
        let waker = &mut self.wakers[whom][what];
        let is_polled = |waker: &Waker| cx.is_some_and(|cx| waker.will_wake(cx.waker()));
        if waker.as_ref().is_some_and(|waker| !is_polled(waker))
            && let Some(waker) = waker.take()
        {
            waker.wake();
        }
    }
}

fn other(end: usize) -> usize {
    1 - end
}

impl AppStream for TunnelEnd {
    fn abort(&mut self) {
        self.0.lock().broken = true;
    }

    fn failure(&self) -> Option<io::Error> {
        self.0.lock().broken.then(|| io::ErrorKind::ConnectionReset.into())
    }

    fn wakes_its_reader(&self) -> bool {
        false
    }
}

impl Drop for TunnelEnd {
    fn drop(&mut self) {
        self.0.leave(TUNNEL, false);
    }
}

impl Drop for ServerEnd {
    fn drop(&mut self) {
        self.shared.leave(SERVER, !self.ended);
    }
}

impl AsyncRead for TunnelEnd {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.poll_read(TUNNEL, cx, buffer)
    }
}

impl AsyncWrite for TunnelEnd {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_write(TUNNEL, cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.end(TUNNEL, cx);
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for ServerEnd {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.shared.poll_read(SERVER, cx, buffer)
    }
}

impl AsyncWrite for ServerEnd {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.shared.poll_write(SERVER, cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.shared.end(SERVER, cx);
        this.ended = true;
        Poll::Ready(Ok(()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.shared.poll_write(SERVER, cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn an_end_in_order_is_an_end_and_a_drop_is_a_reset_to_the_other_side() {
        let (mut tunnel, mut server, _) = pipe();
        server.write_all(b"all").await.unwrap();
        server.shutdown().await.unwrap();
        drop(server);
        let mut read = String::new();
        tunnel.read_to_string(&mut read).await.unwrap();
        assert_eq!(read, "all");

        let (mut tunnel, mut server, _) = pipe();
        server.write_all(b"part").await.unwrap();
        drop(server);
        let error = tunnel.read_to_string(&mut read).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert!(tunnel.failure().is_some());

        let (mut tunnel, mut server, _) = pipe();
        tunnel.shutdown().await.unwrap();
        assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
        tunnel.abort();
        drop(tunnel);
        assert_eq!(
            server.read(&mut [0]).await.unwrap_err().kind(),
            io::ErrorKind::ConnectionReset
        );
    }

    #[tokio::test]
    async fn who_waits_in_another_task_is_woken_and_in_the_same_one_told() {
        let (mut tunnel, mut server, news) = pipe();
        let reader = tokio::spawn(async move {
            let mut read = [0; 100_000];
            tunnel.read_exact(&mut read).await.unwrap();
            tunnel.write_all(b"x").await.unwrap();
            (tunnel, read.iter().map(|byte| u64::from(*byte)).sum::<u64>())
        });
        // More than there is room for: writer and reader take turns.
        server.write_all(&[1; 100_000]).await.unwrap();
        assert_eq!(server.read_u8().await.unwrap(), b'x');
        let (mut tunnel, sum) = reader.await.unwrap();
        assert_eq!(sum, 100_000);
        assert!(news.for_tunnel() && news.for_server());
        assert!(!news.for_tunnel() && !news.for_server());
        tunnel.write_all(b"y").await.unwrap();
        assert!(news.for_server() && !news.for_tunnel());
    }
}
