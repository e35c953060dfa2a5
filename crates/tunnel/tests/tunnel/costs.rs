//! How often edges are read and written: each time is a system call, and most
//! of what a hop costs. Counts, since times depend on the day.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;
use watchword_tunnel::{Carried, ClientTunnel, ServerTunnel, TunnelError};

use crate::edges::{Edge, Served, Switches, call, edge, serve, transports};

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

// OPENED waits a millisecond for the answer, which a busy machine may not have.
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
