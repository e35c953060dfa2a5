//! Deadlines, in paused time.

use std::future::pending;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;
use watchword_proto::decode_payload;
use watchword_proto::tunnel::{Denied, Goaway, Reason, Reset};
use watchword_tunnel::frame::{MAX_DATA, Type};
use watchword_tunnel::{ClientTunnel, CloseReason, Dialled, End, IdleEnd, ServerTunnel, TunnelError};

use crate::edges::{call, edge, next, serve, tunnels};
use crate::peer::{Peer, frame, goaway, open, opened, reset};

fn seconds(since: Instant) -> u64 {
    (since.elapsed() + Duration::from_millis(10)).as_secs()
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_answer_is_given_up_after_15_s() {
    let start = Instant::now();
    let (transport, _, wire) = edge(65_536);
    let mut peer = Peer { wire };
    let (app, switches, _near) = edge(100);
    let calling = call(ClientTunnel::new(transport), app);
    peer.expect(Type::Open, 1).await;
    let payload = peer.expect(Type::Reset, 1).await;
    assert_eq!(seconds(start), 15);
    assert_eq!(decode_payload::<Reset>(&payload).unwrap().reason(), Reason::Timeout);
    assert!(switches.is_aborted());
    // OPENED crosses; the server ends its half in time: the tunnel is clean.
    peer.write(&[opened(1), frame(Type::Data, 1, b"x"), reset(1, Reason::Timeout)].concat())
        .await;
    let carried = calling.await.unwrap();
    assert!(carried.tunnel.is_some());
    assert!(matches!(carried.end, End::Closed(closed) if matches!(closed.why, CloseReason::OpenTimeout)));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_end_its_half_is_aborted_after_a_second() {
    let (transport, switches, wire) = edge(65_536);
    let mut peer = Peer { wire };
    peer.write(&open(1)).await;
    let opening = next(ServerTunnel::new(transport)).await;
    let start = Instant::now();
    let denied = opening.deny(&Denied::default()).await;
    assert!(matches!(denied, Err(TunnelError::NoEnd)));
    assert_eq!(seconds(start), 1);
    assert!(switches.is_aborted());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_goes_on_sending_is_aborted_after_256_kib() {
    let (transport, _, wire) = edge(1_000_000);
    let mut peer = Peer { wire };
    peer.write(&open(1)).await;
    let opening = next(ServerTunnel::new(transport)).await;
    for _ in 0..17 {
        peer.write(&frame(Type::Data, 1, &[0; MAX_DATA])).await;
    }
    let start = Instant::now();
    let denied = opening.deny(&Denied::default()).await;
    assert!(matches!(denied, Err(TunnelError::Violation(_))), "{denied:?}");
    assert_eq!(seconds(start), 0);
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_was_begun_must_be_finished_in_10_s() {
    for (begun, in_stream) in [(1, false), (7, false), (1, true), (20, true)] {
        let start = Instant::now();
        let (transport, _, wire) = edge(65_536);
        let mut peer = Peer { wire };
        let label = if in_stream {
            peer.write(&open(1)).await;
            peer.write(&frame(Type::Data, 1, &[0; 100])[..begun]).await;
            let (service, switches, _far) = edge(1000);
            let (_, closed) = next(ServerTunnel::new(transport))
                .await
                .carry(service, pending(), pending())
                .await;
            assert!(switches.is_aborted());
            closed.why.label()
        } else {
            peer.write(&open(1)[..begun]).await;
            ServerTunnel::new(transport).next(pending()).await.unwrap_err().label()
        };
        assert_eq!((label, seconds(start)), ("slow-frame", 10));
    }
}

#[tokio::test(start_paused = true)]
async fn each_frame_has_its_own_10_s() {
    let (transport, _, wire) = edge(65_536);
    let mut peer = Peer { wire };
    peer.write(&open(1)).await;
    let (service, _, mut far) = edge(65_536);
    let serving = tokio::spawn(
        next(ServerTunnel::new(transport))
            .await
            .carry(service, pending(), pending()),
    );
    let frames = [frame(Type::Data, 1, &[9; 100]), frame(Type::Data, 1, &[9; 1])]
        .concat()
        .repeat(20);
    // Whenever it waits, some frame is begun and not finished.
    for piece in [&frames[..50]].into_iter().chain(frames[50..].chunks(117)) {
        peer.write(piece).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    let mut all = vec![0; 2020];
    far.read_exact(&mut all).await.unwrap();
    assert_eq!(all, [9; 2020]);
    assert!(!serving.is_finished());
    serving.abort();
}

#[tokio::test(start_paused = true)]
async fn a_frame_may_wait_for_a_slow_app() {
    let (transport, _, wire) = edge(65_536);
    let mut peer = Peer { wire };
    peer.write(&open(1)).await;
    peer.write(&frame(Type::Data, 1, &[3; 10_000])[..9000]).await;
    let (service, switches, mut far) = edge(10);
    let serving = tokio::spawn(
        next(ServerTunnel::new(transport))
            .await
            .carry(service, pending(), pending()),
    );
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(!switches.is_aborted());
    peer.write(&frame(Type::Data, 1, &[3; 10_000])[9000..]).await;
    let mut all = vec![0; 10_000];
    far.read_exact(&mut all).await.unwrap();
    assert_eq!(all, [3; 10_000]);
    serving.abort();
}

#[tokio::test(start_paused = true)]
async fn idle_tunnels_end() {
    let start = Instant::now();
    let (mut client, server) = tunnels(65_536);
    let serving = tokio::spawn(server.next(pending()));
    assert!(matches!(client.watch().await, Ok(IdleEnd::Unused)));
    assert_eq!(seconds(start), 60);
    client.close(Reason::Idle).await;
    assert!(matches!(serving.await.unwrap(), Ok(None)));
    assert_eq!(seconds(start), 60);
}

#[tokio::test(start_paused = true)]
async fn a_server_leaves_a_client_that_stays_idle() {
    let start = Instant::now();
    let (transport, _, wire) = edge(65_536);
    let mut peer = Peer { wire };
    let serving = tokio::spawn(ServerTunnel::new(transport).next(pending()));
    let payload = peer.expect(Type::Goaway, 0).await;
    assert_eq!(seconds(start), 90);
    assert_eq!(decode_payload::<Goaway>(&payload).unwrap().reason(), Reason::Idle);
    // A stream that crosses it is not served.
    peer.write(&open(1)).await;
    peer.expect_end(Duration::from_secs(6)).await;
    assert_eq!(seconds(start), 95);
    assert!(matches!(serving.await.unwrap(), Ok(None)));
}

#[tokio::test(start_paused = true)]
async fn a_draining_server_says_so_and_the_client_hears_it() {
    let start = Instant::now();
    let (mut client, server) = tunnels(65_536);
    let serving = tokio::spawn(server.next(async { Reason::Shutdown }));
    assert!(matches!(client.watch().await, Ok(IdleEnd::ByServer(Reason::Shutdown))));
    drop(client);
    assert!(matches!(serving.await.unwrap(), Ok(None)));
    assert_eq!(seconds(start), 0);
}

#[tokio::test(start_paused = true)]
async fn a_watched_tunnel_notices_what_comes() {
    for (says, expected) in [(goaway(0, Reason::Idle), true), (open(1), false), (vec![0; 8], false)] {
        let (transport, _, wire) = edge(65_536);
        let mut peer = Peer { wire };
        peer.write(&says).await;
        let watched = ClientTunnel::new(transport).watch().await;
        assert_eq!(watched.is_ok(), expected, "{watched:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_side_that_is_not_read_is_still_watched() {
    for tunnel_fails in [true, false] {
        let (transport, tunnel_switches, wire) = edge(65_536);
        let mut peer = Peer { wire };
        peer.write(&open(1)).await;
        peer.write(&frame(Type::Data, 1, &[0; 10_000])).await;
        // The service neither reads nor takes: both directions are stuck.
        let (service, switches, mut far) = edge(10);
        far.shutdown().await.unwrap();
        let serving = tokio::spawn(
            next(ServerTunnel::new(transport))
                .await
                .carry(service, pending(), pending()),
        );
        peer.expect(Type::Opened, 1).await;
        peer.expect(Type::Fin, 1).await;
        let start = Instant::now();
        let failing = if tunnel_fails { &tunnel_switches } else { &switches };
        failing.reset.store(true, Ordering::SeqCst);
        if !tunnel_fails {
            peer.expect(Type::Reset, 1).await;
            peer.write(&reset(1, Reason::AppReset)).await;
        }
        let (tunnel, closed) = serving.await.unwrap();
        assert!(seconds(start) <= 2);
        assert!(switches.is_aborted());
        assert_eq!(closed.why.label(), if tunnel_fails { "io" } else { "app-reset" });
        assert_eq!(tunnel.is_some(), !tunnel_fails);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_closes_the_tunnel_while_dialling_is_noticed() {
    let (transport, _, wire) = edge(65_536);
    let mut peer = Peer { wire };
    peer.write(&open(1)).await;
    let opening = next(ServerTunnel::new(transport)).await;
    drop(peer);
    let dialled = opening.dial(pending::<()>(), pending()).await;
    assert!(matches!(dialled, Dialled::Lost(TunnelError::Truncated)), "{dialled:?}");
}

/// A client's first bytes, and the app that gets them.
async fn served(first: &[u8]) -> (Peer, tokio::io::DuplexStream) {
    let (transport, _, wire) = edge(1_000_000);
    let mut peer = Peer { wire };
    peer.write(&[&open(1), first].concat()).await;
    let (app, _, far) = edge(1_000_000);
    serve(ServerTunnel::new(transport), app);
    (peer, far)
}

#[tokio::test(start_paused = true)]
async fn opened_goes_with_an_answer_that_comes_at_once() {
    let (mut peer, mut far) = served(&frame(Type::Data, 1, b"?")).await;
    assert_eq!(far.read_u8().await.unwrap(), b'?');
    far.write_all(b"!").await.unwrap();
    let mut first = [0; 100];
    let count = peer.wire.read(&mut first).await.unwrap();
    assert_eq!(first[..count], [opened(1), frame(Type::Data, 1, b"!")].concat());
}

#[tokio::test(start_paused = true)]
async fn opened_waits_a_few_milliseconds_for_an_answer_and_for_nothing_else() {
    let question = frame(Type::Data, 1, b"?");
    let upload = frame(Type::Data, 1, &[0; 5000]);
    let moment = Duration::from_millis(5);
    let cases: [(&[u8], bool); 3] = [(&question, true), (&upload, false), (&[], false)];
    for (first, waits) in cases {
        let start = Instant::now();
        let (mut peer, _far) = served(first).await;
        peer.expect(Type::Opened, 1).await;
        assert_eq!(start.elapsed() >= moment, waits, "{} bytes", first.len());
        assert!(start.elapsed() <= 2 * moment);
    }
    let start = Instant::now();
    let (mut peer, mut far) = served(&question).await;
    assert_eq!(far.read_u8().await.unwrap(), b'?');
    peer.write(&question).await;
    peer.expect(Type::Opened, 1).await;
    assert!(start.elapsed() < moment, "who goes on sending needs OPENED");
}
