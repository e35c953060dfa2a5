//! Streams that end otherwise than by both halves.

use std::future::pending;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::oneshot;
use watchword_proto::decode_payload;
use watchword_proto::tunnel::{Denied, Goaway, Reason, Reset};
use watchword_tunnel::frame::Type;
use watchword_tunnel::{Call, Carried, ClientTunnel, CloseReason, Closed, Dialled, End, TunnelError};

use crate::edges::{Edge, call, edge, next, open, serve, tunnels};
use crate::peer::{Peer, denied, frame, goaway, opened, refused, reset};

const SOON: Duration = Duration::from_secs(1);

fn why(end: &End<Edge>) -> &CloseReason {
    match end {
        End::Closed(Closed { why, .. }) => why,
        other => panic!("{other:?}"),
    }
}

fn client_and_peer() -> (ClientTunnel<Edge>, Peer) {
    let (transport, _, wire) = edge(1_000_000);
    (ClientTunnel::new(transport), Peer { wire })
}

async fn read_all(app: &mut DuplexStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    app.read_to_end(&mut bytes).await.unwrap();
    bytes
}

#[tokio::test]
async fn a_denial_names_its_rule_and_the_tunnel_goes_on() {
    let (mut client, mut server) = tunnels(65_536);
    for early in [0, 40_000] {
        let (app, switches, mut near) = edge(100_000);
        near.write_all(&vec![1; early]).await.unwrap();
        let calling = call(client, app);
        let denial = Denied {
            reason: Reason::DenyRule.into(),
            policy: "orders".to_owned(),
            rule: "not from the lab".to_owned(),
        };
        server = next(server).await.deny(&denial).await.unwrap().expect("clean");
        let Carried { tunnel, end } = calling.await.unwrap();
        assert!(matches!(end, End::Denied(seen) if seen == denial));
        assert!(switches.is_aborted());
        client = tunnel.expect("clean");
    }
}

#[tokio::test]
async fn a_refused_call_is_tried_again_with_all_of_its_bytes() {
    let (client, server) = tunnels(65_536);
    let (app, switches, mut near) = edge(100_000);
    near.write_all(&[5; 50_000]).await.unwrap();
    near.shutdown().await.unwrap();
    let calling = call(client, app);
    let server = next(server).await.refuse(111).await.unwrap().expect("clean");
    let Carried { tunnel, end } = calling.await.unwrap();
    let End::Refused { errno: 111, call } = end else {
        panic!("{end:?}");
    };
    assert!(!switches.is_aborted());
    let (service, _, mut far) = edge(100_000);
    let serving = serve(server, service);
    let calling = tokio::spawn(tunnel.expect("clean").carry(call, pending()));
    assert_eq!(read_all(&mut far).await, [5; 50_000]);
    drop(far);
    assert!(matches!(why(&calling.await.unwrap().end), CloseReason::Finished));
    assert!(matches!(serving.await.unwrap().unwrap().1.why, CloseReason::Finished));
}

#[tokio::test]
async fn an_app_that_resets_resets_the_other() {
    for from_client in [true, false] {
        for after_fin in [true, false] {
            let (client, server) = tunnels(65_536);
            let (app, app_switches, near) = edge(64);
            let (service, service_switches, far) = edge(64);
            let (client, server) = (call(client, app), serve(server, service));
            let (mut first, mut second, resets, is_reset) = if from_client {
                (near, far, app_switches, service_switches)
            } else {
                (far, near, service_switches, app_switches)
            };
            first.write_all(b"x").await.unwrap();
            second.read_exact(&mut [0]).await.unwrap();
            if after_fin {
                second.shutdown().await.unwrap();
                assert!(read_all(&mut first).await.is_empty());
            }
            resets.reset.store(true, Ordering::SeqCst);
            drop(first);
            let Carried { tunnel, end } = client.await.unwrap();
            let (server, closed) = server.await.unwrap().unwrap();
            assert!(tunnel.is_some() && server.is_some());
            let (ours, theirs) = if from_client {
                (why(&end), &closed.why)
            } else {
                (&closed.why, why(&end))
            };
            assert!(matches!(ours, CloseReason::AppReset), "{ours:?}");
            assert!(matches!(theirs, CloseReason::PeerReset(Reason::AppReset)), "{theirs:?}");
            assert!(is_reset.is_aborted());
        }
    }
}

