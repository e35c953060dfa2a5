//! A tunnel in memory with an app at each end, and the same way without a
//! tunnel to compare it with.
//!
//! Every way has three pipes of 64 KiB: from the calling app to its sidecar,
//! between the sidecars, and on to the app that is called. Invariant: whatever
//! goes in comes out, or the benchmark stops.

use std::future::pending;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, copy_bidirectional_with_sizes, duplex,
};
use watchword_mtls::{Generation, TlsStream, accept_tunnel, connect_tunnel};
use watchword_proto::tunnel::{Open, Reason};
use watchword_tunnel::frame::MAX_DATA;
use watchword_tunnel::{AppStream, Call, ClientTunnel, CloseReason, Dialled, End, ServerTunnel, Transport};

use crate::mesh::{ORDERS, id};

/// Bytes that one direction of a pipe holds.
pub const PIPE: usize = 64 * 1024;

/// What a tunnel can be laid over here.
pub trait Connection: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// As [`Transport::has_unsent`].
    fn has_unsent(&self) -> bool;
}

impl Connection for DuplexStream {
    fn has_unsent(&self) -> bool {
        false
    }
}

impl Connection for TlsStream<DuplexStream> {
    fn has_unsent(&self) -> bool {
        TlsStream::has_unsent(self)
    }
}

/// An idle tunnel: both ends, clean.
pub struct Tunnel<C: Connection> {
    client: ClientTunnel<Edge<C>>,
    server: ServerTunnel<Edge<C>>,
}

impl Tunnel<DuplexStream> {
    /// Without encryption.
    #[must_use]
    pub fn plain() -> Self {
        let (client, server) = duplex(PIPE);
        Self::over(client, server)
    }
}

/// With mutual TLS.
pub type Encrypted = Tunnel<TlsStream<DuplexStream>>;

impl Encrypted {
    /// With mutual TLS, from `web` to `orders`, which must be [`ORDERS`].
    pub async fn encrypted(web: &Generation, orders: &Generation) -> Self {
        let (near, far) = duplex(PIPE);
        let expected = id(ORDERS);
        let (client, server) = tokio::join!(connect_tunnel(web, near, &expected), accept_tunnel(orders, far));
        let (client, _) = client.expect("the client's handshake");
        let (server, _) = server.expect("the server's handshake");
        Self::over(client, server)
    }
}

impl<C: Connection> Tunnel<C> {
    fn over(client: C, server: C) -> Self {
        Self {
            client: ClientTunnel::new(Edge(client)),
            server: ServerTunnel::new(Edge(server)),
        }
    }

    /// Carries one stream from its OPEN to both ENDs: `bytes` one way, then
    /// one byte back. Gives the tunnel back for the next stream.
    ///
    /// # Panics
    /// The stream does not end cleanly, or bytes are missing.
    pub async fn carry(self, bytes: usize) -> Self {
        self.stream((bytes, 1), |caller, callee| exchange(caller, callee, bytes))
            .await
    }

    /// As [`carry`](Self::carry): a byte each way, so many times.
    ///
    /// # Panics
    /// As [`carry`](Self::carry).
    pub async fn ask(self, questions: usize) -> Self {
        self.stream((questions, questions), |caller, callee| ask(caller, callee, questions))
            .await
    }

    /// A stream in which the apps do what they do.
    async fn stream<F: Future<Output = ()>>(
        self,
        (there, back): (usize, usize),
        apps: impl FnOnce(DuplexStream, DuplexStream) -> F,
    ) -> Self {
        let (app, caller) = duplex(PIPE);
        let (service, callee) = duplex(PIPE);
        let call = Call::new(Edge(app), open());
        // Tasks of their own, as in the proxy: each is polled only when it is woken.
        let client = tokio::spawn(self.client.carry(call, pending()));
        let server = tokio::spawn(serve(self.server, Edge(service)));
        apps(caller, callee).await;
        let carried = client.await.expect("the client's task");
        match carried.end {
            End::Closed(closed) => {
                assert!(matches!(closed.why, CloseReason::Finished), "{:?}", closed.why);
                assert_eq!((closed.sent, closed.received), (there as u64, back as u64));
            }
            other => panic!("not carried: {other:?}"),
        }
        Self {
            client: carried.tunnel.expect("a clean tunnel"),
            server: server.await.expect("the server's task"),
        }
    }
}

