//! Trunks: many tunnels on one connection, and what one of them may do to the
//! others.

use std::future::pending;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::UnixStream;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use watchword_proto::tunnel::Reason;
use watchword_tunnel::{
    Call, Carried, ClientTunnel, CloseReason, Closed, Dialled, End, FRAME_DEADLINE, GOAWAY_GRACE, Lane, MAX_LANES,
    SERVER_IDLE, ServerTunnel, Trunk, TunnelError,
};

use crate::edges::{Edge, edge, open, transports};

const OPEN: u8 = 1;
const DATA: u8 = 2;
const CLOSE: u8 = 3;
const ABORT: u8 = 4;
const GRANT: u8 = 5;
/// As docs/wire.md has them, independent of the crate that is under test.
const FIRST_WINDOW: usize = 65_536;
const LARGEST_WINDOW: usize = 262_144;
const MAX_PAYLOAD: usize = 16_376;

type Ended = JoinHandle<Result<(), TunnelError>>;

/// A client's and a server's end of one trunk.
pub(crate) struct Pair {
    trunk: Trunk<Edge>,
    first: Option<Lane<Edge>>,
    client: Ended,
    server: Ended,
    lanes: UnboundedReceiver<Lane<Edge>>,
}

impl Pair {
    pub(crate) fn new((near, far): (Edge, Edge)) -> Self {
        let (trunk, first, driver) = Trunk::connect(near);
        let (server, lanes) = serve(far);
        Self {
            trunk,
            first: Some(first),
            client: tokio::spawn(driver),
            server,
            lanes,
        }
    }

    /// Both ends of one more lane.
    pub(crate) async fn lane(&mut self) -> (Lane<Edge>, Lane<Edge>) {
        let near = match self.first.take() {
            Some(first) => first,
            None => self.trunk.open().expect("room for a lane").0,
        };
        (near, self.lanes.recv().await.expect("a lane"))
    }

    /// A stream on one more lane, with an app's far end on both sides.
    async fn stream(&mut self) -> Stream {
        let (near, far) = self.lane().await;
        let (app, caller_switches, caller) = edge(1000);
        let (service, called_switches, called) = edge(1000);
        Stream {
            caller,
            called,
            switches: [caller_switches, called_switches],
            client: tokio::spawn(ClientTunnel::on_lane(near, Instant::now()).carry(Call::new(app, open()), pending())),
            server: tokio::spawn(serve_one(ServerTunnel::new(far), service, pending())),
        }
    }
}

struct Stream {
    caller: DuplexStream,
    called: DuplexStream,
    switches: [std::sync::Arc<crate::edges::Switches>; 2],
    client: JoinHandle<Carried<Lane<Edge>, Edge>>,
    server: JoinHandle<Closed<Edge>>,
}

impl Stream {
    /// Says something each way, and both hear it.
    async fn talk(&mut self, length: usize) {
        let there: Vec<u8> = (0..length).map(|at| at as u8).collect();
        let back: Vec<u8> = there.iter().rev().copied().collect();
        let (mut heard_there, mut heard_back) = (vec![0; length], vec![0; length]);
        let (mut caller_reads, mut caller_writes) = tokio::io::split(&mut self.caller);
        let (mut called_reads, mut called_writes) = tokio::io::split(&mut self.called);
        let all = async {
            tokio::try_join!(
                caller_writes.write_all(&there),
                called_writes.write_all(&back),
                async { called_reads.read_exact(&mut heard_there).await.map(|_| ()) },
                async { caller_reads.read_exact(&mut heard_back).await.map(|_| ()) },
            )
        };
        timeout(Duration::from_secs(30), all).await.expect("in time").unwrap();
        assert!(heard_there == there && heard_back == back, "the bytes differ");
    }

