//! What drives a trunk: it reads for all lanes, and sends what they have said.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use tokio::io::ReadBuf;
use tokio::time::Instant;

use super::{HEADER, Lane, MAX_PAYLOAD, OUTPUT_BOUND, Over, Shared, lock, violation};
use crate::buffer::Buffer;
use crate::edge::Transport;
use crate::error::TunnelError;
use crate::timer::Timer;
use crate::{FRAME_DEADLINE, SERVER_IDLE, SILENCE_LIMIT};

/// Reads before others have their turn.
const READS: usize = 8;

pub(super) struct Driver<T: Transport> {
    transport: T,
    shared: Arc<Mutex<Shared>>,
    input: Buffer,
    /// What is being sent.
    sending: Buffer,
    needs_flush: bool,
    is_impatient: bool,
    timer: Timer,
    /// A frame that was begun must be complete by then.
    frame_by: Option<Instant>,
    /// There is no lane: one must have come by then.
    idle_by: Option<Instant>,
}

impl<T: Transport> Driver<T> {
    pub(super) fn new(transport: T, shared: Arc<Mutex<Shared>>) -> Self {
        Self {
            transport,
            shared,
            input: Buffer::default(),
            sending: Buffer::default(),
            needs_flush: false,
            is_impatient: false,
            timer: Timer::default(),
            frame_by: None,
            idle_by: None,
        }
    }

    pub(super) async fn run(mut self, mut on_lane: impl FnMut(Lane)) -> Result<(), TunnelError> {
        let ended = poll_fn(|cx| self.poll(cx, &mut on_lane)).await;
        let over = match &ended {
            Ok(()) => Over::InOrder,
            Err(TunnelError::Io(error)) => Over::Failed(error.kind()),
            Err(_) => Over::Failed(io::ErrorKind::InvalidData),
        };
        lock(&self.shared).end(over);
        match ended {
            // A goodbye, if it can go at once.
            Ok(()) => {
                poll_fn(|cx| {
                    let _ = Pin::new(&mut self.transport).poll_shutdown(cx);
                    Poll::Ready(())
                })
                .await
            }
            Err(_) => self.transport.abort(),
        }
        ended
    }

    /// Ready when the trunk is over.
    fn poll(&mut self, cx: &mut Context<'_>, on_lane: &mut impl FnMut(Lane)) -> Poll<Result<(), TunnelError>> {
        let mut is_read = false;
        for _ in 0..READS {
            match self.poll_read(cx)? {
                Poll::Ready(0) => return Poll::Ready(Ok(())),
                Poll::Ready(_) => self.take_frames(on_lane)?,
                Poll::Pending => {
                    is_read = true;
                    break;
                }
            }
        }
        if !is_read {
            cx.waker().wake_by_ref();
        }
        self.input.rest();
        self.send(cx)?;
        if self.look_at_lanes() {
            return Poll::Ready(Ok(()));
        }
        loop {
            let deadline = [self.frame_by, self.idle_by].into_iter().flatten().min();
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
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, TunnelError>> {
        if self.input.room_left() < HEADER + MAX_PAYLOAD {
            self.input.compact();
        }
        let mut room = ReadBuf::new(self.input.room());
        let read = Pin::new(&mut self.transport).poll_read(cx, &mut room);
        let count = room.filled().len();
        match read {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(())) => {}
            // TLS calls an end without close_notify so.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
        }
        self.input.commit(count);
        Poll::Ready(Ok(count))
    }

    fn take_frames(&mut self, on_lane: &mut impl FnMut(Lane)) -> Result<(), TunnelError> {
        let mut opened = Vec::new();
        let mut shared = lock(&self.shared);
        shared.heard = Instant::now();
        while let Some((header, rest)) = self.input.bytes().split_first_chunk::<HEADER>() {
            let [kind, a, b, c, lane @ ..] = *header;
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            if length > MAX_PAYLOAD {
                return violation("a frame that is too long");
            }
            let Some(payload) = rest.get(..length) else {
                break;
            };
            let lane = u32::from_be_bytes(lane);
            if shared.take(kind, lane, payload)? {
                opened.push(lane);
            }
            self.input.consume(HEADER + length);
            self.frame_by = None;
        }
        if !self.input.is_empty() && self.frame_by.is_none() {
            self.frame_by = Some(shared.heard + FRAME_DEADLINE);
        }
        drop(shared);
        for number in opened {
            on_lane(Lane::new(Arc::clone(&self.shared), number));
        }
        Ok(())
    }

    fn send(&mut self, cx: &mut Context<'_>) -> Result<(), TunnelError> {
        let mut shared = lock(&self.shared);
        // What is granted here needs no wake.
        shared.driver = None;
        shared.grant();
        loop {
            if self.sending.is_empty() {
                std::mem::swap(&mut self.sending, &mut shared.output);
                if self.sending.is_empty() {
                    break;
                }
            }
            match Pin::new(&mut self.transport).poll_write(cx, self.sending.bytes())? {
                Poll::Ready(0) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                Poll::Ready(count) => {
                    self.sending.consume(count);
                    shared.handed += count as u64;
                    self.needs_flush = true;
                }
                Poll::Pending => break,
            }
        }
        if self.needs_flush && Pin::new(&mut self.transport).poll_flush(cx)?.is_ready() {
            self.needs_flush = false;
        }
        shared.driver = Some(cx.waker().clone());
        self.sending.rest();
        shared.output.rest();
        shared.is_stuck = self.needs_flush || !self.sending.is_empty();
        if shared.output.len() > OUTPUT_BOUND {
            return violation("it makes us say more than it reads");
        }
        if shared.output.is_empty() {
            for lane in std::mem::take(&mut shared.blocked) {
                if let Some(writer) = shared.lanes.get_mut(&lane).and_then(|state| state.writer.take()) {
                    writer.wake();
                }
            }
        }
        Ok(())
    }

    /// What they wish of the connection, and whether none is left that could come
    /// back: only a client can open one.
    fn look_at_lanes(&mut self) -> bool {
        let shared = lock(&self.shared);
        let is_impatient = shared.impatient > 0;
        let (is_empty, is_client) = (shared.lanes.is_empty(), shared.is_client);
        drop(shared);
        if is_impatient != self.is_impatient {
            self.is_impatient = is_impatient;
            self.transport.limit_silence(is_impatient.then_some(SILENCE_LIMIT));
        }
        if !is_empty {
            self.idle_by = None;
        } else if !is_client {
            self.idle_by.get_or_insert_with(|| Instant::now() + SERVER_IDLE);
        }
        is_empty && is_client
    }
}