/// What [`Tunnel::carry`] does, over the same pipes with two plain copy loops
/// in place of the sidecars: what the pipes and the apps cost by themselves.
pub async fn relay(bytes: usize) {
    let (mut app, caller) = duplex(PIPE);
    let (mut service, callee) = duplex(PIPE);
    let (mut near, mut far) = duplex(PIPE);
    let near =
        tokio::spawn(async move { copy_bidirectional_with_sizes(&mut app, &mut near, MAX_DATA, MAX_DATA).await });
    let far =
        tokio::spawn(async move { copy_bidirectional_with_sizes(&mut far, &mut service, MAX_DATA, MAX_DATA).await });
    exchange(caller, callee, bytes).await;
    for copied in [near.await, far.await] {
        let copied = copied.expect("a relay's task").expect("a relay");
        assert_eq!(copied, (bytes as u64, 1));
    }
}

async fn serve<C: Connection>(tunnel: ServerTunnel<Edge<C>>, app: Edge<DuplexStream>) -> ServerTunnel<Edge<C>> {
    let opening = tunnel.next(pending()).await.expect("a client").expect("a stream");
    let Dialled::Done(opening, app) = opening.dial(async { app }, pending::<Reason>()).await else {
        panic!("not dialled");
    };
    let (tunnel, mut closed) = opening.carry(app, pending(), pending()).await;
    closed.settle(pending()).await;
    assert!(matches!(closed.why, CloseReason::Finished), "{:?}", closed.why);
    tunnel.expect("a clean tunnel")
}

/// Both apps: `bytes` from the caller, and one byte back after the last.
async fn exchange(mut caller: DuplexStream, mut callee: DuplexStream, bytes: usize) {
    let calling = tokio::spawn(async move {
        let piece = Arc::<[u8]>::from(vec![0x5a; bytes.min(PIPE)]);
        let mut left = bytes;
        while left > 0 {
            let count = left.min(piece.len());
            caller.write_all(&piece[..count]).await.expect("the caller writes");
            left -= count;
        }
        caller.shutdown().await.expect("the caller ends its half");
        caller.read(&mut [0; 2]).await.expect("the answer")
    });
    let mut buffer = vec![0; bytes.clamp(1, PIPE)];
    let mut received = 0;
    loop {
        match callee.read(&mut buffer).await.expect("the callee reads") {
            0 => break,
            count => received += count,
        }
    }
    assert_eq!(received, bytes);
    callee.write_all(b"!").await.expect("the callee answers");
    callee.shutdown().await.expect("the callee ends its half");
    assert_eq!(calling.await.expect("the caller's task"), 1);
}

/// Both apps: a question and its answer, one after the other.
async fn ask(mut caller: DuplexStream, mut callee: DuplexStream, questions: usize) {
    let mut byte = [0];
    for _ in 0..questions {
        caller.write_all(b"?").await.expect("the caller asks");
        callee.read_exact(&mut byte).await.expect("the question");
        callee.write_all(b"!").await.expect("the callee answers");
        caller.read_exact(&mut byte).await.expect("the answer");
    }
    caller.shutdown().await.expect("the caller ends its half");
    assert_eq!(callee.read(&mut byte).await.expect("the caller's end"), 0);
    callee.shutdown().await.expect("the callee ends its half");
    assert_eq!(caller.read(&mut byte).await.expect("the callee's end"), 0);
}

fn open() -> Open {
    Open {
        traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned(),
        requested: "240.0.0.7:8080".to_owned(),
    }
}

/// A connection as a tunnel's edge, on either side. It has no error that could
/// be found without reading, and its drop is seen at the other end.
#[derive(Debug)]
struct Edge<C>(C);

impl<C: Connection> Transport for Edge<C> {
    fn has_unsent(&self) -> bool {
        self.0.has_unsent()
    }

    fn abort(&mut self) {}

    fn failure(&self) -> Option<io::Error> {
        None
    }

    fn limit_silence(&self, _: Option<std::time::Duration>) {}
}

impl AppStream for Edge<DuplexStream> {
    fn abort(&mut self) {}

    fn failure(&self) -> Option<io::Error> {
        None
    }
}

impl<C: Connection> AsyncRead for Edge<C> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buffer)
    }
}

impl<C: Connection> AsyncWrite for Edge<C> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}
