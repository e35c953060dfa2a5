//! Tunnels that wait, and callers that wait for them.

use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::{advance, timeout};
use watchword_proto::decode_payload;
use watchword_proto::tunnel::{Goaway, Reason};
use watchword_tunnel::frame::Type;
use watchword_tunnel::{Carried, CloseReason, End, ServerTunnel};

use crate::edges::{Edge, call, edge, next, tunnels};
use crate::peer::{Peer, frame, goaway, opened};

type ClientTunnel = watchword_tunnel::ClientTunnel<Edge>;
/// Keys are names, facts are numbers, errors are texts.
type Pool = watchword_tunnel::Pool<&'static str, Edge, u32, &'static str>;
type Made = Result<(ClientTunnel, u32), &'static str>;

const ANY: fn(&u32) -> bool = |_| true;

fn client_and_peer() -> (ClientTunnel, Peer) {
    let (transport, _, wire) = edge(65_536);
    (ClientTunnel::new(transport), Peer { wire })
}

/// A dial that the test ends.
fn dial() -> (oneshot::Sender<Made>, impl Future<Output = Made> + Send + 'static) {
    let (made, dial) = oneshot::channel();
    (made, async {
        match dial.await {
            Ok(made) => made,
            // Its end is nobody's business.
            Err(_) => pending().await,
        }
    })
}

/// Lets all tasks go on until they wait.
async fn settle() {
    for _ in 0..20 {
        yield_now().await;
    }
}

#[tokio::test]
async fn the_tunnel_that_was_used_last_and_fits_is_taken_and_others_are_told_goodbye() {
    let pool = Pool::default();
    let mut peers = Vec::new();
    for facts in [1, 2, 3] {
        let (tunnel, peer) = client_and_peer();
        pool.put(&"a", tunnel, facts);
        peers.push(peer);
    }
    assert!(pool.take(&"b", ANY).is_none());
    let taken = pool.take(&"a", |facts| *facts < 3).unwrap();
    assert_eq!((taken.facts, taken.is_warm), (2, true));
    let payload = peers[2].expect(Type::Goaway, 0).await;
    assert_eq!(decode_payload::<Goaway>(&payload).unwrap().reason(), Reason::Rotated);
    assert_eq!(pool.idle(), 1);
    assert_eq!(pool.take(&"a", ANY).unwrap().facts, 1);
}

#[tokio::test]
async fn who_waits_gets_what_comes_first_and_what_was_dialled_for_him_is_kept() {
    let pool = Pool::default();
    let (made, dialling) = dial();
    let waiting = {
        let pool = pool.clone();
        tokio::spawn(async move { pool.wait_or_dial(&"a", dialling).await })
    };
    settle().await;
    let (given_back, _peer) = client_and_peer();
    pool.put(&"a", given_back, 1);
    let taken = waiting.await.unwrap().unwrap();
    assert_eq!((taken.facts, taken.is_warm), (1, true));
    let (tunnel, _peer) = client_and_peer();
    made.send(Ok((tunnel, 2))).unwrap();
    settle().await;
    assert_eq!(pool.idle(), 1);
    assert_eq!(pool.take(&"a", ANY).unwrap().facts, 2);
}

#[tokio::test]
async fn a_failed_dial_is_told_to_one_caller_and_nobody_waits_for_a_dial_that_nobody_makes() {
    let pool = Pool::default();
    let mut callers = Vec::new();
    let mut dials = Vec::new();
    for _ in 0..2 {
        let (made, dialling) = dial();
        let pool = pool.clone();
        callers.push(tokio::spawn(async move { pool.wait_or_dial(&"a", dialling).await }));
        dials.push(made);
        settle().await;
    }
    // The second dial is done first, and serves the caller who waits longest.
    let (tunnel, _peer) = client_and_peer();
    dials.pop().unwrap().send(Ok((tunnel, 7))).unwrap();
    let second = callers.pop().unwrap();
    let first = callers.pop().unwrap();
    let taken = first.await.unwrap().unwrap();
    assert_eq!((taken.facts, taken.is_warm), (7, false));
    // The first dial's own caller is gone.
    dials.pop().unwrap().send(Err("refused")).unwrap();
    let told = timeout(Duration::from_secs(5), second).await.expect("nobody told it");
    assert_eq!(told.unwrap().unwrap_err(), "refused");
}

