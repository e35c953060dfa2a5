//! Peers that break the protocol, and what a server meets while it dials.

use std::future::pending;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use watchword_proto::decode_payload;
use watchword_proto::tunnel::{Goaway, Reason};
use watchword_tunnel::frame::Type;
use watchword_tunnel::{ClientTunnel, CloseReason, Dialled, EARLY_LIMIT, End, ServerTunnel, TunnelError};

use crate::edges::{Edge, call, edge, next};
use crate::peer::{Peer, frame, goaway, open, opened, reset};

const SOON: Duration = Duration::from_secs(1);

fn server_and_peer() -> (ServerTunnel<Edge>, Peer) {
    let (transport, _, wire) = edge(1_000_000);
    (ServerTunnel::new(transport), Peer { wire })
}

async fn expect_protocol_goaway(peer: &mut Peer) {
    let payload = peer.expect(Type::Goaway, 0).await;
    assert_eq!(decode_payload::<Goaway>(&payload).unwrap().reason(), Reason::Protocol);
    peer.expect_end(SOON).await;
}

#[tokio::test]
async fn garbage_closes_a_server_at_once() {
    let long_open = [1, 0, 16, 1, 0, 0, 0, 1].to_vec();
    let bad_payload = frame(Type::Open, 1, &[0xFF; 20]);
    let long_trace = frame(Type::Open, 1, &[&[10, 100][..], &[b'0'; 100]].concat());
    for garbage in [
        b"GET / HTTP/1.1\r\nhost: orders\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        vec![0; 64],
        vec![0xFF; 64],
        long_open,
        bad_payload,
        long_trace,
        open(2),
        frame(Type::Data, 1, b"x"),
        frame(Type::Opened, 1, &[]),
        [open(1), open(2)].concat(),
    ] {
        let (server, mut peer) = server_and_peer();
        peer.write(&garbage).await;
        let error = match server.next(pending()).await {
            Err(error) => error,
            Ok(None) => panic!("a clean end after {garbage:?}"),
            Ok(Some(opening)) => match opening.dial(pending::<()>(), pending()).await {
                Dialled::Lost(error) => error,
                other => panic!("{other:?} after {garbage:?}"),
            },
        };
        assert_eq!(error.label(), "protocol", "{error}");
        expect_protocol_goaway(&mut peer).await;
    }
}

#[tokio::test]
async fn a_server_that_breaks_the_protocol_loses_the_stream() {
    for garbage in [
        opened(2),
        [opened(1), opened(1)].concat(),
        [opened(1), frame(Type::Fin, 1, &[]), frame(Type::Data, 1, b"x")].concat(),
        [opened(1), goaway(0, Reason::Shutdown)].concat(),
        frame(Type::Data, 1, b"before OPENED"),
        frame(Type::Vouched, 0, &[]),
        open(1),
    ] {
        let (transport, _, wire) = edge(65_536);
        let mut peer = Peer { wire };
        let (app, switches, mut near) = edge(100);
        let calling = call(ClientTunnel::new(transport), app);
        peer.expect(Type::Open, 1).await;
        peer.write(&garbage).await;
        let carried = calling.await.unwrap();
        let End::Closed(closed) = carried.end else {
            panic!("{:?} after {garbage:?}", carried.end);
        };
        assert_eq!(closed.why.label(), "protocol", "{:?}", closed.why);
        assert!(carried.tunnel.is_none() && switches.is_aborted());
        expect_protocol_goaway(&mut peer).await;
        let _ = near.write_all(b"late").await;
    }
}

#[tokio::test]
async fn the_end_of_a_connection_is_clean_only_between_frames() {
    for unclean in [false, true] {
        let (transport, switches, wire) = edge(100);
        switches.unclean.store(unclean, Ordering::SeqCst);
        drop(wire);
        assert!(matches!(ServerTunnel::new(transport).next(pending()).await, Ok(None)));
    }
    for cut_at in 1..open(1).len() {
        let (server, mut peer) = server_and_peer();
        peer.write(&open(1)[..cut_at]).await;
        drop(peer);
        assert!(matches!(server.next(pending()).await, Err(TunnelError::Truncated)));
    }
    let (server, mut peer) = server_and_peer();
    peer.write(&goaway(0, Reason::Idle)).await;
    assert!(matches!(server.next(pending()).await, Ok(None)));
}

