//! What drives a trunk: it reads for all lanes, and sends what they have said.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::ReadBuf;
use tokio::task::yield_now;
use tokio::time::Instant;

use super::Lane;
use super::shared::{HEADER, MAX_PAYLOAD, OUTPUT_BOUND, Over, Shared, lock, violation};
use crate::buffer::Buffer;
use crate::edge::Transport;
use crate::error::TunnelError;
use crate::timer::{Timer, earlier};
use crate::{DISCARD_DEADLINE, FRAME_DEADLINE, GOAWAY_GRACE, SERVER_IDLE, SILENCE_LIMIT};

/// Reads before others have their turn.
const READS: usize = 8;

/// How much of what came was given to lanes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Taken {
    All,
    Part,
}

pub(super) struct Driver<T: Transport> {
    shared: Arc<Mutex<Shared<T>>>,
    input: Buffer,
    /// Writing failed; what the peer still has to say is read until then.
    write_failure: Option<(io::Error, Instant)>,
    is_impatient: bool,
    /// Less than a part has waited for others to say more.
    has_waited: bool,
    timer: Timer,
    /// A frame that was begun must be complete by then.
    frame_by: Option<Instant>,
    /// How long the trunk is kept as it is, and until when.
    patience: Option<Duration>,
    idle_by: Option<Instant>,
}

impl<T: Transport> Driver<T> {
    pub(super) fn new(shared: Arc<Mutex<Shared<T>>>) -> Self {
        Self {
            shared,
            input: Buffer::default(),
            write_failure: None,
            is_impatient: false,
            has_waited: false,
            timer: Timer::default(),
            frame_by: None,
            patience: None,
            idle_by: None,
        }
    }

    pub(super) async fn run(mut self, mut on_lane: impl FnMut(Lane<T>)) -> Result<(), TunnelError> {
        let ended = poll_fn(|cx| self.poll(cx, &mut on_lane)).await;
        let over = match &ended {
            Ok(()) => Over::InOrder,
            Err(TunnelError::Io(error)) => Over::Failed(error.kind()),
            Err(_) => Over::Failed(io::ErrorKind::InvalidData),
        };
        let mut shared = lock(&self.shared);
        if let Some(mut transport) = shared.transport.take() {
            match ended {
                // A goodbye, if it can go at once.
                Ok(()) => {
                    let _ = Pin::new(&mut transport).poll_shutdown(&mut Context::from_waker(Waker::noop()));
                }
                Err(_) => transport.abort(),
            }
        }
        shared.end(over);
        drop(shared);
        ended
    }

    /// Ready when the trunk is over.
    fn poll(&mut self, cx: &mut Context<'_>, on_lane: &mut impl FnMut(Lane<T>)) -> Poll<Result<(), TunnelError>> {
        let mut has_read_all = false;
        for reads in 0.. {
            if self.take_frames(on_lane)? == Taken::Part || reads == READS {
                let_others_go_first(cx);
                break;
            }
            if has_read_all {
                break;
            }
            match self.poll_read(cx)? {
                Poll::Ready((0, _)) => return Poll::Ready(Ok(())),
                Poll::Ready((_, is_all)) => has_read_all = is_all,
                Poll::Pending => break,
            }
        }
        self.input.rest();
        if self.send(cx)? {
            self.look_at_lanes();
            if self.patience == Some(Duration::ZERO) {
                return Poll::Ready(Ok(()));
            }
        }
        loop {
            let failure_by = self.write_failure.as_ref().map(|(_, by)| *by);
            let deadline = earlier(failure_by, earlier(self.frame_by, self.idle_by));
            if self.timer.poll(cx, deadline).is_pending() {
                return Poll::Pending;
            }
            let has_passed = |by: Option<Instant>| by.is_some_and(|by| Instant::now() >= by);
            if has_passed(self.frame_by) {
                return Poll::Ready(Err(TunnelError::SlowFrame));
            }
            if has_passed(self.idle_by) {
                return Poll::Ready(Ok(()));
            }
            if has_passed(failure_by)
                && let Some((error, _)) = self.write_failure.take()
            {
                return Poll::Ready(Err(error.into()));
            }
        }
    }

