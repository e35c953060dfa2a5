//! How often edges are read and written: each time is a system call, and most
//! of what a hop costs. Counts, since times depend on the day.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::{JoinHandle, yield_now};
use tokio::time::timeout;
use watchword_proto::tunnel::Reason;
use watchword_tunnel::frame::Type;
use watchword_tunnel::{Carried, ClientTunnel, CloseReason, Pool, ServerTunnel, TunnelError};

use crate::edges::{Edge, Served, Switches, call, edge, serve, transports};
use crate::peer::{Peer, frame, opened, reset};

const ROOM: usize = 1 << 20;

/// Reads and writes.
type Calls = (usize, usize);

/// A stream that is carried over a new tunnel, with all that counts.
struct Hop {
    near: DuplexStream,
    far: DuplexStream,
    client: JoinHandle<Carried<Edge, Edge>>,
    server: JoinHandle<Result<Served, TunnelError>>,
    /// App and transport of the client, transport and app of the server.
    edges: [Arc<Switches>; 4],
}

impl Hop {
    /// `question` was written before the stream was opened.
    async fn start(question: &[u8]) -> Self {
        let (client, server) = transports(ROOM);
        let (app, at_app, mut near) = edge(ROOM);
        let (service, at_service, far) = edge(ROOM);
        near.write_all(question).await.unwrap();
        let edges = [at_app, client.switches(), server.switches(), at_service];
        Self {
            near,
            far,
            client: call(ClientTunnel::new(client), app),
            server: serve(ServerTunnel::new(server), service),
            edges,
        }
    }

    fn calls(&self) -> [Calls; 4] {
        let of = |edge: &Arc<Switches>| (edge.reads.load(Ordering::SeqCst), edge.writes.load(Ordering::SeqCst));
        [0, 1, 2, 3].map(|index| of(&self.edges[index]))
    }
}

async fn pass(from: &mut DuplexStream, to: &mut DuplexStream, bytes: &[u8]) {
    let mut received = vec![0; bytes.len()];
    let (written, read) = tokio::join!(from.write_all(bytes), to.read_exact(&mut received));
    written.unwrap();
    read.unwrap();
}

// OPENED waits a few milliseconds for the answer, which a busy machine may not have.
#[tokio::test(start_paused = true)]
async fn a_connection_with_one_question_takes_two_packets_each_way() {
    let mut hop = Hop::start(b"?").await;
    assert_eq!(hop.far.read_u8().await.unwrap(), b'?');
    hop.far.write_all(b"!").await.unwrap();
    assert_eq!(hop.near.read_u8().await.unwrap(), b'!');
    hop.near.shutdown().await.unwrap();
    assert_eq!(hop.far.read(&mut [0]).await.unwrap(), 0);
    hop.far.shutdown().await.unwrap();
    assert_eq!(hop.near.read(&mut [0]).await.unwrap(), 0);
    // OPEN with the question, then FIN; OPENED with the answer, then FIN.
    assert_eq!(hop.calls(), [(1, 1), (2, 2), (2, 2), (1, 1)]);
    assert!(hop.client.await.unwrap().tunnel.is_some());
    assert!(hop.server.await.unwrap().unwrap().0.is_some());
}

/// One that the server ends first, as an HTTP server does after its answer:
/// what both have of it then.
async fn ended_by_server(mut hop: Hop) -> (Carried<Edge, Edge>, JoinHandle<Result<Served, TunnelError>>) {
    assert_eq!(hop.far.read_u8().await.unwrap(), b'?');
    hop.far.write_all(b"!").await.unwrap();
    hop.far.shutdown().await.unwrap();
    let mut answer = Vec::new();
    hop.near.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"!");
    hop.near.shutdown().await.unwrap();
    (hop.client.await.unwrap(), hop.server)
}

#[tokio::test]
async fn the_end_of_a_stream_goes_with_the_next_one() {
    let hop = Hop::start(b"?").await;
    let [_, sends, takes, _] = hop.edges.clone();
    let calls = || (sends.writes.load(Ordering::SeqCst), takes.reads.load(Ordering::SeqCst));
    let (carried, first) = ended_by_server(hop).await;
    assert_eq!(calls(), (1, 1));
    let (app, _, mut near) = edge(ROOM);
    near.write_all(b"?").await.unwrap();
    let _second = call(carried.tunnel.unwrap(), app);
    let served = first.await.unwrap().unwrap();
    assert!(served.0.is_some() && served.1.owed.is_none());
    assert_eq!(calls(), (2, 2));
}