#[tokio::test]
async fn a_reset_stops_the_dial_and_the_next_stream_is_served() {
    let (mut server, mut peer) = server_and_peer();
    for stream in 1..4 {
        peer.write(&open(stream)).await;
        peer.write(&frame(Type::Data, stream, b"early")).await;
        if stream == 2 {
            peer.write(&frame(Type::Fin, stream, &[])).await;
        }
        peer.write(&reset(stream, Reason::AppReset)).await;
        let Dialled::Reset { reason, tunnel } = next(server).await.dial(pending::<()>(), pending()).await else {
            panic!("the dial went on");
        };
        assert_eq!(reason, Reason::AppReset);
        server = tunnel.expect("clean");
    }
    let waiting = tokio::spawn(async move { server.next(pending()).await.map(drop) });
    for stream in 1..4 {
        peer.expect(Type::Reset, stream).await;
    }
    drop(peer);
    waiting.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_cut_stops_the_dial() {
    let (server, mut peer) = server_and_peer();
    peer.write(&open(1)).await;
    let dialled = next(server)
        .await
        .dial(pending::<()>(), async { Reason::PolicyChanged })
        .await;
    assert!(matches!(dialled, Dialled::Cut(Reason::PolicyChanged)));
    peer.expect(Type::Reset, 1).await;
    peer.expect_end(SOON).await;
}

#[tokio::test]
async fn early_data_has_a_limit() {
    for (length, fits) in [(EARLY_LIMIT, true), (EARLY_LIMIT + 1, false)] {
        let (server, mut peer) = server_and_peer();
        peer.write(&open(1)).await;
        for piece in vec![0; length].chunks(10_000) {
            peer.write(&frame(Type::Data, 1, piece)).await;
        }
        peer.write(&reset(1, Reason::AppReset)).await;
        let dialled = next(server).await.dial(pending::<()>(), pending()).await;
        if fits {
            assert!(matches!(dialled, Dialled::Reset { .. }), "{dialled:?}");
        } else {
            assert!(
                matches!(dialled, Dialled::Lost(TunnelError::TooMuchEarly)),
                "{dialled:?}"
            );
        }
    }
}

#[tokio::test]
async fn an_early_fin_is_the_apps_end() {
    let (server, mut peer) = server_and_peer();
    peer.write(&[open(1), frame(Type::Data, 1, b"all"), frame(Type::Fin, 1, &[])].concat())
        .await;
    let (service, _, far) = edge(2);
    let opening = next(server).await;
    let (client_is_there, dial) = tokio::sync::oneshot::channel();
    let serving = tokio::spawn(async move {
        match opening.dial(dial, pending()).await {
            Dialled::Done(opening, service) => opening.carry(service.unwrap(), pending(), pending()).await,
            other => panic!("{other:?}"),
        }
    });
    tokio::task::yield_now().await;
    client_is_there.send(service).unwrap();
    peer.expect(Type::Opened, 1).await;
    let (mut reader, writer) = tokio::io::split(far);
    let mut all = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut reader, &mut all)
        .await
        .unwrap();
    assert_eq!(all, b"all");
    drop((reader, writer));
    peer.expect(Type::Fin, 1).await;
    let (tunnel, closed) = serving.await.unwrap();
    assert!(tunnel.is_some());
    assert!(matches!(closed.why, CloseReason::Finished));
}

#[tokio::test]
async fn the_next_stream_may_follow_the_last_byte_at_once() {
    let (server, mut peer) = server_and_peer();
    peer.write(&open(1)).await;
    let (service, _, mut far) = edge(100);
    let serving = tokio::spawn(next(server).await.carry(service, pending(), pending()));
    far.shutdown().await.unwrap();
    peer.expect(Type::Opened, 1).await;
    peer.expect(Type::Fin, 1).await;
    let last = [frame(Type::Data, 1, b"last"), frame(Type::Fin, 1, &[])].concat();
    let first = [open(2), frame(Type::Data, 2, b"first"), reset(2, Reason::Timeout)].concat();
    peer.write(&[last, first].concat()).await;
    let mut heard = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut far, &mut heard)
        .await
        .unwrap();
    assert_eq!(heard, b"last");
    let (server, closed) = serving.await.unwrap();
    assert!(matches!(closed.why, CloseReason::Finished));
    let dialled = next(server.expect("clean"))
        .await
        .dial(pending::<()>(), pending())
        .await;
    assert!(
        matches!(
            dialled,
            Dialled::Reset {
                reason: Reason::Timeout,
                ..
            }
        ),
        "{dialled:?}"
    );
}

#[tokio::test]
async fn frames_of_earlier_streams_are_dropped() {
    let (server, mut peer) = server_and_peer();
    peer.write(&[open(1), frame(Type::Fin, 1, &[])].concat()).await;
    let (service, _, far) = edge(100);
    drop(far);
    let opening = next(server).await;
    let (server, _) = opening.carry(service, pending(), pending()).await;
    peer.expect(Type::Opened, 1).await;
    // The service is gone: its end crosses the client's late reset.
    peer.expect(Type::Fin, 1).await;
    let late = frame(Type::Data, 1, b"late");
    peer.write(&[reset(1, Reason::AppReset), open(2), late, frame(Type::Data, 2, b"ok")].concat())
        .await;
    let (service, switches, mut far) = edge(100);
    let opening = next(server.expect("clean")).await;
    let serving = tokio::spawn(opening.carry(service, pending(), pending()));
    let mut ok = [0; 2];
    tokio::io::AsyncReadExt::read_exact(&mut far, &mut ok).await.unwrap();
    assert_eq!(&ok, b"ok");
    assert!(!switches.is_aborted());
    drop(far);
    serving.abort();
}

#[tokio::test]
async fn vouches_are_answered_with_nothing_and_ten_at_most() {
    let (server, mut peer) = server_and_peer();
    let serving = tokio::spawn(async move { server.next(pending()).await.map(drop) });
    for round in 0..10 {
        peer.write(&frame(Type::Vouch, 0, &vec![7; round * 7000])).await;
        assert!(peer.expect(Type::Vouched, 0).await.is_empty());
    }
    peer.write(&frame(Type::Vouch, 0, &[])).await;
    assert_eq!(serving.await.unwrap().unwrap_err().label(), "protocol");
}
