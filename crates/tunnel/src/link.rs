//! What both ends of a tunnel share: a transport with its two buffers, the
//! decoder and the state machine.
//!
//! Invariants: every frame passes the machine in both directions; the byte
//! path neither locks nor allocates per frame; what is queued is bounded; a
//! link that is dropped within a stream aborts its transport. Must not know:
//! apps, which role it plays beyond what the machine says.

mod receive;

use std::io::{self, IoSliceMut};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use tokio::time::Instant;
use watchword_proto::encode_payload;
use watchword_proto::tunnel::{Goaway, Reason, Reset};

use crate::bell::Bell;
use crate::buffer::{Buffer, FRAME, FRAMES};
use crate::edge::Transport;
use crate::error::TunnelError;
use crate::frame::{Decoder, HEADER, Header, MAX_DATA, Type};
use crate::machine::{Machine, Phase};
use crate::timer::{Timer, earlier};
use crate::{DISCARD_DEADLINE, FRAME_DEADLINE, SILENCE_LIMIT};

pub(crate) use receive::{Event, Filled, PIECES};

/// Reading ahead of a slow app stops when less than this is free.
const AHEAD: usize = 512;

#[derive(Debug)]
pub(crate) struct Link<T: Transport> {
    pub(crate) machine: Machine,
    pub(crate) timer: Timer,
    decoder: Decoder,
    input: Buffer,
    /// Payload at the front of `input` that is a stream's and still to be delivered.
    deliverable: usize,
    /// Whether the payload that comes in pieces is delivered, or thrown away.
    delivers: bool,
    frame_deadline: Option<Instant>,
    /// Of a read whose bytes before it had to be delivered first.
    read_failure: Option<TunnelError>,
    output: Buffer,
    needs_flush: bool,
    /// The transport did not take all that was queued.
    stuck: bool,
    /// Bytes that the transport took, since the tunnel began.
    handed: u64,
    /// Writing failed; what the peer still has to say is read until then.
    write_failure: Option<(io::Error, Instant)>,
    limits_silence: bool,
    transport: T,
    /// Rings when the transport may have more to be read.
    pub(crate) arrivals: Bell,
}

impl<T: Transport> Link<T> {
    /// In a box: a tunnel is handed on from one stream to the next, and each
    /// future on the way would have room for all of it.
    pub(crate) fn new(transport: T, machine: Machine) -> Box<Self> {
        Box::new(Self {
            machine,
            timer: Timer::default(),
            decoder: Decoder::default(),
            input: Buffer::default(),
            deliverable: 0,
            delivers: false,
            frame_deadline: None,
            read_failure: None,
            output: Buffer::default(),
            needs_flush: false,
            stuck: false,
            handed: 0,
            write_failure: None,
            limits_silence: false,
            transport,
            arrivals: Bell::default(),
        })
    }

    /// Whether nothing waits to be sent, here or in the transport: then a
    /// frame that is queued now overtakes nothing and waits for nothing.
    pub(crate) fn is_clear(&self) -> bool {
        self.output.is_empty() && self.transport_is_clear()
    }

    /// Whether a FIN is all that waits to be sent.
    pub(crate) fn holds_only_an_end(&self) -> bool {
        self.output.len() == HEADER && !self.stuck && self.transport_is_clear()
    }

    /// Whether the transport did not take all that was queued.
    pub(crate) fn is_stuck(&self) -> bool {
        self.stuck
    }

    /// Whether writing has failed: nothing can be sent any more.
    pub(crate) fn has_failed(&self) -> bool {
        self.write_failure.is_some()
    }

    /// Whether a further stream may use this tunnel.
    pub(crate) fn is_reusable(&self) -> bool {
        self.machine.phase() == Phase::Idle && self.machine.may_go_on() && self.write_failure.is_none()
    }

    /// Whether the connection fails soon when the peer vanished, or only when
    /// keepalive finds it: a reader that pauses for long is healthy, too.
    pub(crate) fn limit_silence(&mut self, limits: bool) {
        if self.limits_silence != limits {
            self.limits_silence = limits;
            self.transport.limit_silence(limits.then_some(SILENCE_LIMIT));
        }
    }