#[tokio::test]
async fn an_app_that_takes_no_more_resets_the_stream() {
    let (client, server) = tunnels(65_536);
    let (app, _, mut near) = edge(64);
    let (service, switches, _far) = edge(64);
    switches.unwritable.store(true, Ordering::SeqCst);
    let (client, server) = (call(client, app), serve(server, service));
    near.write_all(b"x").await.unwrap();
    assert!(matches!(
        why(&client.await.unwrap().end),
        CloseReason::PeerReset(Reason::AppReset)
    ));
    assert!(matches!(server.await.unwrap().unwrap().1.why, CloseReason::AppReset));
}

#[tokio::test]
async fn the_last_word_of_an_app_that_takes_no_more_is_carried_before_the_reset() {
    let (client, mut peer) = client_and_peer();
    let (app, switches, mut near) = edge(64);
    let calling = call(client, app);
    peer.expect(Type::Open, 1).await;
    peer.write(&opened(1)).await;
    near.write_all(b"first").await.unwrap();
    assert_eq!(peer.expect(Type::Data, 1).await, b"first");
    // Writing fails before its word and its end are seen.
    switches.unwritable.store(true, Ordering::SeqCst);
    peer.write(&frame(Type::Data, 1, b"unwanted")).await;
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    peer.write(&frame(Type::Data, 1, b"more")).await;
    near.write_all(b"last").await.unwrap();
    drop(near);
    assert_eq!(peer.expect(Type::Data, 1).await, b"last");
    peer.expect(Type::Reset, 1).await;
    peer.write(&reset(1, Reason::AppReset)).await;
    assert!(matches!(why(&calling.await.unwrap().end), CloseReason::AppReset));
    assert!(switches.is_aborted());
}

#[tokio::test]
async fn a_cut_resets_both_apps_and_says_why() {
    for by_client in [true, false] {
        let (client, server) = tunnels(65_536);
        let (app, app_switches, mut near) = edge(64);
        let (service, service_switches, mut far) = edge(64);
        let (cut_client, client_is_cut) = oneshot::channel();
        let (cut_server, server_is_cut) = oneshot::channel();
        let cut = async { client_is_cut.await.unwrap() };
        let client = tokio::spawn(client.carry(Call::new(app, open()), cut));
        let server = tokio::spawn(async move {
            let Dialled::Done(opening, service) = next(server).await.dial(async { service }, pending()).await else {
                panic!("not dialled");
            };
            opening
                .carry(service, async { server_is_cut.await.unwrap() }, pending())
                .await
        });
        near.write_all(b"x").await.unwrap();
        far.read_exact(&mut [0]).await.unwrap();
        let _keep = if by_client {
            cut_client.send(Reason::Revoked).unwrap();
            cut_server
        } else {
            cut_server.send(Reason::Revoked).unwrap();
            cut_client
        };
        let Carried { tunnel, end } = client.await.unwrap();
        let (server, closed) = server.await.unwrap();
        let (ours, theirs) = if by_client {
            (why(&end), &closed.why)
        } else {
            (&closed.why, why(&end))
        };
        assert!(matches!(ours, CloseReason::Cut(Reason::Revoked)), "{ours:?}");
        assert!(matches!(theirs, CloseReason::PeerReset(Reason::Revoked)), "{theirs:?}");
        assert!(app_switches.is_aborted() && service_switches.is_aborted());
        let (of_cutter, of_other) = if by_client {
            (tunnel.is_some(), server.is_some())
        } else {
            (server.is_some(), tunnel.is_some())
        };
        assert!(!of_cutter);
        let _ = of_other;
    }
}

