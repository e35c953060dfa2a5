//! What apps and peers see on real TCP connections: resets, not ends.

use std::future::{pending, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use watchword_proto::tunnel::Reason;
use watchword_tunnel::{AppStream, Call, ClientTunnel, CloseReason, Dialled, End, ServerTunnel, Transport};

use crate::edges::open;

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

async fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    let (near, far) = (near.unwrap(), far.unwrap().0);
    near.set_nodelay(true).unwrap();
    far.set_nodelay(true).unwrap();
    (near, far)
}

/// Linux holds such bytes back for this long at most.
const CORKED: Duration = Duration::from_millis(200);

#[tokio::test]
async fn the_last_bytes_go_in_one_packet_with_their_end() {
    loop {
        let (mut near, mut far) = tcp().await;
        let began = Instant::now();
        let written = poll_fn(|cx| near.poll_write_last(cx, b"the last")).await.unwrap();
        assert_eq!(written, 8);
        let seen = far.try_read(&mut [0]);
        if began.elapsed() < CORKED / 2 {
            assert_eq!(seen.unwrap_err().kind(), io::ErrorKind::WouldBlock);
            near.shutdown().await.unwrap();
            let mut all = Vec::new();
            far.read_to_end(&mut all).await.unwrap();
            assert_eq!(all, b"the last");
            return;
        }
    }
}

#[tokio::test]
async fn last_bytes_that_the_kernel_has_no_room_for_wait_and_arrive() {
    const LENGTH: usize = 16 << 20;
    let (mut near, mut far) = tcp().await;
    let sent: Vec<u8> = (0..LENGTH).map(|at| (at % 251) as u8).collect();
    let reading = tokio::spawn(async move {
        let mut all = Vec::new();
        far.read_to_end(&mut all).await.map(|_| all)
    });
    let mut rest = &sent[..];
    while !rest.is_empty() {
        let written = poll_fn(|cx| near.poll_write_last(cx, rest)).await.unwrap();
        rest = &rest[written..];
    }
    near.shutdown().await.unwrap();
    assert!(reading.await.unwrap().unwrap() == sent);
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
                Ok(()) => tokio::task::yield_now().await,
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