    /// Position in the outgoing bytes, behind all that is queued.
    pub(crate) fn queued_to(&self) -> u64 {
        self.handed + self.output.len() as u64
    }

    /// Whether the transport took bytes behind that position.
    pub(crate) fn handed_beyond(&self, position: u64) -> bool {
        self.handed > position
    }

    /// Queues a frame of the latest stream (OPEN: of the next one).
    pub(crate) fn queue(&mut self, kind: Type, payload: &[u8]) -> Result<(), TunnelError> {
        let stream = self.machine.send(kind)?;
        self.push(kind, stream, payload);
        Ok(())
    }

    pub(crate) fn queue_reset(&mut self, reason: Reason) -> Result<(), TunnelError> {
        self.queue(Type::Reset, &reset(reason))
    }

    /// The RESET that the machine owes for one that it received.
    pub(crate) fn answer_reset(&mut self, stream: u32, reason: Reason) {
        self.push(Type::Reset, stream, &reset(reason));
    }

    pub(crate) fn queue_goaway(&mut self, reason: Reason) -> Result<(), TunnelError> {
        let served = self.machine.latest();
        self.machine.say_goaway(served)?;
        let message = Goaway {
            reason: reason.into(),
            last_stream: served,
        };
        self.push(Type::Goaway, 0, &encode_payload(&message));
        Ok(())
    }

    /// Room for one DATA frame's payload of at most `limit` bytes, where it
    /// will be sent from: an app is read right into it. None when there is no
    /// room worth a frame, or earlier bytes are stuck. See
    /// [`commit_data`](Self::commit_data).
    pub(crate) fn data_room(&mut self, limit: usize) -> Option<&mut [u8]> {
        let room = self.frame_room()?.get_mut(HEADER..)?;
        let length = room.len().min(MAX_DATA).min(limit);
        room.get_mut(..length)
    }

    /// As [`data_room`](Self::data_room), for the payloads of as many frames as
    /// there is memory for, one behind the other: how many.
    pub(crate) fn data_rooms<'a>(&'a mut self, rooms: &mut [IoSliceMut<'a>; FRAMES]) -> Option<usize> {
        let frames = self.frame_room()?.chunks_mut(FRAME);
        let payloads = frames.filter_map(|frame| frame.get_mut(HEADER..));
        let mut count = 0;
        for (room, payload) in rooms.iter_mut().zip(payloads) {
            *room = IoSliceMut::new(payload);
            count += 1;
        }
        Some(count)
    }

    /// What DATA frames can be put into, if it is worth one.
    fn frame_room(&mut self) -> Option<&mut [u8]> {
        let has_room = !self.stuck && self.output.room_left() > HEADER + AHEAD;
        has_room.then(|| self.output.room())
    }

    /// Makes the first `length` bytes of [`data_rooms`](Self::data_rooms) DATA frames.
    pub(crate) fn commit_flow(&mut self, length: usize) -> Result<(), TunnelError> {
        let mut left = length;
        while left > 0 {
            let of_this = left.min(MAX_DATA);
            self.commit_data(of_this)?;
            left -= of_this;
        }
        Ok(())
    }

    /// Makes `length` bytes that were put into [`data_room`](Self::data_room)
    /// a DATA frame.
    pub(crate) fn commit_data(&mut self, length: usize) -> Result<(), TunnelError> {
        let kind = Type::Data;
        let stream = self.machine.send(kind)?;
        let header = Header { kind, length, stream };
        if let Some(room) = self.output.room().first_chunk_mut::<HEADER>() {
            *room = header.encode();
        }
        self.output.commit(HEADER + length);
        Ok(())
    }

