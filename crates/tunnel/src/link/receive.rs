//! Reading, and from received bytes to events.
//!
//! Invariants: a frame is judged by the machine before its payload is looked
//! at; control payloads are decoded here or are an error; DATA stays where it
//! was read. Must not know: who takes the events.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::ReadBuf;
use tokio::time::Instant;
use watchword_proto::decode_payload;
use watchword_proto::tunnel::{Denied, Goaway, Open, Reason, Refused, Reset};

use super::{AHEAD, Link};
use crate::buffer::{FRAME, FRAMES, LARGE};
use crate::edge::Transport;
use crate::error::TunnelError;
use crate::frame::{HEADER, Header, Step, Type};
use crate::machine::{Farewell, Phase, Verdict};
use crate::payload::{decode_denied, decode_open};

/// Frames that one write to an app takes: a buffer full, the first and the last
/// of them in part.
pub(crate) const PIECES: usize = FRAMES + 1;
/// Who reads so much at once will soon have more.
const FLOW: usize = FRAME / 2;

/// With how much of what has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filled {
    /// There may be more.
    Some,
    /// More will wake the task: it need not look for it.
    WithAll,
}

/// What the other side did.
#[derive(Debug)]
pub(crate) enum Event {
    Open(Open),
    Opened,
    Denied(Denied),
    /// errno.
    Refused(u32),
    Reset(Reason),
    /// Bytes are deliverable.
    Data,
    Fin,
    /// The other side ended its half of a stream that we had ended by force.
    Settled,
    /// VOUCHED was queued.
    Vouch,
    Farewell(Farewell, Reason),
}

impl<T: Transport> Link<T> {
    /// The next event in what was read. None: more must be read, or what is
    /// deliverable must be taken first.
    pub(crate) fn next_event(&mut self) -> Result<Option<Event>, TunnelError> {
        while self.deliverable == 0 {
            let step = self.decoder.step(self.input.bytes())?;
            let event = match step {
                Step::Need(bytes) => {
                    self.make_room(bytes);
                    return Ok(None);
                }
                Step::Begin(header) => {
                    let verdict = self.machine.receive(header)?;
                    self.delivers = verdict == Verdict::Data;
                    self.input.consume(HEADER);
                    if !self.decoder.is_within_payload() {
                        self.frame_deadline = None;
                    }
                    if verdict == Verdict::Vouch {
                        // This version vouches for nothing: an empty VOUCHED.
                        self.queue(Type::Vouched, &[])?;
                        return Ok(Some(Event::Vouch));
                    }
                    None
                }
                Step::Piece(bytes) => {
                    if !self.decoder.is_within_payload() {
                        self.frame_deadline = None;
                    }
                    if self.delivers {
                        self.deliverable = bytes;
                        return Ok(Some(Event::Data));
                    }
                    self.input.consume(bytes);
                    None
                }
                Step::Whole(header) => {
                    self.frame_deadline = None;
                    let event = self.judge(header)?;
                    self.input.consume(step.used());
                    event
                }
            };
            if event.is_some() {
                return Ok(event);
            }
        }
        Ok(None)
    }

