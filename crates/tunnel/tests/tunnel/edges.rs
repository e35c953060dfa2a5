//! In-memory edges that record an abort, and both drivers as tasks.

use std::future::pending;
use std::io::{self, IoSlice, IoSliceMut};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};
use tokio::task::JoinHandle;
use watchword_proto::tunnel::{Open, Reason};
use watchword_tunnel::{
    AppStream, Call, Carried, ClientTunnel, Closed, Dialled, Opening, ServerTunnel, Transport, TunnelError,
};

/// What a test sees and steers of an edge.
#[derive(Debug, Default)]
pub(crate) struct Switches {
    /// It was aborted.
    pub(crate) aborted: AtomicBool,
    /// Its reads fail as after a reset, and so does a look without reading.
    pub(crate) reset: AtomicBool,
    /// Its writes fail.
    pub(crate) unwritable: AtomicBool,
    /// Its end is an error, as that of TLS without close_notify.
    pub(crate) unclean: AtomicBool,
    /// It has bytes that the kernel does not have yet.
    pub(crate) unsent: AtomicBool,
    /// It fails soon when its peer is silent.
    pub(crate) limits_silence: AtomicBool,
    /// How often it was read and written with success, its end left out.
    pub(crate) reads: AtomicUsize,
    pub(crate) writes: AtomicUsize,
    /// Those of them that the end follows.
    pub(crate) last_writes: AtomicUsize,
}

impl Switches {
    pub(crate) fn is_aborted(&self) -> bool {
        self.aborted.load(Ordering::SeqCst)
    }
}

/// One end of an in-memory connection, as a tunnel holds it.
#[derive(Debug)]
pub(crate) struct Edge {
    inner: DuplexStream,
    switches: Arc<Switches>,
}

impl Edge {
    pub(crate) fn switches(&self) -> Arc<Switches> {
        Arc::clone(&self.switches)
    }
}

/// An edge of that many bytes, its switches, and the far end.
pub(crate) fn edge(size: usize) -> (Edge, Arc<Switches>, DuplexStream) {
    let (inner, far) = duplex(size);
    let switches = Arc::new(Switches::default());
    let edge = Edge {
        inner,
        switches: Arc::clone(&switches),
    };
    (edge, switches, far)
}

/// Two edges that are connected to each other.
pub(crate) fn transports(size: usize) -> (Edge, Edge) {
    let (a, b) = duplex(size);
    let of = |inner| Edge {
        inner,
        switches: Arc::default(),
    };
    (of(a), of(b))
}

/// A client's and a server's tunnel that are connected to each other.
pub(crate) fn tunnels(size: usize) -> (ClientTunnel<Edge>, ServerTunnel<Edge>) {
    let (client, server) = transports(size);
    (ClientTunnel::new(client), ServerTunnel::new(server))
}

pub(crate) fn open() -> Open {
    Open {
        traceparent: String::new(),
        requested: "10.0.0.1:80".to_owned(),
    }
}

/// Carries one call in a task.
pub(crate) fn call(tunnel: ClientTunnel<Edge>, app: Edge) -> JoinHandle<Carried<Edge, Edge>> {
    tokio::spawn(tunnel.carry(Call::new(app, open()), pending()))
}

/// The next stream; the test fails if there is none.
pub(crate) async fn next(tunnel: ServerTunnel<Edge>) -> Opening<Edge> {
    tunnel.next(pending()).await.unwrap().expect("a stream")
}

/// What [`Opening::carry`] gives back.
pub(crate) type Served = (Option<ServerTunnel<Edge>>, Closed<Edge>);

/// Serves one stream in a task, with a dial that succeeds at once.
pub(crate) fn serve(tunnel: ServerTunnel<Edge>, app: Edge) -> JoinHandle<Result<Served, TunnelError>> {
    tokio::spawn(async move {
        let opening = tunnel.next(pending()).await?.expect("a stream");
        match opening.dial(async { app }, pending::<Reason>()).await {
            Dialled::Done(opening, app) => Ok(opening.carry(app, pending(), pending()).await),
            Dialled::Lost(error) => Err(error),
            Dialled::Reset { .. } | Dialled::Cut(_) => panic!("not carried"),
        }
    })
}

impl AsyncRead for Edge {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buffer);
        let at_end = read.is_ready() && buffer.filled().len() == before;
        if at_end && self.switches.reset.load(Ordering::SeqCst) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if at_end && self.switches.unclean.load(Ordering::SeqCst) {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        if read.is_ready() && !at_end {
            self.switches.reads.fetch_add(1, Ordering::SeqCst);
        }
        read
    }
}

impl AsyncWrite for Edge {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.switches.unwritable.load(Ordering::SeqCst) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        if written.is_ready() {
            self.switches.writes.fetch_add(1, Ordering::SeqCst);
        }
        written
    }

    /// As a kernel does it, which takes any part of all pieces.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
        self.poll_write(cx, &all)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl Transport for Edge {
    fn has_unsent(&self) -> bool {
        self.switches.unsent.load(Ordering::SeqCst)
    }

    fn abort(&mut self) {
        self.switches.aborted.store(true, Ordering::SeqCst);
    }

    fn failure(&self) -> Option<io::Error> {
        let reset = self.switches.reset.load(Ordering::SeqCst);
        reset.then(|| io::ErrorKind::ConnectionReset.into())
    }

    fn limit_silence(&self, limit: Option<std::time::Duration>) {
        self.switches.limits_silence.store(limit.is_some(), Ordering::SeqCst);
    }
}

impl AppStream for Edge {
    fn abort(&mut self) {
        Transport::abort(self);
    }

    fn failure(&self) -> Option<io::Error> {
        Transport::failure(self)
    }

    fn poll_read_vectored(&mut self, cx: &mut Context<'_>, pieces: &mut [IoSliceMut<'_>]) -> Poll<io::Result<usize>> {
        let mut all = vec![0; pieces.iter().map(|piece| piece.len()).sum()];
        let mut buffer = ReadBuf::new(&mut all);
        ready!(Pin::new(self).poll_read(cx, &mut buffer))?;
        let mut rest = buffer.filled();
        let count = rest.len();
        for piece in pieces {
            let (now, later) = rest.split_at(piece.len().min(rest.len()));
            piece[..now.len()].copy_from_slice(now);
            rest = later;
        }
        Poll::Ready(Ok(count))
    }

    fn poll_write_last(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut *self).poll_write(cx, bytes))?;
        self.switches.last_writes.fetch_add(1, Ordering::SeqCst);
        Poll::Ready(Ok(written))
    }
}