    /// Sends what is queued. Ready when nothing waits any more. When writing
    /// fails, what is queued is forgotten and the failure is kept for a while,
    /// so that the caller reads what the peer said before it left; then
    /// [`check_deadline`](Self::check_deadline) reports it.
    pub(crate) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.write_failure.is_some() {
            return Poll::Ready(());
        }
        match self.poll_write(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => {
                self.output = Buffer::default();
                self.write_failure = Some((error, Instant::now() + DISCARD_DEADLINE));
            }
            Poll::Pending => {
                self.output.narrow();
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }

    /// When something must have happened by, as far as the link alone knows.
    pub(crate) fn deadline(&mut self, reading: bool) -> Option<Instant> {
        let within_frame = self.decoder.is_within_payload() || self.input.len() > self.deliverable;
        if !reading || !within_frame {
            self.frame_deadline = None;
        } else if self.frame_deadline.is_none() {
            self.frame_deadline = Some(Instant::now() + FRAME_DEADLINE);
        }
        let failure = self.write_failure.as_ref().map(|(_, until)| *until);
        earlier(self.frame_deadline, failure)
    }

    /// Fails when a deadline of the link has passed.
    pub(crate) fn check_deadline(&mut self, now: Instant) -> Result<(), TunnelError> {
        if let Some((error, until)) = self.write_failure.take() {
            if now >= until {
                return Err(error.into());
            }
            self.write_failure = Some((error, until));
        }
        if self.frame_deadline.is_some_and(|deadline| now >= deadline) {
            return Err(TunnelError::SlowFrame);
        }
        Ok(())
    }

    /// An error of the connection that reading would find, if it were not paused.
    pub(crate) fn check_failure(&self) -> Result<(), TunnelError> {
        self.transport.failure().map_or(Ok(()), |error| Err(error.into()))
    }

    /// Nothing is done until the next wake: memory is for others meanwhile.
    pub(crate) fn rest(&mut self) {
        self.input.rest();
        self.output.rest();
    }

    /// Ends the tunnel without waiting: RESET of the stream with the reason
    /// if it can go at once, then a reset of the connection.
    pub(crate) fn cut(&mut self, cx: &mut Context<'_>, reason: Reason) {
        if self.is_clear() && self.queue_reset(reason).is_ok() {
            let _ = self.poll_write(cx);
        }
        self.abort();
    }

    /// Ends the tunnel after an error: GOAWAY PROTOCOL if the peer broke the
    /// protocol and it can go at once.
    pub(crate) fn fail(&mut self, cx: &mut Context<'_>, error: &TunnelError) {
        let told = error.is_protocol()
            && self.is_clear()
            && self.queue_goaway(Reason::Protocol).is_ok()
            && matches!(self.poll_write(cx), Poll::Ready(Ok(())));
        if !told {
            return self.abort();
        }
        // An ordinary close, for the GOAWAY to arrive.
        self.machine.close();
        let _ = Pin::new(&mut self.transport).poll_shutdown(cx);
    }

    pub(crate) fn abort(&mut self) {
        self.machine.close();
        self.transport.abort();
    }

    /// Ends the outgoing direction once all is sent.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TunnelError>> {
        ready!(self.poll_send(cx));
        ready!(Pin::new(&mut self.transport).poll_shutdown(cx))?;
        Poll::Ready(Ok(()))
    }

    /// Whether the transport holds nothing back, and writing has not failed.
    fn transport_is_clear(&self) -> bool {
        !self.transport.has_unsent() && self.write_failure.is_none()
    }

    fn push(&mut self, kind: Type, stream: u32, payload: &[u8]) {
        let length = payload.len();
        self.output.push(&Header { kind, length, stream }.encode());
        self.output.push(payload);
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stuck = true;
        while !self.output.is_empty() {
            let count = ready!(Pin::new(&mut self.transport).poll_write(cx, self.output.bytes()))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.output.consume(count);
            self.handed += count as u64;
            self.needs_flush = true;
        }
        if self.needs_flush {
            ready!(Pin::new(&mut self.transport).poll_flush(cx))?;
            self.needs_flush = false;
        }
        self.stuck = false;
        Poll::Ready(Ok(()))
    }
}

impl<T: Transport> Drop for Link<T> {
    fn drop(&mut self) {
        match self.machine.phase() {
            // The other app must not take its end for a cut.
            Phase::Idle if self.holds_only_an_end() => {
                let _ = self.poll_write(&mut Context::from_waker(Waker::noop()));
            }
            Phase::Idle | Phase::Closed => {}
            _ => self.transport.abort(),
        }
    }
}

fn reset(reason: Reason) -> Vec<u8> {
    encode_payload(&Reset { reason: reason.into() })
}