#[tokio::test]
async fn a_pool_leaves_a_call_that_comes_in_the_same_turn_the_time_to_take_the_end_along() {
    let hop = Hop::start(b"?").await;
    let [_, sends, ..] = hop.edges.clone();
    let (carried, _first) = ended_by_server(hop).await;
    let pool = Pool::<_, _, _, ()>::default();
    pool.put(&"a", carried.tunnel.unwrap(), ());
    // Whoever watches over it comes first.
    yield_now().await;
    let taken = pool.take(&"a", |()| true).unwrap();
    assert_eq!(sends.writes.load(Ordering::SeqCst), 1);
    let (app, _, _near) = edge(ROOM);
    let _second = call(taken.tunnel, app);
    yield_now().await;
    assert_eq!(sends.writes.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn the_end_of_a_stream_is_sent_when_nobody_takes_its_tunnel_at_once() {
    let (carried, first) = ended_by_server(Hop::start(b"?").await).await;
    let pool = Pool::<_, _, _, ()>::default();
    pool.put(&"a", carried.tunnel.unwrap(), ());
    let served = timeout(Duration::from_secs(5), first).await.expect("the end is sent");
    assert!(served.unwrap().unwrap().0.is_some());
    assert_eq!(pool.idle(), 1);
}

#[tokio::test]
async fn a_tunnel_that_is_dropped_leaves_no_stream_without_its_end() {
    let (carried, first) = ended_by_server(Hop::start(b"?").await).await;
    drop(carried);
    let (_, closed) = first.await.unwrap().unwrap();
    assert!(matches!(closed.why, CloseReason::Finished), "{:?}", closed.why);
}

#[tokio::test]
async fn an_app_gets_the_last_bytes_and_their_end_as_one() {
    let mut hop = Hop::start(b"?").await;
    let [near, ..] = hop.edges.clone();
    let written = || {
        (
            near.writes.load(Ordering::SeqCst),
            near.last_writes.load(Ordering::SeqCst),
        )
    };
    pass(&mut hop.far, &mut hop.near, b"not yet").await;
    assert_eq!(written(), (1, 0));
    hop.far.write_all(b"the last").await.unwrap();
    hop.far.shutdown().await.unwrap();
    hop.near.read_to_end(&mut Vec::new()).await.unwrap();
    assert_eq!(written(), (2, 1));
}

#[tokio::test]
async fn bytes_that_a_reset_follows_are_not_held_back_for_it() {
    let (transport, _, wire) = edge(ROOM);
    let (app, at_app, mut near) = edge(ROOM);
    let client = call(ClientTunnel::new(transport), app);
    let mut peer = Peer { wire };
    peer.expect(Type::Open, 1).await;
    let frames = [opened(1), frame(Type::Data, 1, b"the last"), reset(1, Reason::AppReset)];
    peer.write(&frames.concat()).await;
    near.read_exact(&mut [0; 8]).await.unwrap();
    let _ = client.await.unwrap();
    assert_eq!(at_app.last_writes.load(Ordering::SeqCst), 0);
    assert!(at_app.is_aborted());
}

#[tokio::test]
async fn a_question_and_its_answer_take_one_read_and_one_write_each() {
    const QUESTIONS: usize = 100;
    let mut hop = Hop::start(b"").await;
    pass(&mut hop.near, &mut hop.far, b"the first opens").await;
    pass(&mut hop.far, &mut hop.near, b"the stream").await;
    let before = hop.calls();
    for _ in 0..QUESTIONS {
        pass(&mut hop.near, &mut hop.far, b"?").await;
        pass(&mut hop.far, &mut hop.near, b"!").await;
    }
    for ((reads, writes), (reads_before, writes_before)) in hop.calls().into_iter().zip(before) {
        assert_eq!((reads - reads_before, writes - writes_before), (QUESTIONS, QUESTIONS));
    }
}

#[tokio::test]
async fn a_flow_takes_one_read_and_one_write_for_sixteen_frames() {
    const MIB: usize = 1 << 20;
    let hop = Hop::start(b"").await;
    let (mut near, mut far) = (hop.near, hop.far);
    pass(&mut near, &mut far, b"the first opens the stream").await;
    let counted = |edges: &[Arc<Switches>; 4]| {
        let [app, sends, takes, service] = edges;
        [&app.reads, &sends.writes, &takes.reads, &service.writes].map(|calls| calls.load(Ordering::SeqCst))
    };
    let before = counted(&hop.edges);
    pass(&mut near, &mut far, &vec![7; 8 * MIB]).await;
    // 32 pieces of 256 KiB; where one side waits for the other some are smaller.
    for (calls, before) in counted(&hop.edges).into_iter().zip(before) {
        let calls = calls - before;
        assert!((32..64).contains(&calls), "{calls} for 8 MiB");
    }
}
