//! What apps and peers see on real TCP connections: resets, not ends.

use std::future::{pending, poll_fn, ready};
use std::io::{self, Read as _, Write as _};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::timeout;
use watchword_proto::tunnel::Reason;
use watchword_tunnel::frame::Type;
use watchword_tunnel::{
    AppStream, Call, ClientTunnel, CloseReason, Dialled, End, LazyStream, Released, ServerTunnel, Transport,
};

use crate::edges::{edge, next, open};
use crate::lazy::lazy;
use crate::peer::{self, Peer, frame};

const SOON: Duration = Duration::from_secs(10);

/// A transport without encryption.
struct Plain(TcpStream);

impl Transport for Plain {
    fn has_unsent(&self) -> bool {
        false
    }

    fn abort(&mut self) {
        AppStream::abort(&mut self.0);
    }

    fn failure(&self) -> Option<io::Error> {
        AppStream::failure(&self.0)
    }

    fn limit_silence(&self, _: Option<Duration>) {}
}

impl AsyncRead for Plain {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Plain {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

pub(crate) async fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    let (near, far) = (near.unwrap(), far.unwrap().0);
    near.set_nodelay(true).unwrap();
    far.set_nodelay(true).unwrap();
    (near, far)
}

/// Linux holds such bytes back for this long at most.
const CORKED: Duration = Duration::from_millis(200);

async fn last_bytes_go_with_their_end<A: AppStream>(of: impl Fn(TcpStream) -> A) {
    loop {
        let (near, mut far) = tcp().await;
        let mut near = of(near);
        let began = Instant::now();
        let written = poll_fn(|cx| near.poll_write_last(cx, b"the last")).await.unwrap();
        assert_eq!(written, 8);
        let seen = far.try_read(&mut [0]);
        if began.elapsed() < CORKED / 2 {
            assert_eq!(seen.unwrap_err().kind(), io::ErrorKind::WouldBlock);
            near.shutdown().await.unwrap();
            let mut all = Vec::new();
            timeout(SOON, far.read_to_end(&mut all)).await.unwrap().unwrap();
            assert_eq!(all, b"the last");
            return;
        }
    }
}

#[tokio::test]
async fn the_last_bytes_go_in_one_packet_with_their_end() {
    last_bytes_go_with_their_end(|stream| stream).await;
    last_bytes_go_with_their_end(lazy).await;
}

/// Sends more than the kernel has room for by `write`, which is a step as
/// `poll_write` is, and then the end.
pub(crate) async fn more_than_fits_arrives<A: AppStream>(
    of: impl Fn(TcpStream) -> A,
    write: impl Fn(&mut A, &mut Context<'_>, &[u8]) -> Poll<io::Result<usize>>,
) {
    const LENGTH: usize = 16 << 20;
    let (near, mut far) = tcp().await;
    let mut near = of(near);
    let sent: Vec<u8> = (0..LENGTH).map(|at| (at % 251) as u8).collect();
    let reading = tokio::spawn(async move {
        let mut all = Vec::new();
        far.read_to_end(&mut all).await.map(|_| all)
    });
    let sending = async {
        let mut rest = &sent[..];
        while !rest.is_empty() {
            let written = poll_fn(|cx| write(&mut near, cx, rest)).await.unwrap();
            rest = &rest[written..];
        }
        near.shutdown().await.unwrap();
    };
    timeout(SOON, sending).await.unwrap();
    assert!(timeout(SOON, reading).await.unwrap().unwrap().unwrap() == sent);
}

#[tokio::test]
async fn last_bytes_that_the_kernel_has_no_room_for_wait_and_arrive() {
    more_than_fits_arrives(|stream| stream, AppStream::poll_write_last).await;
    more_than_fits_arrives(lazy, AppStream::poll_write_last).await;
}

#[tokio::test]
async fn an_answer_leaves_before_the_runtime_has_heard_of_the_app() {
    let (transport, _, wire) = edge(4096);
    let mut peer = Peer { wire };
    peer.write(&[peer::open(1), frame(Type::Data, 1, b"?")].concat()).await;
    let opening = next(ServerTunnel::new(transport)).await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut near = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let mut far = listener.accept().unwrap().0;
    // An app that takes the core when it is asked, and has done when that returns.
    let begin = |first: &[u8]| {
        near.write_all(first).unwrap();
        far.read_exact(&mut [0]).unwrap();
        far.write_all(b"!").unwrap();
        assert_eq!(near.peek(&mut [0]).unwrap(), 1);
        near.set_nonblocking(true).unwrap();
        (first.len(), ready(LazyStream::new(near.into())))
    };
    let Dialled::Done(opening, service) = opening.dial_with(begin, pending::<Reason>()).await else {
        panic!("the dial was stopped");
    };
    let mut carried = pin!(opening.carry(service, pending(), pending()));
    assert!(
        carried
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_pending()
    );
    let heard = async {
        peer.expect(Type::Opened, 1).await;
        assert_eq!(peer.expect(Type::Data, 1).await, b"!");
    };
    timeout(SOON, heard).await.unwrap();
    drop(far);
    peer.write(&frame(Type::Fin, 1, &[])).await;
    let (tunnel, closed) = timeout(SOON, carried).await.unwrap();
    assert!(tunnel.is_some());
    assert_eq!((closed.received, closed.sent), (1, 1));
}

#[tokio::test]
async fn a_connection_that_was_released_is_closed_in_order_unless_somebody_takes_it() {
    for is_taken in [false, true] {
        let (mut app, mut far) = tcp().await;
        app.guard(true);
        let released = Released::new(app);
        let taken = released.into_guarded_if(|_| is_taken);
        assert_eq!(taken.is_some(), is_taken);
        drop(taken);
        let read = far.read(&mut [0]).await;
        assert_eq!(
            read.map_err(|error| error.kind()),
            match is_taken {
                false => Ok(0),
                true => Err(io::ErrorKind::ConnectionReset),
            }
        );
    }
}

#[tokio::test]
async fn a_cut_is_a_reset_for_both_apps_and_its_reason_is_heard() {
    let (client_wire, server_wire) = tcp().await;
    let (app, mut near) = tcp().await;
    let (service, mut far) = tcp().await;
    let (cut, is_cut) = oneshot::channel();
    let client = ClientTunnel::new(Plain(client_wire));
    let carried = tokio::spawn(async move { client.carry(Call::new(app, open()), pending()).await.end });
    let served = tokio::spawn(async move {
        let opening = ServerTunnel::new(Plain(server_wire))
            .next(pending())
            .await
            .unwrap()
            .unwrap();
        match opening.dial(async { service }, pending()).await {
            Dialled::Done(opening, service) => {
                opening
                    .carry(service, async { is_cut.await.unwrap() }, pending())
                    .await
                    .1
            }
            _ => panic!("not dialled"),
        }
    });
    near.write_all(b"there").await.unwrap();
    far.read_exact(&mut [0; 5]).await.unwrap();
    far.write_all(b"back").await.unwrap();
    near.read_exact(&mut [0; 4]).await.unwrap();
    cut.send(Reason::Revoked).unwrap();
    for app in [&mut near, &mut far] {
        let error = app.read(&mut [0]).await.expect_err("a reset, not an end");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
    assert!(matches!(served.await.unwrap().why, CloseReason::Cut(Reason::Revoked)));
    match carried.await.unwrap() {
        End::Closed(closed) => assert!(
            matches!(closed.why, CloseReason::PeerReset(Reason::Revoked)),
            "{:?}",
            closed.why
        ),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_app_that_resets_is_seen_even_while_nobody_reads_it() {
    let (client_wire, server_wire) = tcp().await;
    let (app, near) = tcp().await;
    let (service, mut far) = tcp().await;
    let client = ClientTunnel::new(Plain(client_wire));
    let carried = tokio::spawn(async move { client.carry(Call::new(app, open()), pending()).await.end });
    let served = tokio::spawn(async move {
        let opening = ServerTunnel::new(Plain(server_wire))
            .next(pending())
            .await
            .unwrap()
            .unwrap();
        let (tunnel, closed) = opening.carry(service, pending(), pending()).await;
        (tunnel.is_some(), closed)
    });
    // Its half has ended, so that nobody reads it; then it resets.
    let (mut reader, mut writer) = near.into_split();
    writer.shutdown().await.unwrap();
    assert_eq!(far.read(&mut [0]).await.unwrap(), 0);
    far.write_all(b"x").await.unwrap();
    reader.read_exact(&mut [0]).await.unwrap();
    let near = reader.reunite(writer).unwrap();
    near.set_zero_linger().unwrap();
    drop(near);
    let error = far.read(&mut [0]).await;
    // The end of the half was seen already; the reset shows on writing.
    let reset = error.is_err() || {
        loop {
            match far.write_all(b"y").await {
                Ok(()) => yield_now().await,
                Err(_) => break true,
            }
        }
    };
    assert!(reset);
    let (_, closed) = served.await.unwrap();
    assert!(
        matches!(closed.why, CloseReason::PeerReset(Reason::AppReset)),
        "{:?}",
        closed.why
    );
    assert!(matches!(carried.await.unwrap(), End::Closed(closed) if matches!(closed.why, CloseReason::AppReset)));
}