    /// Reads more. Ready after at least one byte; a flow is read as far as it
    /// has come. `ahead`: only into memory that is free without moving anything.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>, ahead: bool) -> Poll<Result<Filled, TunnelError>> {
        if let Some(error) = self.read_failure.take() {
            return Poll::Ready(Err(error));
        }
        let has_enough = self.input.room_left() < AHEAD || self.input.len() >= LARGE;
        if ahead && has_enough {
            return Poll::Pending;
        }
        if !ahead && self.input.room_left() < FRAME {
            self.input.compact();
        }
        let (mut count, mut filled) = ready!(self.poll_read(cx))?;
        while filled == Filled::Some && count >= FLOW && self.input.room_left() >= FRAME {
            match self.poll_read(cx) {
                Poll::Ready(Ok(more)) => (count, filled) = more,
                Poll::Ready(Err(error)) => {
                    self.read_failure = Some(error);
                    break;
                }
                Poll::Pending => return Poll::Ready(Ok(Filled::WithAll)),
            }
        }
        Poll::Ready(Ok(filled))
    }

    /// Once. Ready with how many bytes, at least one.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(usize, Filled), TunnelError>> {
        if self.arrivals.is_silent(cx) {
            return Poll::Pending;
        }
        let mut room = ReadBuf::new(self.input.room());
        let transport = Pin::new(&mut self.transport);
        let read = ready!(self.arrivals.look(cx, |cx| transport.poll_read(cx, &mut room)));
        let count = room.filled().len();
        match read {
            Ok(()) if count > 0 => {}
            // TLS calls an end without close_notify an unexpected one; here
            // any end is one, unless nothing was under way.
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Poll::Ready(Err(error.into())),
            _ => return Poll::Ready(Err(TunnelError::Truncated)),
        }
        self.input.commit(count);
        if !self.transport.has_given_all() {
            return Poll::Ready(Ok((count, Filled::Some)));
        }
        self.arrivals.wait();
        Poll::Ready(Ok((count, Filled::WithAll)))
    }

    /// The next event, reading as needed.
    pub(crate) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, TunnelError>> {
        loop {
            if let Some(event) = self.next_event()? {
                return Poll::Ready(Ok(event));
            }
            ready!(self.poll_fill(cx, false))?;
        }
    }

    /// Bytes to deliver.
    pub(crate) fn deliverable(&self) -> &[u8] {
        self.input.bytes().get(..self.deliverable).unwrap_or_default()
    }

    /// The first `count` of them were delivered.
    pub(crate) fn delivered(&mut self, count: usize) {
        let count = count.min(self.deliverable);
        self.deliverable -= count;
        self.input.consume(count);
    }

    /// What is deliverable, and the payloads of DATA that were read behind it:
    /// how many pieces there are. A frame that breaks the protocol ends them.
    pub(crate) fn pieces<'a>(&'a self, pieces: &mut [IoSlice<'a>; PIECES]) -> usize {
        let is_open = matches!(self.machine.phase(), Phase::Open | Phase::FinSent);
        let is_ours = |header: &Header| header.kind == Type::Data && header.stream == self.machine.latest();
        let behind = self.behind().take_while(|(header, _)| is_open && is_ours(header));
        let payloads = std::iter::once(self.deliverable()).chain(behind.map(|(_, payload)| payload));
        let mut count = 0;
        for (piece, payload) in pieces.iter_mut().zip(payloads) {
            *piece = IoSlice::new(payload);
            count += 1;
        }
        count
    }

    /// So many bytes of [`pieces`](Self::pieces) were delivered: their frames
    /// go through the machine now.
    pub(crate) fn delivered_pieces(&mut self, count: usize) -> Result<(), TunnelError> {
        let mut left = count;
        loop {
            let of_this = left.min(self.deliverable);
            self.delivered(of_this);
            left -= of_this;
            if left == 0 {
                return Ok(());
            }
            if !matches!(self.next_event()?, Some(Event::Data)) {
                return Err(TunnelError::Aborted);
            }
        }
    }

    /// What is deliverable, and the rest of its frame, has nobody to go to.
    pub(crate) fn throw_away(&mut self) {
        self.delivered(self.deliverable);
        self.delivers = false;
    }

    /// The peer's END of the latest stream, if it was read already, behind DATA
    /// that was not delivered yet.
    pub(crate) fn end_read(&self) -> Option<Type> {
        for (header, payload) in self.behind() {
            if payload.len() < header.length {
                return None;
            }
            match header.kind {
                Type::Data => {}
                end @ (Type::Fin | Type::Reset) => return (header.stream == self.machine.latest()).then_some(end),
                _ => return None,
            }
        }
        None
    }

    /// The frames that were read behind what is deliverable, not judged yet: the
    /// last one's payload may be there in part. Ends at what is no frame.
    fn behind(&self) -> impl Iterator<Item = (Header, &[u8])> {
        let mut rest = match self.decoder.is_within_payload() {
            true => &[],
            false => self.input.bytes().get(self.deliverable..).unwrap_or_default(),
        };
        std::iter::from_fn(move || {
            let header = Header::decode(*rest.first_chunk()?).ok()?;
            let payload = rest.get(HEADER..)?;
            let (payload, later) = payload.split_at_checked(header.length).unwrap_or((payload, &[]));
            rest = later;
            Some((header, payload))
        })
    }

    /// Whether nothing is read of a frame that was not finished.
    pub(crate) fn is_between_frames(&self) -> bool {
        self.input.is_empty() && !self.decoder.is_within_payload()
    }

    /// Waits until both sides have ended the latest stream and what we owe
    /// the peer is sent; DATA is thrown away. `until` bounds it.
    pub(crate) fn poll_settle(&mut self, cx: &mut Context<'_>, until: Instant) -> Poll<Result<(), TunnelError>> {
        loop {
            let sent = self.poll_send(cx).is_ready();
            match self.machine.phase() {
                Phase::Idle if sent => return Poll::Ready(Ok(())),
                Phase::Closed => return Poll::Ready(Ok(())),
                Phase::Idle => {}
                _ => {
                    if self.poll_event(cx)?.is_ready() {
                        continue;
                    }
                }
            }
            ready!(self.timer.poll(cx, Some(until)));
            return Poll::Ready(Err(TunnelError::NoEnd));
        }
    }

    fn judge(&mut self, header: Header) -> Result<Option<Event>, TunnelError> {
        let before = self.machine.phase();
        let verdict = self.machine.receive(header)?;
        let payload = self
            .input
            .bytes()
            .get(HEADER..HEADER + header.length)
            .unwrap_or_default();
        let (event, answer) = match verdict {
            Verdict::Drop => {
                let settled = matches!(before, Phase::Discard { .. }) && self.machine.phase() == Phase::Idle;
                return Ok(settled.then_some(Event::Settled));
            }
            Verdict::Open => (Event::Open(decode_open(payload)?), false),
            Verdict::Opened => (Event::Opened, false),
            Verdict::Denied { answer } => (Event::Denied(decode_denied(payload)?), answer),
            Verdict::Refused { answer } => (Event::Refused(decode_payload::<Refused>(payload)?.errno), answer),
            Verdict::Reset { answer } => (Event::Reset(decode_payload::<Reset>(payload)?.reason()), answer),
            Verdict::Fin => (Event::Fin, false),
            Verdict::Goaway => {
                let message = decode_payload::<Goaway>(payload)?;
                let farewell = self.machine.goaway(message.last_stream)?;
                (Event::Farewell(farewell, message.reason()), false)
            }
            // These come in pieces.
            Verdict::Data | Verdict::Vouch | Verdict::Vouched => return Ok(None),
        };
        if answer {
            let reason = match &event {
                Event::Reset(reason) => *reason,
                _ => Reason::Unspecified,
            };
            self.answer_reset(header.stream, reason);
        }
        Ok(Some(event))
    }

    fn make_room(&mut self, bytes: usize) {
        if bytes > self.input.len() + self.input.room_left() {
            self.input.compact();
        }
    }
}