    /// Both apps end, and both sides call that an end in order.
    async fn finish(mut self) {
        self.caller.shutdown().await.unwrap();
        self.called.shutdown().await.unwrap();
        let End::Closed(mut here) = self.client.await.unwrap().end else {
            panic!("not closed");
        };
        here.settle(pending()).await;
        let mut beyond = self.server.await.unwrap();
        beyond.settle(pending()).await;
        assert!(matches!(
            (here.why, beyond.why),
            (CloseReason::Finished, CloseReason::Finished)
        ));
        assert!(!self.switches.iter().any(|switches| switches.is_aborted()));
    }
}

fn serve(far: Edge) -> (Ended, UnboundedReceiver<Lane<Edge>>) {
    let (sender, lanes) = unbounded_channel();
    let serving = Trunk::serve(far, move |lane| {
        let _ = sender.send(lane);
    });
    (tokio::spawn(serving), lanes)
}

async fn serve_one(tunnel: ServerTunnel<Lane<Edge>>, app: Edge, cut: impl Future<Output = Reason>) -> Closed<Edge> {
    let opening = tunnel.next(pending()).await.unwrap().expect("a stream");
    match opening.dial(async { app }, pending()).await {
        Dialled::Done(opening, app) => opening.carry(app, cut, pending()).await.1,
        other => panic!("{other:?}"),
    }
}

/// Where time is paused: what would never end fails.
async fn in_time<F: Future>(ended: F) -> F::Output {
    timeout(2 * SERVER_IDLE, ended).await.expect("in time")
}

fn frame(kind: u8, lane: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes().to_vec();
    bytes[0] = kind;
    bytes.extend(lane.to_be_bytes());
    bytes.extend(payload);
    bytes
}