    /// Once: how many bytes, and whether more of them will wake us.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(usize, bool), TunnelError>> {
        if self.input.room_left() < HEADER + MAX_PAYLOAD {
            self.input.compact();
        }
        let mut shared = lock(&self.shared);
        // What is said from here on is sent in this turn.
        shared.is_woken = true;
        let Some(transport) = &mut shared.transport else {
            return Poll::Ready(Ok((0, false)));
        };
        let mut room = ReadBuf::new(self.input.room());
        let read = Pin::new(&mut *transport).poll_read(cx, &mut room);
        let count = room.filled().len();
        let is_all = transport.has_given_all();
        match read {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(())) => {}
            // TLS calls an end without close_notify so.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
        }
        shared.heard = Instant::now();
        self.input.commit(count);
        Poll::Ready(Ok((count, is_all)))
    }

    /// Gives lanes what came for them, until there are enough of them.
    fn take_frames(&mut self, on_lane: &mut impl FnMut(Lane<T>)) -> Result<Taken, TunnelError> {
        if self.input.is_empty() {
            return Ok(Taken::All);
        }
        let mut opened = Vec::new();
        let mut shared = lock(&self.shared);
        let enough = shared.hearing.times() + shared.hearing.part();
        let mut taken = Taken::All;
        while let Some((header, rest)) = self.input.bytes().split_first_chunk::<HEADER>() {
            let [kind, a, b, c, lane @ ..] = *header;
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            if length > MAX_PAYLOAD {
                return violation("a frame that is too long");
            }
            let Some(payload) = rest.get(..length) else {
                break;
            };
            if shared.hearing.times() >= enough {
                taken = Taken::Part;
                break;
            }
            let lane = u32::from_be_bytes(lane);
            if shared.take(kind, lane, payload)? {
                opened.push(lane);
            }
            self.input.consume(HEADER + length);
            self.frame_by = None;
        }
        if taken == Taken::All {
            shared.hearing.look();
            if !self.input.is_empty() && self.frame_by.is_none() {
                self.frame_by = Some(shared.heard + FRAME_DEADLINE);
            }
        }
        drop(shared);
        for number in opened {
            on_lane(Lane::new(Arc::clone(&self.shared), number));
        }
        Ok(taken)
    }

    /// Sends what lanes have said and are granted, unless that waits for a turn.
    fn send(&mut self, cx: &mut Context<'_>) -> Result<bool, TunnelError> {
        let mut shared = lock(&self.shared);
        // What is granted here needs no wake.
        shared.is_woken = true;
        shared.grant();
        if shared.could_say_more() && !std::mem::replace(&mut self.has_waited, true) {
            let_others_go_first(cx);
            return Ok(false);
        }
        self.has_waited = false;
        match &mut shared.driver {
            Some(driver) => driver.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        shared.send(cx);
        shared.end_turn();
        if let Some(error) = shared.failed_by.take() {
            self.write_failure = Some((error, Instant::now() + DISCARD_DEADLINE));
        }
        if shared.output.len() > OUTPUT_BOUND {
            return violation("it makes us say more than it reads");
        }
        if shared.output.is_empty() {
            shared.unblock();
        }
        Ok(true)
    }

    /// What they wish of the connection, and how long it is kept as it is: only
    /// a client can open a lane, and one that we have left may never be answered.
    fn look_at_lanes(&mut self) {
        let shared = lock(&self.shared);
        let is_impatient = shared.impatient > 0;
        let patience = match (shared.held, shared.lanes.is_empty(), shared.is_client) {
            (1.., _, _) => None,
            (_, true, true) => Some(Duration::ZERO),
            (_, true, false) => Some(SERVER_IDLE),
            (_, false, _) => Some(GOAWAY_GRACE),
        };
        if is_impatient != self.is_impatient {
            self.is_impatient = is_impatient;
            if let Some(transport) = &shared.transport {
                transport.limit_silence(is_impatient.then_some(SILENCE_LIMIT));
            }
        }
        if patience != self.patience {
            self.patience = patience;
            self.idle_by = patience.map(|patience| Instant::now() + patience);
        }
    }
}

/// The next turn comes when all have had theirs, those among them that sockets
/// wake by then: of apps that have answered meanwhile, above all.
fn let_others_go_first(cx: &mut Context<'_>) {
    // It tells the runtime where it is polled, not how it ends.
    let _ = pin!(yield_now()).poll(cx);
}

impl<T: Transport> Drop for Driver<T> {
    fn drop(&mut self) {
        lock(&self.shared).end(Over::Failed(io::ErrorKind::ConnectionAborted));
    }
}