#[tokio::test]
async fn at_most_32_dials_to_one_endpoint_are_under_way() {
    let pool = Pool::default();
    let under_way = Arc::new(AtomicUsize::new(0));
    let dialled = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let mut callers = Vec::new();
    for _ in 0..100 {
        let (pool, under_way, dialled) = (pool.clone(), Arc::clone(&under_way), Arc::clone(&dialled));
        let most = Arc::clone(&most);
        callers.push(tokio::spawn(async move {
            let dial = async move {
                let now = under_way.fetch_add(1, Ordering::SeqCst) + 1;
                most.fetch_max(now, Ordering::SeqCst);
                dialled.fetch_add(1, Ordering::SeqCst);
                settle().await;
                under_way.fetch_sub(1, Ordering::SeqCst);
                let (tunnel, _) = tunnels(100);
                Ok((tunnel, 0))
            };
            // Each gives its tunnel back when it is done.
            let taken = pool.wait_or_dial(&"a", dial).await.unwrap();
            yield_now().await;
            pool.put(&"a", taken.tunnel, 0);
        }));
    }
    for caller in callers {
        caller.await.unwrap();
    }
    assert_eq!(most.load(Ordering::SeqCst), 32);
    let dialled = dialled.load(Ordering::SeqCst);
    assert!((32..=64).contains(&dialled), "{dialled} dials for 100 callers");
}

#[tokio::test]
async fn a_caller_who_stops_waiting_leaves_nothing_behind() {
    let pool = Pool::default();
    let (made, dialling) = dial();
    let waited = timeout(Duration::from_millis(1), pool.wait_or_dial(&"a", dialling)).await;
    assert!(waited.is_err());
    let (tunnel, mut peer) = client_and_peer();
    made.send(Ok((tunnel, 1))).unwrap();
    settle().await;
    // Its tunnel waits for the next one.
    assert_eq!(pool.take(&"a", ANY).unwrap().facts, 1);
    peer.expect_end(Duration::from_millis(1)).await;
}

#[tokio::test]
async fn what_comes_is_not_lost_on_a_caller_who_has_stopped_waiting() {
    let pool = Pool::default();
    let (_nobody, dialling) = dial();
    assert!(
        timeout(Duration::from_millis(1), pool.wait_or_dial(&"a", dialling))
            .await
            .is_err()
    );
    let (made, dialling) = dial();
    let second = {
        let pool = pool.clone();
        tokio::spawn(async move { pool.wait_or_dial(&"a", dialling).await })
    };
    settle().await;
    let (given_back, _peer) = client_and_peer();
    pool.put(&"a", given_back, 1);
    assert_eq!(second.await.unwrap().unwrap().facts, 1);
    drop(made);
}

/// Numbers begin anew with a key that leads somewhere again, while somebody
/// may still be about to take what the old one gave.
#[tokio::test(start_paused = true)]
async fn who_was_served_takes_nobody_out_of_a_queue_that_formed_since() {
    let pool = Pool::default();
    let mut nobody = Context::from_waker(Waker::noop());
    let (made, dialling) = dial();
    let mut first = pin!(pool.wait_or_dial(&"a", dialling));
    assert!(first.as_mut().poll(&mut nobody).is_pending());
    let (tunnel, _peer) = client_and_peer();
    made.send(Ok((tunnel, 1))).unwrap();
    settle().await;
    assert!(pool.take(&"a", ANY).is_none());
    let (made, dialling) = dial();
    let mut second = pin!(pool.wait_or_dial(&"a", dialling));
    assert!(second.as_mut().poll(&mut nobody).is_pending());
    assert_eq!(first.await.unwrap().facts, 1);
    let (tunnel, _peer) = client_and_peer();
    made.send(Ok((tunnel, 2))).unwrap();
    let taken = timeout(Duration::from_secs(1), second).await;
    assert_eq!(taken.unwrap().unwrap().facts, 2);
}

#[tokio::test(start_paused = true)]
async fn an_idle_tunnel_ends_when_nobody_uses_it_or_its_server_leaves() {
    let pool = Pool::default();
    let (tunnel, mut peer) = client_and_peer();
    pool.put(&"unused", tunnel, 1);
    let (tunnel, mut leaving) = client_and_peer();
    pool.put(&"left", tunnel, 2);
    settle().await;
    assert_eq!(pool.idle(), 2);
    leaving.write(&goaway(0, Reason::Shutdown)).await;
    // Who was idle for a moment only is not watched yet.
    leaving.expect_end(Duration::from_millis(101)).await;
    assert_eq!(pool.idle(), 1);
    advance(Duration::from_secs(59)).await;
    settle().await;
    assert_eq!(pool.idle(), 1);
    let payload = peer.expect(Type::Goaway, 0).await;
    assert_eq!(decode_payload::<Goaway>(&payload).unwrap().reason(), Reason::Idle);
    assert_eq!(pool.idle(), 0);
}