#[tokio::test]
async fn a_cut_does_not_wait_for_queued_bytes() {
    let (transport, switches, wire) = edge(100);
    let mut peer = Peer { wire };
    let (app, app_switches, mut near) = edge(100_000);
    near.write_all(&[1; 50_000]).await.unwrap();
    let (cut, is_cut) = oneshot::channel();
    let calling = ClientTunnel::new(transport).carry(Call::new(app, open()), async { is_cut.await.unwrap() });
    let calling = tokio::spawn(calling);
    peer.expect(Type::Open, 1).await;
    cut.send(Reason::Expired).unwrap();
    assert!(matches!(
        why(&calling.await.unwrap().end),
        CloseReason::Cut(Reason::Expired)
    ));
    assert!(switches.is_aborted() && app_switches.is_aborted());
}

#[tokio::test(start_paused = true)]
async fn a_reset_behind_unsent_bytes_aborts_the_connection() {
    for unsent in [true, false] {
        let (transport, switches, wire) = edge(65_536);
        let mut peer = Peer { wire };
        let (app, app_switches, near) = edge(100);
        let calling = call(ClientTunnel::new(transport), app);
        peer.expect(Type::Open, 1).await;
        peer.write(&opened(1)).await;
        switches.unsent.store(unsent, Ordering::SeqCst);
        app_switches.reset.store(true, Ordering::SeqCst);
        drop(near);
        if unsent {
            peer.expect_end(Duration::from_millis(1)).await;
        } else {
            let payload = peer.expect(Type::Reset, 1).await;
            assert_eq!(decode_payload::<Reset>(&payload).unwrap().reason(), Reason::AppReset);
            peer.write(&reset(1, Reason::AppReset)).await;
        }
        let Carried { tunnel, end } = calling.await.unwrap();
        assert!(matches!(why(&end), CloseReason::AppReset), "{end:?}");
        assert_eq!((tunnel.is_none(), switches.is_aborted()), (unsent, unsent));
    }
}

#[tokio::test]
async fn the_end_of_the_connection_is_a_reset_for_the_app() {
    let (client, mut peer) = client_and_peer();
    let (app, switches, mut near) = edge(100);
    let calling = call(client, app);
    peer.expect(Type::Open, 1).await;
    peer.write(&opened(1)).await;
    peer.write(&frame(Type::Data, 1, b"half of the ans")).await;
    near.read_exact(&mut [0; 15]).await.unwrap();
    drop(peer);
    let Carried { tunnel, end } = calling.await.unwrap();
    assert!(matches!(why(&end), CloseReason::Lost(TunnelError::Truncated)));
    assert!(tunnel.is_none() && switches.is_aborted());
}

#[tokio::test]
async fn a_tunnel_that_is_lost_before_anything_but_open_went_is_no_loss() {
    for early in [false, true] {
        let (client, mut peer) = client_and_peer();
        let (app, switches, mut near) = edge(100);
        if early {
            near.write_all(b"x").await.unwrap();
        }
        let calling = call(client, app);
        peer.expect(Type::Open, 1).await;
        drop(peer);
        let end = calling.await.unwrap().end;
        assert_eq!(switches.is_aborted(), early);
        if early {
            assert!(matches!(why(&end), CloseReason::Lost(TunnelError::Truncated)));
        } else {
            assert!(matches!(
                end,
                End::Replay {
                    why: TunnelError::Truncated,
                    ..
                }
            ));
        }
    }
}