#[tokio::test]
async fn many_lanes_carry_streams_of_their_own_through_any_pipe() {
    for wire in [1, 9, 1000, 65_536] {
        let mut pair = Pair::new(transports(wire));
        let mut streams = Vec::new();
        for _ in 0..20 {
            streams.push(pair.stream().await);
        }
        let talking = streams.into_iter().enumerate().map(|(number, mut stream)| {
            tokio::spawn(async move {
                for round in 1..4 {
                    stream.talk(1 + number * round * 37).await;
                }
                stream.finish().await;
            })
        });
        for talk in talking.collect::<Vec<_>>() {
            talk.await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_flow_is_granted_more_and_arrives_whole() {
    let mut stream = Pair::new(transports(100_000)).stream().await;
    stream.talk(3_000_000).await;
    stream.finish().await;
}

#[tokio::test(start_paused = true)]
async fn who_keeps_up_is_sent_more_ahead_and_no_more_than_may_be() {
    let mut pair = Pair::new(transports(1 << 20));
    let (mut near, mut far) = pair.lane().await;
    let mut read = vec![0; 10_000];
    for _ in 0..100 {
        near.write_all(&[7; 10_000]).await.unwrap();
        far.read_exact(&mut read).await.unwrap();
    }
    let mut sent = 0;
    while let Ok(written) = timeout(Duration::from_millis(50), near.write(&[7; 10_000])).await {
        sent += written.unwrap();
    }
    // Less than half of it is read and not yet granted anew.
    assert!((LARGEST_WINDOW / 2..=LARGEST_WINDOW).contains(&sent), "{sent} bytes");
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_nobody_reads_holds_a_bounded_part_and_holds_up_no_other() {
    let mut pair = Pair::new(transports(100_000));
    let (mut near, far) = pair.lane().await;
    let mut sent = 0;
    while let Ok(written) = timeout(Duration::from_millis(50), near.write(&[7; 10_000])).await {
        sent += written.unwrap();
    }
    assert_eq!(sent, FIRST_WINDOW);
    let mut other = pair.stream().await;
    other.talk(500_000).await;
    other.finish().await;
    // What waited is there for who reads at last.
    let mut far = far;
    let mut received = vec![0; sent];
    far.read_exact(&mut received).await.unwrap();
    near.write_all(&[8; 1000]).await.unwrap();
    far.read_exact(&mut received[..1000]).await.unwrap();
    assert_eq!(received[..1000], [8; 1000]);
}

/// The point of it all.
#[tokio::test]
async fn what_many_say_at_once_goes_by_a_few_writes_and_is_read_by_as_many() {
    let (near, far) = transports(1 << 20);
    let (client, server) = (near.switches(), far.switches());
    let mut pair = Pair::new((near, far));
    let mut streams = Vec::new();
    for _ in 0..50 {
        let mut stream = pair.stream().await;
        stream.talk(100).await;
        streams.push(stream);
    }
    // Nobody knows yet how many there are who speak. Then they do.
    for most in [50 / 4 + 1, 3, 3] {
        let count = || [&client.writes, &server.reads].map(|counted| counted.load(Ordering::SeqCst));
        let before = count();
        for stream in &mut streams {
            stream.caller.write_all(b"question").await.unwrap();
        }
        for stream in &mut streams {
            let mut heard = [0; 8];
            stream.called.read_exact(&mut heard).await.unwrap();
        }
        let after = count();
        assert!(
            std::iter::zip(before, after).all(|(before, after)| after - before <= most),
            "{before:?} to {after:?}, of {most}"
        );
    }
}

/// Else each side would rest while the other works.
#[tokio::test]
async fn what_a_few_have_said_leaves_before_the_others_have_spoken() {
    let (near, far) = transports(1 << 20);
    let client = near.switches();
    let mut pair = Pair::new((near, far));
    let mut lanes = Vec::new();
    for _ in 0..6 {
        let (mut near, mut far) = pair.lane().await;
        near.write_all(b"hello").await.unwrap();
        far.read_exact(&mut [0; 5]).await.unwrap();
        lanes.push((near, far));
    }
    let before = client.writes.load(Ordering::SeqCst);
    // Nobody else has a turn here, the driver included.
    let mut left = Vec::new();
    for (near, _) in &mut lanes {
        near.write_all(b"question").await.unwrap();
        left.push(client.writes.load(Ordering::SeqCst) - before);
    }
    assert_eq!(left, [0, 0, 0, 1, 1, 1]);
    for (_, far) in &mut lanes {
        far.read_exact(&mut [0; 8]).await.unwrap();
    }
    assert_eq!(client.writes.load(Ordering::SeqCst) - before, 2);
}

/// Else all of them would be on one side while the other one rests. An app
/// answers by a socket, of which the runtime hears when all have had their turn.
#[tokio::test]
async fn half_of_those_who_call_in_step_are_answered_before_the_others_are_heard() {
    let (near, far) = transports(1 << 20);
    let server = far.switches();
    let mut pair = Pair::new((near, far));
    let (report, mut reports) = unbounded_channel();
    let mut callers = Vec::new();
    for _ in 0..8 {
        let (mut caller, mut called) = pair.lane().await;
        let (server, report) = (server.clone(), report.clone());
        tokio::spawn(async move {
            let (mut app, mut its_end) = UnixStream::pair().unwrap();
            while called.read_exact(&mut [0; 8]).await.is_ok() {
                report.send(server.writes.load(Ordering::SeqCst)).unwrap();
                its_end.write_all(b"answer").await.unwrap();
                // With room for more, or the runtime would know that there is something.
                assert_eq!(app.read(&mut [0; 64]).await.unwrap(), 6);
                called.write_all(b"answer").await.unwrap();
            }
        });
        // One by one at first.
        caller.write_all(b"question").await.unwrap();
        caller.read_exact(&mut [0; 6]).await.unwrap();
        callers.push(caller);
    }
    for round in 0..3 {
        while reports.try_recv().is_ok() {}
        let before = server.writes.load(Ordering::SeqCst);
        for caller in &mut callers {
            caller.write_all(b"question").await.unwrap();
        }
        for caller in &mut callers {
            caller.read_exact(&mut [0; 6]).await.unwrap();
        }
        let mut sent = Vec::new();
        while let Ok(writes) = reports.try_recv() {
            sent.push(writes - before);
        }
        assert_eq!(sent, [0, 0, 0, 0, 1, 1, 1, 1], "round {round}");
    }
}

/// One more packet costs more than one more look at who else has something.
#[tokio::test]
async fn what_one_has_said_goes_with_what_an_app_is_about_to_make_another_say() {
    let (near, far) = transports(1 << 20);
    let client = near.switches();
    let mut pair = Pair::new((near, far));
    let ((mut one, mut heard), (mut other, mut heard_of_other)) = (pair.lane().await, pair.lane().await);
    let (mut app, mut its_end) = UnixStream::pair().unwrap();
    tokio::spawn(async move {
        while app.read(&mut [0; 64]).await.is_ok_and(|read| read > 0) {
            other.write_all(b"question").await.unwrap();
        }
    });
    let mut writes = Vec::new();
    for _ in 0..5 {
        let before = client.writes.load(Ordering::SeqCst);
        its_end.write_all(b"ask").await.unwrap();
        one.write_all(b"question").await.unwrap();
        for heard in [&mut heard, &mut heard_of_other] {
            heard.read_exact(&mut [0; 8]).await.unwrap();
        }
        writes.push(client.writes.load(Ordering::SeqCst) - before);
    }
    // Who has spoken once is no company yet.
    assert_eq!(writes[2..], [1, 1, 1], "{writes:?}");
}

/// The one who speaks is not the one who drives the connection.
#[tokio::test]
async fn what_could_not_leave_at_once_leaves_once_there_is_room() {
    let mut pair = Pair::new(transports(1000));
    let mut lanes = Vec::new();
    for _ in 0..6 {
        lanes.push(pair.lane().await);
    }
    for (near, _) in &mut lanes {
        near.write_all(&[7; 5000]).await.unwrap();
    }
    for (_, far) in &mut lanes {
        let mut received = [0; 5000];
        let read = timeout(Duration::from_secs(10), far.read_exact(&mut received)).await;
        read.expect("it never left").unwrap();
        assert_eq!(received, [7; 5000]);
    }
}

#[tokio::test]
async fn a_stream_that_is_cut_resets_both_its_apps_with_the_reason_and_no_other() {
    let mut pair = Pair::new(transports(65_536));
    let mut other = pair.stream().await;
    other.talk(100).await;
    let (near, far) = pair.lane().await;
    let (app, caller, _caller_end) = edge(1000);
    let (service, called, _called_end) = edge(1000);
    let (cut, cuts) = tokio::sync::oneshot::channel();
    let server = tokio::spawn(serve_one(ServerTunnel::new(far), service, async {
        cuts.await.unwrap()
    }));
    let client = tokio::spawn(ClientTunnel::on_lane(near, Instant::now()).carry(Call::new(app, open()), pending()));
    other.talk(100).await;
    cut.send(Reason::DenyRule).unwrap();
    let End::Closed(closed) = client.await.unwrap().end else {
        panic!("not closed");
    };
    assert!(
        matches!(closed.why, CloseReason::PeerReset(Reason::DenyRule)),
        "{:?}",
        closed.why
    );
    drop(closed);
    assert!(matches!(server.await.unwrap().why, CloseReason::Cut(Reason::DenyRule)));
    assert!(caller.is_aborted() && called.is_aborted());
    other.talk(100).await;
    other.finish().await;
}

#[tokio::test]
async fn a_lane_that_is_dropped_within_a_stream_resets_the_app_on_the_other_side() {
    let mut pair = Pair::new(transports(65_536));
    let mut stream = pair.stream().await;
    stream.talk(100).await;
    stream.server.abort();
    let ended = timeout(Duration::from_secs(5), stream.client).await.expect("in time");
    let End::Closed(closed) = ended.unwrap().end else {
        panic!("not closed");
    };
    assert!(matches!(closed.why, CloseReason::Lost(_)), "{:?}", closed.why);
    assert!(stream.switches[0].is_aborted());
}

/// As a socket that is closed with something unread.
#[tokio::test]
async fn who_writes_to_a_lane_that_was_left_is_told() {
    let mut pair = Pair::new(transports(65_536));
    let (mut near, far) = pair.lane().await;
    drop(far);
    let write = async {
        loop {
            if let Err(error) = near.write_all(&[1; 1000]).await {
                return error;
            }
        }
    };
    let error = timeout(Duration::from_secs(5), write).await.expect("in time");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn when_the_connection_breaks_every_app_on_it_is_reset() {
    for is_abrupt in [true, false] {
        let mut pair = Pair::new(transports(65_536));
        let mut streams = Vec::new();
        for _ in 0..5 {
            let mut stream = pair.stream().await;
            stream.talk(100).await;
            streams.push(stream);
        }
        if is_abrupt {
            pair.server.abort();
        } else {
            pair.client.abort();
        }
        let _ = (&mut pair.server).await;
        let _ = (&mut pair.client).await;
        for stream in streams {
            // The side whose driver was killed hears nothing; the other must.
            let side = usize::from(!is_abrupt);
            let ended = async {
                match is_abrupt {
                    true => drop(stream.client.await.unwrap()),
                    false => drop(stream.server.await.unwrap()),
                }
            };
            timeout(Duration::from_secs(5), ended).await.expect("in time");
            assert!(stream.switches[side].is_aborted());
        }
        assert!(
            !is_abrupt || pair.trunk.open().is_none(),
            "a trunk that is over opens lanes"
        );
    }
}

#[tokio::test]
async fn each_bad_frame_ends_the_trunk() {
    let more = |kind: u8, payload: &[u8]| [frame(OPEN, 1, &[]), frame(kind, 1, payload)].concat();
    let too_much = vec![frame(DATA, 1, &[0; 16_000]); 5].concat();
    let too_many: Vec<_> = (1..=MAX_LANES as u32 + 1).map(|lane| frame(OPEN, lane, &[])).collect();
    let grant = |bytes: usize| u32::try_from(bytes).unwrap().to_be_bytes();
    let cases: [(&str, Vec<u8>); 14] = [
        ("an unknown type", frame(9, 1, &[])),
        ("no type", frame(0, 1, &[])),
        ("a lane number left out", frame(OPEN, 2, &[])),
        ("a lane twice", more(OPEN, &[])),
        ("lane 0", frame(OPEN, 0, &[])),
        ("an OPEN with a payload", frame(OPEN, 1, &[1])),
        ("bytes of a lane that was never opened", frame(DATA, 1, &[1])),
        ("an end of a lane that was never opened", frame(ABORT, 7, &[])),
        ("a frame that is too long", more(DATA, &[0; MAX_PAYLOAD + 1])),
        ("more than was granted", [frame(OPEN, 1, &[]), too_much].concat()),
        ("bytes behind an end", [more(CLOSE, &[]), frame(DATA, 1, &[1])].concat()),
        ("a grant of three bytes", more(GRANT, &[0, 0, 1])),
        (
            "a grant beyond all bounds",
            more(GRANT, &grant(LARGEST_WINDOW - FIRST_WINDOW + 1)),
        ),
        ("too many lanes", too_many.concat()),
    ];
    for (name, bytes) in cases {
        let (far, switches, mut wire) = edge(1 << 20);
        let (server, mut lanes) = serve(far);
        wire.write_all(&bytes).await.unwrap();
        let ended = timeout(Duration::from_secs(5), server).await.expect(name).unwrap();
        let error = ended.expect_err(name);
        assert!(matches!(error, TunnelError::Trunk(_)), "{name}: {error}");
        assert_eq!(error.label(), "protocol", "{name}");
        assert!(switches.is_aborted(), "{name}");
        // Lanes that were there are over, too.
        while let Some(mut lane) = lanes.recv().await {
            let mut rest = Vec::new();
            assert!(lane.read_to_end(&mut rest).await.is_err(), "{name}");
        }
    }
}

#[tokio::test]
async fn what_is_allowed_at_the_edges_goes_on() {
    let (far, _, mut wire) = edge(1 << 20);
    let (server, mut lanes) = serve(far);
    let grant = u32::try_from(LARGEST_WINDOW - FIRST_WINDOW).unwrap().to_be_bytes();
    for bytes in [
        frame(OPEN, 1, &[]),
        frame(GRANT, 1, &grant),
        frame(DATA, 1, &[]),
        frame(DATA, 1, &[3; MAX_PAYLOAD]),
        frame(CLOSE, 1, &[]),
        frame(OPEN, 2, &[]),
        frame(ABORT, 2, &[]),
        // What crosses the end of a lane is for nobody.
        frame(DATA, 2, &[1]),
        frame(GRANT, 2, &[0, 0, 0, 1]),
        frame(CLOSE, 2, &[]),
    ] {
        wire.write_all(&bytes).await.unwrap();
    }
    let mut received = Vec::new();
    let mut lane = lanes.recv().await.unwrap();
    lane.read_to_end(&mut received).await.unwrap();
    assert_eq!(received, [3; MAX_PAYLOAD]);
    drop((lane, wire));
    server.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_is_not_finished_ends_the_trunk_in_time() {
    for cut in [1, 7, 8, 20] {
        let (far, _, mut wire) = edge(1 << 20);
        let (server, _lanes) = serve(far);
        let bytes = [frame(OPEN, 1, &[]), frame(DATA, 1, &[0; 100])].concat();
        let began = Instant::now();
        wire.write_all(&bytes[..8 + cut]).await.unwrap();
        let error = server.await.unwrap().unwrap_err();
        assert!(matches!(error, TunnelError::SlowFrame), "{error}");
        assert!(began.elapsed() < FRAME_DEADLINE + Duration::from_secs(1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_trunk_without_lanes_is_closed_by_its_client_at_once_and_by_its_server_in_time() {
    let mut pair = Pair::new(transports(65_536));
    let lanes = [pair.lane().await, pair.lane().await];
    let began = Instant::now();
    drop(lanes);
    in_time(pair.client).await.unwrap().unwrap();
    in_time(pair.server).await.unwrap().unwrap();
    assert!(began.elapsed() < Duration::from_secs(1));
    assert!(pair.trunk.is_over() && pair.trunk.open().is_none());

    let (far, _, _wire) = edge(1000);
    let (server, _lanes) = serve(far);
    let began = Instant::now();
    in_time(server).await.unwrap().unwrap();
    assert!((SERVER_IDLE..SERVER_IDLE + Duration::from_secs(1)).contains(&began.elapsed()));
}

/// The server may not have noticed yet.
#[tokio::test]
async fn a_lane_that_its_client_has_aborted_makes_room_for_another() {
    let mut pair = Pair::new(transports(1 << 20));
    let mut held = Vec::new();
    for _ in 0..MAX_LANES {
        held.push(pair.lane().await);
    }
    assert!(pair.trunk.open().is_none());
    let (mut near, far) = held.pop().unwrap();
    watchword_tunnel::Transport::abort(&mut near);
    drop(near);
    let mut another = pair.stream().await;
    another.talk(100).await;
    another.finish().await;
    drop(far);
}

#[tokio::test(start_paused = true)]
async fn a_lane_whose_end_is_never_answered_does_not_keep_the_trunk() {
    let within = GOAWAY_GRACE..GOAWAY_GRACE + Duration::from_secs(1);
    let (far, _, mut wire) = edge(1000);
    let (server, mut lanes) = serve(far);
    wire.write_all(&frame(OPEN, 1, &[])).await.unwrap();
    drop(lanes.recv().await.unwrap());
    let began = Instant::now();
    in_time(server).await.unwrap().unwrap();
    assert!(within.contains(&began.elapsed()));

    let (near, _, _wire) = edge(1000);
    let (trunk, first, driver) = Trunk::connect(near);
    drop(first);
    let began = Instant::now();
    in_time(driver).await.unwrap();
    assert!(within.contains(&began.elapsed()) && trunk.open().is_none());
}

#[tokio::test(start_paused = true)]
async fn what_was_said_before_writing_failed_is_still_read() {
    let (far, switches, mut wire) = edge(1 << 20);
    let (server, mut lanes) = serve(far);
    wire.write_all(&frame(OPEN, 1, &[])).await.unwrap();
    let mut lane = lanes.recv().await.unwrap();
    switches.unwritable.store(true, Ordering::SeqCst);
    lane.write_all(b"an answer").await.unwrap();
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    assert!(lane.write_all(b"more").await.is_err());
    wire.write_all(&frame(DATA, 1, b"goodbye")).await.unwrap();
    let mut heard = [0; 7];
    lane.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"goodbye");
    let error = server.await.unwrap().unwrap_err();
    assert!(matches!(error, TunnelError::Io(_)), "{error}");
    assert!(lane.read_exact(&mut heard).await.is_err());
}

#[tokio::test]
async fn a_lane_asks_for_quick_failure_on_behalf_of_its_connection() {
    let (near, far) = transports(65_536);
    let switches = near.switches();
    let mut pair = Pair::new((near, far));
    let limits = || switches.limits_silence.load(Ordering::SeqCst);
    let (one, other) = (pair.lane().await.0, pair.lane().await.0);
    for (lane, limit, expected) in [
        (&one, Some(Duration::from_secs(5)), true),
        (&other, Some(Duration::from_secs(5)), true),
        (&one, None, true),
        (&one, None, true),
        (&other, None, false),
    ] {
        watchword_tunnel::Transport::limit_silence(lane, limit);
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        assert_eq!(limits(), expected);
    }
}

#[tokio::test]
async fn lanes_that_live_and_die_by_chance_never_mix() {
    let mut state = 88_172_645_463_325_252_u64;
    let mut roll = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as usize % below
    };
    let mut pair = Pair::new(transports(10_000));
    let mut running = Vec::new();
    // One lane keeps the trunk open.
    let _kept = pair.lane().await;
    for mark in 0..300 {
        let (near, far) = pair.lane().await;
        let (length, read, is_abrupt) = (roll(100_000), roll(120_000), roll(3) == 0);
        running.push(tokio::spawn(async move {
            let (mut near, mut far) = (near, far);
            let byte = |at: usize| (mark * 31 + at * 7 + at / 251) as u8;
            let write = async {
                let bytes: Vec<u8> = (0..length).map(byte).collect();
                for piece in bytes.chunks(7777) {
                    if near.write_all(piece).await.is_err() {
                        return;
                    }
                }
                if is_abrupt {
                    watchword_tunnel::Transport::abort(&mut near);
                }
                drop(near);
            };
            let check = async {
                let mut received = Vec::new();
                let mut part = (&mut far).take(read as u64);
                let ended = part.read_to_end(&mut received).await;
                drop(far);
                assert!(
                    received.iter().enumerate().all(|(at, found)| *found == byte(at)),
                    "{mark}"
                );
                if ended.is_ok() && !is_abrupt {
                    assert_eq!(received.len(), length.min(read), "{mark}");
                }
            };
            tokio::join!(write, check);
        }));
        if running.len() >= 40 {
            let task = running.remove(roll(40));
            timeout(Duration::from_secs(20), task).await.expect("in time").unwrap();
        }
    }
    for task in running {
        timeout(Duration::from_secs(20), task).await.expect("in time").unwrap();
    }
}

/// Whatever comes, nothing panics, and the end comes.
#[tokio::test]
async fn any_bytes_at_all_end_in_order_or_with_a_reason() {
    let mut state = 1_u64;
    let mut byte = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    for _ in 0..500 {
        let mut bytes = Vec::new();
        for _ in 0..20 {
            let length = usize::from(byte() % 12);
            let payload: Vec<u8> = (0..length).map(|_| byte()).collect();
            bytes.extend(frame(byte() % 7, u32::from(byte() % 4), &payload));
        }
        let (near, _, mut wire) = edge(1 << 16);
        let (server, lanes) = serve(near);
        wire.write_all(&bytes).await.unwrap();
        drop(wire);
        let _ = timeout(Duration::from_secs(5), server).await.expect("an end").unwrap();
        drop(lanes);
    }
}
