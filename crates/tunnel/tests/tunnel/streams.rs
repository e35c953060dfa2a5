//! Streams that are opened and carried.

use std::future::{pending, ready};
use std::sync::atomic::Ordering;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use watchword_proto::tunnel::Reason;
use watchword_tunnel::{Carried, ClientTunnel, CloseReason, Closed, Dialled, EARLY_LIMIT, End, ServerTunnel};

use crate::edges::{Edge, call, edge, next, serve, tunnels};

fn closed(carried: Carried<Edge, Edge>) -> (Option<ClientTunnel<Edge>>, Closed<Edge>) {
    match carried.end {
        End::Closed(closed) => (carried.tunnel, closed),
        other => panic!("{other:?}"),
    }
}

/// Bytes that differ by seed and position.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut byte = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| byte()).collect()
}

/// Writes `bytes` in pieces, ends that half, and reads the other to its end.
async fn talk(stream: impl AsyncRead + AsyncWrite, bytes: Vec<u8>, piece: usize) -> Vec<u8> {
    let (mut reader, mut writer) = split(stream);
    let mut received = Vec::new();
    let write = async {
        for piece in bytes.chunks(piece) {
            writer.write_all(piece).await.unwrap();
        }
        writer.shutdown().await.unwrap();
    };
    let ((), read) = tokio::join!(write, reader.read_to_end(&mut received));
    read.unwrap();
    received
}

/// One stream with `there` and `back` carried at the same time.
async fn exchange(
    (client, server): (ClientTunnel<Edge>, ServerTunnel<Edge>),
    apps: usize,
    (there, back): (Vec<u8>, Vec<u8>),
    piece: usize,
) -> (ClientTunnel<Edge>, ServerTunnel<Edge>) {
    let (app, app_switches, near) = edge(apps);
    let (service, service_switches, far) = edge(apps);
    let (client, server) = (call(client, app), serve(server, service));
    let (got_back, got_there) = tokio::join!(talk(near, there.clone(), piece), talk(far, back.clone(), piece));
    assert!(got_there == there && got_back == back, "the bytes differ");
    let (client, mut here) = closed(client.await.unwrap());
    let (server, mut beyond) = server.await.unwrap().unwrap();
    here.settle(pending()).await;
    beyond.settle(pending()).await;
    for (closed, sent, received) in [(here, &there, &back), (beyond, &back, &there)] {
        assert!(matches!(closed.why, CloseReason::Finished), "{:?}", closed.why);
        assert_eq!(
            (closed.sent, closed.received),
            (sent.len() as u64, received.len() as u64)
        );
    }
    assert!(!app_switches.is_aborted() && !service_switches.is_aborted());
    (client.expect("clean"), server.expect("clean"))
}

#[tokio::test]
async fn bytes_go_both_ways_and_both_halves_end() {
    let bytes = (b"GET / HTTP/1.0\r\n\r\n".to_vec(), b"HTTP/1.0 200 OK\r\n\r\n".to_vec());
    exchange(tunnels(65_536), 4096, bytes, 5).await;
}

#[tokio::test]
async fn a_tunnel_carries_one_stream_after_the_other() {
    let mut pair = tunnels(1000);
    for seed in 0..200 {
        let length = |salt| (noise(seed * 2 + salt, 2)[0] as usize) * 300;
        let bytes = (noise(seed, length(0)), noise(seed + 1000, length(1)));
        pair = exchange(pair, 700, bytes, 333).await;
    }
}

#[tokio::test]
async fn large_transfers_fit_through_any_pipe() {
    for (wire, apps) in [
        (1, 64),
        (9, 7),
        (64, 1),
        (1000, 100_000),
        (100_000, 1000),
        (16_384, 16_384),
    ] {
        let length = if wire.min(apps) < 100 { 60_000 } else { 3_000_000 };
        let bytes = (noise(1, length), noise(2, length + 12_345));
        exchange(tunnels(wire), apps, bytes, 50_000).await;
    }
}

#[tokio::test]
async fn one_byte_at_a_time() {
    exchange(tunnels(65_536), 1, (noise(1, 5000), noise(2, 5000)), 1).await;
}

#[tokio::test]
async fn empty_streams_end_too() {
    let pair = exchange(tunnels(65_536), 64, (Vec::new(), Vec::new()), 1).await;
    let pair = exchange(pair, 64, (Vec::new(), noise(1, 100_000)), 1000).await;
    exchange(pair, 64, (noise(1, 100_000), Vec::new()), 1000).await;
}

#[tokio::test]
async fn each_side_can_end_its_half_first_and_go_on_reading() {
    for client_first in [true, false] {
        let (client, server) = tunnels(65_536);
        let (app, _, near) = edge(64);
        let (service, _, far) = edge(64);
        let (client, server) = (call(client, app), serve(server, service));
        let (mut first, mut second) = if client_first { (near, far) } else { (far, near) };
        first.write_all(b"question").await.unwrap();
        first.shutdown().await.unwrap();
        let mut heard = String::new();
        second.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "question");
        second.write_all(b"answer").await.unwrap();
        second.shutdown().await.unwrap();
        let mut heard = String::new();
        first.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "answer");
        assert!(client.await.unwrap().tunnel.is_some());
        assert!(server.await.unwrap().unwrap().0.is_some());
    }
}

