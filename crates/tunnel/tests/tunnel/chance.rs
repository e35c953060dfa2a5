//! Streams in a row on one tunnel, each living and dying by chance: whatever
//! happens, an app gets only bytes of its own stream, in order, and nothing
//! waits for ever. Paused time makes a deadlock a timeout.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::{sleep, timeout};
use watchword_proto::tunnel::{Denied, Reason};
use watchword_tunnel::{Call, Carried, ClientTunnel, CloseReason, Dialled, End, ServerTunnel};

use crate::edges::{Edge, Switches, edge, next, open, tunnels};

/// A repeatable source of chance.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % below
    }

    fn size(&mut self) -> usize {
        let scale = [2, 30, 1000, 20_000, 100_000][self.roll(5) as usize];
        1 + self.roll(scale) as usize
    }
}

/// What the far end of an app's connection does.
#[derive(Clone, Copy)]
struct Plan {
    writes: usize,
    reads: usize,
    /// In seconds, before it reads.
    sleeps: u64,
    resets: bool,
}

impl Plan {
    fn new(dice: &mut Dice) -> Self {
        let resets = dice.roll(3) == 0;
        Self {
            writes: dice.size(),
            reads: if resets { dice.size() } else { usize::MAX },
            sleeps: [0, 0, 0, 3][dice.roll(4) as usize],
            resets,
        }
    }
}

/// The byte at a position of a stream's one direction.
fn byte(mark: u64, position: usize) -> u8 {
    (mark * 31 + position as u64 * 7 + position as u64 / 251) as u8
}

/// Lives by the plan; returns how much was received, all of it `expected`.
async fn live(app: DuplexStream, switches: Arc<Switches>, plan: Plan, (own, expected): (u64, u64)) -> usize {
    let (mut reader, mut writer) = tokio::io::split(app);
    let write = async {
        let bytes: Vec<u8> = (0..plan.writes).map(|at| byte(own, at)).collect();
        for piece in bytes.chunks(777) {
            if writer.write_all(piece).await.is_err() {
                return;
            }
        }
        if !plan.resets {
            let _ = writer.shutdown().await;
        }
    };
    let read = async {
        sleep(Duration::from_secs(plan.sleeps)).await;
        let mut received = 0;
        let mut buffer = [0; 1000];
        while received < plan.reads {
            match reader.read(&mut buffer).await {
                Ok(count) if count > 0 => {
                    for byte_read in &buffer[..count] {
                        assert_eq!(*byte_read, byte(expected, received), "at {received}");
                        received += 1;
                    }
                }
                _ => break,
            }
        }
        if plan.resets {
            switches.reset.store(true, Ordering::SeqCst);
        }
        received
    };
    if plan.resets {
        // Whatever is first: all is written, or enough was read.
        tokio::select! {
            () = write => { switches.reset.store(true, Ordering::SeqCst); 0 }
            received = read => received,
        }
    } else {
        tokio::join!(write, read).1
    }
}

async fn serve(
    server: ServerTunnel<Edge>,
    service: Edge,
    fate: u64,
) -> (Option<ServerTunnel<Edge>>, Option<CloseReason>) {
    let opening = next(server).await;
    match fate {
        0 => return (opening.deny(&Denied::default()).await.ok().flatten(), None),
        1 => return (opening.refuse(111).await.ok().flatten(), None),
        _ => {}
    }
    let wait = Duration::from_secs(if fate == 2 { 20 } else { fate % 2 });
    let dial = async {
        sleep(wait).await;
        service
    };
    match opening.dial(dial, pending::<Reason>()).await {
        Dialled::Done(opening, service) => {
            let (tunnel, mut closed) = opening.carry(service, pending(), pending()).await;
            closed.settle(pending()).await;
            (tunnel, Some(closed.why))
        }
        Dialled::Reset { tunnel, .. } => (tunnel, None),
        Dialled::Lost(_) | Dialled::Cut(_) => (None, None),
    }
}

async fn carry(client: ClientTunnel<Edge>, app: Edge) -> (Option<ClientTunnel<Edge>>, Option<CloseReason>) {
    let Carried { tunnel, end } = client.carry(Call::new(app, open()), pending()).await;
    match end {
        End::Closed(mut closed) => {
            closed.settle(pending()).await;
            (tunnel, Some(closed.why))
        }
        _ => (tunnel, None),
    }
}

#[tokio::test(start_paused = true)]
async fn streams_that_live_and_die_by_chance_never_mix() {
    let mut reused = 0;
    let mut finished = 0;
    for seed in 1..100 {
        let mut dice = Dice(u64::wrapping_mul(seed, 0x9E37_79B9_7F4A_7C15));
        let (mut client, mut server) = tunnels(dice.size() + 8);
        for stream in 0..12 {
            let (app, app_switches, near) = edge(dice.size());
            let (service, service_switches, far) = edge(dice.size());
            let (here, there) = (Plan::new(&mut dice), Plan::new(&mut dice));
            let marks = (stream * 2, stream * 2 + 1);
            let fate = dice.roll(12);
            let all = async {
                tokio::join!(
                    carry(client, app),
                    serve(server, service, fate),
                    live(near, app_switches, here, marks),
                    live(far, service_switches, there, (marks.1, marks.0)),
                )
            };
            let (ours, theirs, got_back, got_there) = timeout(Duration::from_secs(300), Box::pin(all))
                .await
                .unwrap_or_else(|_| panic!("seed {seed} stream {stream} hangs"));
            if let (Some(CloseReason::Finished), Some(CloseReason::Finished)) = (&ours.1, &theirs.1) {
                assert_eq!(
                    (got_back, got_there),
                    (there.writes, here.writes),
                    "seed {seed} stream {stream}"
                );
                finished += 1;
            }
            match (ours.0, theirs.0) {
                (Some(c), Some(s)) => (client, server) = (c, s),
                _ => break,
            }
            reused += 1;
        }
    }
    assert!(reused > 150 && finished > 75, "{reused} reused, {finished} finished");
}
