//! From the tunnel to the app.
//!
//! Invariants: DATA is written from where it was read, but for the last bytes
//! of a stream whose END was read behind them; nothing is decoded beyond the
//! stream's end.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::{Answer, Pump};
use crate::edge::{AppStream, Leg, Transport};
use crate::error::{CloseReason, TunnelError};
use crate::frame::Type;
use crate::link::{Event, Filled, PIECES};
use crate::machine::{Farewell, Phase};

/// Who is in the way of what was received.
enum Undelivered {
    /// The app takes nothing any more.
    ByApp,
    ByPeer(TunnelError),
}

impl From<io::Error> for Undelivered {
    fn from(_: io::Error) -> Self {
        Self::ByApp
    }
}

impl<T: Transport, A: AppStream> Pump<T, A> {
    /// Delivers and reads until one side makes it wait. True when something
    /// happened that may let the other direction go on.
    pub(super) fn receive(&mut self, cx: &mut Context<'_>) -> Result<bool, TunnelError> {
        let mut changed = false;
        let mut filled = Filled::Some;
        while self.settle_by.is_none() {
            let slow = match self.deliver(cx) {
                Poll::Ready(Ok(())) => false,
                Poll::Ready(Err(Undelivered::ByApp)) => {
                    self.hear_out(cx)?;
                    return Ok(true);
                }
                Poll::Ready(Err(Undelivered::ByPeer(error))) => return Err(error),
                Poll::Pending => true,
            };
            let has_fin = self.fin_due || self.link.machine.phase() == Phase::FinReceived;
            self.waits.app_is_slow = slow && !has_fin;
            if matches!(self.link.machine.phase(), Phase::Idle | Phase::Closed) {
                return Ok(changed);
            }
            if self.waits.app_is_slow {
                if self.link.end_read().is_none() {
                    match self.link.poll_fill(cx, true)? {
                        Poll::Ready(_) => continue,
                        Poll::Pending => return Ok(changed),
                    }
                }
                self.absorbs = true;
                self.absorb();
            }
            match self.link.next_event()? {
                Some(event) => changed |= self.take(event)?,
                None if filled == Filled::WithAll => return Ok(changed),
                None => match self.link.poll_fill(cx, false)? {
                    Poll::Ready(now) => filled = now,
                    Poll::Pending => return Ok(changed),
                },
            }
        }
        Ok(true)
    }

    /// Writes to the app what is there for it, then its end.
    fn deliver(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Undelivered>> {
        if self.heard_out_by.is_some() {
            self.throw_away();
        }
        let Some(app) = self.leg.app() else {
            return Poll::Ready(Ok(()));
        };
        loop {
            let late = !self.backlog.is_empty();
            let count = if late {
                ready!(Pin::new(&mut *app).poll_write(cx, self.backlog.bytes()))?
            } else if self.link.deliverable().is_empty() {
                break;
            } else {
                let mut pieces = [IoSlice::new(&[]); PIECES];
                let used = self.link.pieces(&mut pieces);
                let mut app = Pin::new(&mut *app);
                match pieces.get(..used).unwrap_or_default() {
                    [piece] if self.link.end_read() == Some(Type::Fin) => ready!(app.poll_write_last(cx, piece))?,
                    // send(2) costs less than writev(2).
                    [piece] => ready!(app.poll_write(cx, piece))?,
                    pieces => ready!(app.poll_write_vectored(cx, pieces))?,
                }
            };
            if count == 0 {
                return Poll::Ready(Err(Undelivered::ByApp));
            }
            self.received += count as u64;
            if late {
                self.backlog.consume(count);
            } else {
                self.link.delivered_pieces(count).map_err(Undelivered::ByPeer)?;
            }
        }
        if self.fin_due {
            ready!(Pin::new(app).poll_shutdown(cx))?;
            self.fin_due = false;
        }
        Poll::Ready(Ok(()))
    }

    fn take(&mut self, event: Event) -> Result<bool, TunnelError> {
        match event {
            Event::Data => {
                if self.absorbs {
                    self.absorb();
                }
                return Ok(false);
            }
            Event::Fin => self.fin_due = true,
            Event::Opened => {
                self.opened = true;
                self.opened_by = None;
                self.link.limit_silence(false);
            }
            Event::Denied(denied) => {
                self.leg = Leg::gone();
                self.answer = Some(Answer::Denied(denied));
                self.settle();
            }
            Event::Refused(errno) => {
                self.answer = Some(Answer::Refused(errno));
                self.settle();
            }
            Event::Reset(reason) => {
                self.why.get_or_insert(CloseReason::PeerReset(reason));
                self.reset_app();
                self.settle();
            }
            Event::Farewell(Farewell::Replay, reason) => {
                self.answer = Some(Answer::Replay(TunnelError::ClosedByPeer(reason)));
            }
            Event::Farewell(Farewell::Close, reason) => return Err(TunnelError::ClosedByPeer(reason)),
            // The machine lets no OPEN or VOUCH in here, and an END that
            // settles what we ended ourselves is awaited elsewhere.
            Event::Farewell(Farewell::AfterStream, _) | Event::Open(_) | Event::Vouch | Event::Settled => {}
        }
        Ok(true)
    }

    fn absorb(&mut self) {
        let bytes = self.link.deliverable();
        let count = bytes.len();
        self.backlog.push(bytes);
        self.link.delivered(count);
    }
}