#[tokio::test(start_paused = true)]
async fn whoever_takes_a_tunnel_before_it_is_watched_learns_that_its_server_has_left() {
    let pool = Pool::default();
    let (tunnel, mut leaving) = client_and_peer();
    let (app, _, mut near) = edge(65_536);
    let used = call(tunnel, app);
    leaving.expect(Type::Open, 1).await;
    leaving.write(&[opened(1), frame(Type::Fin, 1, b"")].concat()).await;
    near.shutdown().await.unwrap();
    pool.put(&"a", used.await.unwrap().tunnel.unwrap(), 1);
    leaving.expect(Type::Fin, 1).await;
    leaving.write(&goaway(1, Reason::Shutdown)).await;
    let taken = pool.take(&"a", ANY).unwrap();
    let (app, _, _near) = edge(65_536);
    let carried = call(taken.tunnel, app).await.unwrap();
    assert!(matches!(carried.end, End::Replay { .. }));
    leaving.expect_end(Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_is_gone_leaves_no_task_behind() {
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let pool = Pool::default();
    let (tunnel, _peer) = client_and_peer();
    pool.put(&"a", tunnel, 1);
    settle().await;
    assert_eq!(tasks(), before + 1);
    drop(pool.take(&"a", ANY));
    drop(pool);
    settle().await;
    assert_eq!(tasks(), before);
}

#[tokio::test]
async fn tunnels_that_do_not_fit_any_more_are_retired_with_the_reason() {
    let pool = Pool::default();
    let (tunnel, mut old) = client_and_peer();
    pool.put(&"a", tunnel, 1);
    let (tunnel, _new) = client_and_peer();
    pool.put(&"a", tunnel, 2);
    pool.retire(|key, facts| (*key == "a" && *facts == 1).then_some(Reason::Expired));
    let payload = old.expect(Type::Goaway, 0).await;
    assert_eq!(decode_payload::<Goaway>(&payload).unwrap().reason(), Reason::Expired);
    assert_eq!(pool.idle(), 1);
    assert_eq!(pool.take(&"a", ANY).unwrap().facts, 2);
}

#[tokio::test]
async fn more_than_1024_idle_tunnels_to_one_endpoint_are_not_kept() {
    let pool = Pool::default();
    for _ in 0..1030 {
        pool.put(&"a", tunnels(10).0, 0);
    }
    assert_eq!(pool.idle(), 1024);
}

/// The dangerous case: the server vanished while the tunnel was idle, and the
/// app sends at once.
#[tokio::test(start_paused = true)]
async fn a_call_on_a_tunnel_that_died_while_it_was_idle_is_tried_again_with_all_of_its_bytes() {
    for idle in [Duration::from_millis(1001), Duration::from_secs(30)] {
        let (transport, switches, wire) = edge(65_536);
        let mut peer = Peer { wire };
        let tunnel = ClientTunnel::new(transport);
        advance(idle).await;
        let (app, _, mut near) = edge(100);
        near.write_all(b"hello").await.unwrap();
        let calling = call(tunnel, app);
        peer.expect(Type::Open, 1).await;
        assert!(switches.limits_silence.load(Ordering::SeqCst));
        settle().await;
        drop(peer);
        let Carried { tunnel, end } = calling.await.unwrap();
        assert!(tunnel.is_none());
        let End::Replay { call, .. } = end else {
            panic!("{end:?}")
        };
        let (tunnel, mut peer) = client_and_peer();
        let _calling = tokio::spawn(tunnel.carry(call, pending()));
        peer.expect(Type::Open, 1).await;
        assert_eq!(peer.expect(Type::Data, 1).await, b"hello");
    }
}

#[tokio::test(start_paused = true)]
async fn on_a_tunnel_that_waited_bytes_go_after_opened_and_then_no_silence_is_limited() {
    let (transport, switches, wire) = edge(65_536);
    let mut peer = Peer { wire };
    let tunnel = ClientTunnel::new(transport);
    advance(Duration::from_secs(2)).await;
    let (app, _, mut near) = edge(100);
    near.write_all(b"hello").await.unwrap();
    let calling = call(tunnel, app);
    peer.expect(Type::Open, 1).await;
    assert!(timeout(Duration::from_millis(100), peer.read()).await.is_err());
    peer.write(&opened(1)).await;
    assert_eq!(peer.expect(Type::Data, 1).await, b"hello");
    assert!(!switches.limits_silence.load(Ordering::SeqCst));
    calling.abort();
}

#[tokio::test(start_paused = true)]
async fn after_a_denial_too_no_silence_is_limited() {
    let (transport, switches, wire) = edge(65_536);
    let mut peer = Peer { wire };
    let tunnel = ClientTunnel::new(transport);
    advance(Duration::from_secs(2)).await;
    let (app, _, _near) = edge(100);
    let calling = call(tunnel, app);
    peer.expect(Type::Open, 1).await;
    assert!(switches.limits_silence.load(Ordering::SeqCst));
    peer.write(&crate::peer::denied(1)).await;
    let carried = calling.await.unwrap();
    assert!(carried.tunnel.is_some() && !switches.limits_silence.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_call_that_was_not_served_can_be_given_to_somebody_else_with_what_was_read() {
    let (app, _, mut near) = edge(100);
    near.write_all(b"hello").await.unwrap();
    let (client, mut peer) = client_and_peer();
    let calling = call(client, app);
    peer.expect(Type::Open, 1).await;
    peer.expect(Type::Data, 1).await;
    peer.write(&goaway(0, Reason::Shutdown)).await;
    let End::Replay { call, .. } = calling.await.unwrap().end else {
        panic!("not tried again")
    };
    let (mut app, read) = call.into_parts().unwrap();
    assert_eq!(read, b"hello");
    app.write_all(b"answer").await.unwrap();
    near.read_exact(&mut [0; 6]).await.unwrap();
}

#[tokio::test]
async fn a_server_that_drains_lets_its_stream_end_and_takes_no_other() {
    let (client, server) = tunnels(65_536);
    let (app, _, mut near) = edge(100);
    let calling = call(client, app);
    let opening = next(server).await;
    let (drain, draining) = oneshot::channel();
    let (service, _, mut far) = edge(100);
    let serving = tokio::spawn(async move {
        let drain = async { draining.await.unwrap() };
        opening.carry(service, pending(), drain).await
    });
    near.write_all(b"one").await.unwrap();
    far.read_exact(&mut [0; 3]).await.unwrap();
    drain.send(Reason::Shutdown).unwrap();
    settle().await;
    near.write_all(b"two").await.unwrap();
    far.read_exact(&mut [0; 3]).await.unwrap();
    near.shutdown().await.unwrap();
    far.shutdown().await.unwrap();
    let (server, closed) = serving.await.unwrap();
    assert!(matches!(closed.why, CloseReason::Finished));
    let carried = calling.await.unwrap();
    assert!(matches!(carried.end, End::Closed(closed) if matches!(closed.why, CloseReason::Finished)));
    assert!(carried.tunnel.is_none(), "the client was told not to use it again");
    // The server waits for the client to leave, and then it is over.
    assert!(matches!(server.unwrap().next(pending()).await, Ok(None)));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_said_goaway_within_a_stream_drops_the_open_that_crossed_it_and_closes_in_5_s() {
    let (transport, _, wire) = edge(65_536);
    let mut peer = Peer { wire };
    peer.write(&crate::peer::open(1)).await;
    let opening = next(ServerTunnel::new(transport)).await;
    let (service, _, far) = edge(100);
    drop(far);
    let serving = tokio::spawn(opening.carry(service, pending(), async { Reason::Shutdown }));
    peer.expect(Type::Opened, 1).await;
    peer.expect(Type::Goaway, 0).await;
    peer.expect(Type::Fin, 1).await;
    peer.write(&frame(Type::Fin, 1, &[])).await;
    peer.write(&crate::peer::open(2)).await;
    peer.write(&frame(Type::Data, 2, b"not for the app")).await;
    let (server, _) = serving.await.unwrap();
    let began = tokio::time::Instant::now();
    assert!(matches!(server.unwrap().next(pending()).await, Ok(None)));
    assert_eq!(began.elapsed().as_secs(), 5);
}