#[tokio::test]
async fn early_data_waits_for_the_dial_and_no_more_is_read() {
    let (client, server) = tunnels(1_000_000);
    let (app, _, near) = edge(1_000_000);
    let (service, _, far) = edge(1000);
    let there = noise(1, 300_000);
    let (mut reader, mut writer) = split(near);
    writer.write_all(&there).await.unwrap();
    writer.shutdown().await.unwrap();
    let client = call(client, app);
    let opening = next(server).await;
    assert_eq!(opening.open().requested, "10.0.0.1:80");
    let (go, dialled) = tokio::sync::oneshot::channel::<Edge>();
    let dialling = tokio::spawn(opening.dial(dialled, pending::<Reason>()));
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert!(!dialling.is_finished());
    go.send(service).unwrap();
    let Dialled::Done(opening, service) = dialling.await.unwrap() else {
        panic!("the dial was stopped");
    };
    let carried = tokio::spawn(async move {
        let (server, mut closed) = opening.carry(service.unwrap(), pending(), pending()).await;
        closed.settle(pending()).await;
        (server, closed)
    });
    let received = talk(far, b"done".to_vec(), 4).await;
    assert!(received == there);
    let mut answer = Vec::new();
    reader.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"done");
    assert!(client.await.unwrap().tunnel.is_some());
    let (server, closed) = carried.await.unwrap();
    assert!(server.is_some());
    assert_eq!(closed.received, 300_000);
    const { assert!(EARLY_LIMIT < 300_000) };
}

#[tokio::test]
async fn what_a_dial_has_sent_is_not_sent_again() {
    let (client, server) = tunnels(65_536);
    let (app, _, mut near) = edge(4096);
    let (service, _, far) = edge(4096);
    near.write_all(b"a question").await.unwrap();
    near.shutdown().await.unwrap();
    let client = call(client, app);
    let opening = next(server).await;
    let begin = |first: &[u8]| {
        assert_eq!(first, b"a question");
        (4, ready(service))
    };
    let Dialled::Done(opening, service) = opening.dial_with(begin, pending::<Reason>()).await else {
        panic!("the dial was stopped");
    };
    let carried = tokio::spawn(opening.carry(service, pending(), pending()));
    assert_eq!(talk(far, b"an answer".to_vec(), 9).await, b"estion");
    let mut answer = String::new();
    near.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "an answer");
    assert!(client.await.unwrap().tunnel.is_some());
    let (server, closed) = carried.await.unwrap();
    assert!(server.is_some());
    assert_eq!((closed.received, closed.sent), (10, 9));
}

#[tokio::test]
async fn a_slow_app_does_not_hold_the_tunnel() {
    let (client, server) = tunnels(65_536);
    let (app, _, mut near) = edge(4096);
    let (service, switches, mut far) = edge(16);
    let (client, server) = (call(client, app), serve(server, service));
    far.shutdown().await.unwrap();
    near.write_all(&[7; 1500]).await.unwrap();
    let mut nothing = Vec::new();
    near.read_to_end(&mut nothing).await.unwrap();
    near.shutdown().await.unwrap();
    assert!(client.await.unwrap().tunnel.is_some());
    // The service has taken nothing, and yet the tunnel is free.
    let (server, mut closed) = server.await.unwrap().unwrap();
    assert!(server.is_some());
    let owed = closed.owed.as_ref().expect("bytes are owed").length();
    assert!(owed > 1000 && owed as u64 + closed.received == 1500);
    let mut received = Vec::new();
    tokio::join!(closed.settle(pending()), async {
        far.read_to_end(&mut received).await.unwrap()
    });
    assert_eq!(received, [7; 1500]);
    assert_eq!(closed.received, 1500);
    assert!(!switches.aborted.load(Ordering::SeqCst));
}

#[tokio::test]
async fn what_is_owed_is_cut_or_reset_when_nobody_waits_for_it() {
    for cut in [true, false] {
        let (client, server) = tunnels(65_536);
        let (app, _, mut near) = edge(4096);
        let (service, switches, mut far) = edge(16);
        let (client, server) = (call(client, app), serve(server, service));
        far.shutdown().await.unwrap();
        near.write_all(&[7; 1500]).await.unwrap();
        near.shutdown().await.unwrap();
        client.await.unwrap().tunnel.expect("clean");
        let (_, mut closed) = server.await.unwrap().unwrap();
        if cut {
            closed.settle(async { Reason::Revoked }).await;
            assert!(matches!(closed.why, CloseReason::Cut(Reason::Revoked)));
        }
        drop(closed);
        assert!(switches.is_aborted());
    }
}