#[tokio::test]
async fn goaway_below_a_stream_lets_it_be_tried_elsewhere() {
    let (client, mut peer) = client_and_peer();
    let (app, switches, mut near) = edge(100);
    near.write_all(b"abc").await.unwrap();
    let calling = call(client, app);
    peer.expect(Type::Open, 1).await;
    assert_eq!(peer.expect(Type::Data, 1).await, b"abc");
    peer.write(&goaway(0, Reason::Shutdown)).await;
    let Carried { tunnel, end } = calling.await.unwrap();
    let End::Replay {
        why: TunnelError::ClosedByPeer(Reason::Shutdown),
        call,
    } = end
    else {
        panic!("{end:?}");
    };
    assert!(tunnel.is_none() && !switches.is_aborted());
    let (client, mut peer) = client_and_peer();
    let calling = tokio::spawn(client.carry(call, pending()));
    peer.expect(Type::Open, 1).await;
    assert_eq!(peer.expect(Type::Data, 1).await, b"abc");
    peer.write(&denied(1)).await;
    peer.expect(Type::Reset, 1).await;
    let Carried { tunnel, end } = calling.await.unwrap();
    assert!(matches!(end, End::Denied(denied) if denied.rule == "not from the lab"));
    assert!(tunnel.is_some() && switches.is_aborted());
}

#[tokio::test]
async fn goaway_above_a_stream_ends_the_tunnel_after_it() {
    let (client, mut peer) = client_and_peer();
    let (app, _, near) = edge(100);
    let calling = call(client, app);
    peer.expect(Type::Open, 1).await;
    peer.write(&[goaway(1, Reason::Shutdown), opened(1), frame(Type::Fin, 1, &[])].concat())
        .await;
    drop(near);
    peer.expect(Type::Fin, 1).await;
    let Carried { tunnel, end } = calling.await.unwrap();
    assert!(matches!(why(&end), CloseReason::Finished));
    assert!(tunnel.is_none());
    peer.expect_end(SOON).await;
}

#[tokio::test]
async fn a_call_on_a_tunnel_that_the_server_left_is_tried_elsewhere() {
    for says in [Some(goaway(1, Reason::Idle)), None] {
        let (client, mut peer) = client_and_peer();
        let (app, _, near) = edge(100);
        let calling = call(client, app);
        peer.expect(Type::Open, 1).await;
        peer.write(&refused(1, 111)).await;
        peer.expect(Type::Reset, 1).await;
        let Carried { tunnel, end } = calling.await.unwrap();
        let End::Refused { call, .. } = end else {
            panic!("{end:?}")
        };
        if let Some(frame) = says {
            peer.write(&frame).await;
        } else {
            drop(peer);
        }
        let carried = tunnel.expect("clean").carry(call, pending()).await;
        assert!(matches!(carried.end, End::Replay { .. }), "{:?}", carried.end);
        drop(near);
    }
}

#[tokio::test]
async fn what_the_peer_said_before_it_left_is_heard() {
    let (transport, switches, wire) = edge(65_536);
    let mut peer = Peer { wire };
    let (app, _, mut near) = edge(100);
    let calling = call(ClientTunnel::new(transport), app);
    peer.expect(Type::Open, 1).await;
    peer.write(&opened(1)).await;
    near.write_all(b"x").await.unwrap();
    peer.expect(Type::Data, 1).await;
    switches.unwritable.store(true, Ordering::SeqCst);
    near.write_all(b"y").await.unwrap();
    peer.write(&reset(1, Reason::Expired)).await;
    let Carried { tunnel, end } = calling.await.unwrap();
    assert!(matches!(why(&end), CloseReason::PeerReset(Reason::Expired)), "{end:?}");
    assert!(tunnel.is_none());
}

#[tokio::test]
async fn a_dropped_future_resets_the_app_and_the_tunnel() {
    let (transport, switches, wire) = edge(65_536);
    let mut peer = Peer { wire };
    let (app, app_switches, _near) = edge(100);
    let calling = call(ClientTunnel::new(transport), app);
    peer.expect(Type::Open, 1).await;
    calling.abort();
    assert!(calling.await.unwrap_err().is_cancelled());
    assert!(switches.is_aborted() && app_switches.is_aborted());
}

#[tokio::test]
async fn a_client_that_closes_says_goaway() {
    let (client, mut peer) = client_and_peer();
    client.close(Reason::Idle).await;
    let payload = peer.expect(Type::Goaway, 0).await;
    assert_eq!(decode_payload::<Goaway>(&payload).unwrap().reason(), Reason::Idle);
    peer.expect_end(SOON).await;
}
