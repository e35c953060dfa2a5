//! One stream between a link and an app: both directions in one poll, with no
//! lock, no task and no channel in between.
//!
//! Invariants: whatever ends the stream other than both FINs resets the app,
//! and the reason that came first is the one recorded; each side's slowness
//! pauses the other side's reader. Must not know: which role it plays, beyond
//! what was queued before it starts.

mod receive;
mod send;

use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::task::{Context, Poll};

use tokio::time::Instant;
use watchword_proto::tunnel::{Denied, Reason};

use crate::edge::{AppStream, Leg, Transport};
use crate::error::{CloseReason, TunnelError};
use crate::link::Link;
use crate::machine::Phase;
use crate::outcome::{Backlog, Closed, Owed};
use crate::{CHECK_INTERVAL, DISCARD_DEADLINE, MEMORY_INTERVAL};

/// What the client has sent before OPENED, to be sent again elsewhere.
#[derive(Debug, Default)]
pub(crate) struct Early {
    pub(crate) kept: Kept,
    /// How much of it went into this tunnel.
    pub(crate) sent: usize,
    /// The app ended its half after it.
    pub(crate) fin: bool,
    /// Where OPEN ends among the link's outgoing bytes.
    pub(crate) open_end: u64,
    /// Nothing is read from the app and sent before OPENED.
    pub(crate) is_held: bool,
}

/// Bytes of the app; what they are is nobody's business.
#[derive(Default)]
pub(crate) struct Kept(Vec<u8>);

impl Kept {
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kept({} bytes)", self.0.len())
    }
}

/// How a stream that was never opened ended, where that is not a plain close.
#[derive(Debug)]
pub(crate) enum Answer {
    Denied(Denied),
    /// errno.
    Refused(u32),
    /// Nobody served it.
    Replay(TunnelError),
}

#[derive(Debug)]
pub(crate) struct Pump<T: Transport, A: AppStream> {
    pub(crate) link: Link<T>,
    pub(crate) leg: Leg<A>,
    pub(crate) early: Early,
    pub(crate) answer: Option<Answer>,
    /// OPENED was sent or received.
    opened: bool,
    /// OPENED must have come by.
    opened_by: Option<Instant>,
    /// What goes to the app before what the link has read.
    backlog: Backlog,
    /// Received DATA goes to the backlog, since its END was read behind it.
    absorbs: bool,
    /// The peer's FIN was decoded; the app's writing half is not shut down yet.
    fin_due: bool,
    /// FIN was queued.
    app_ended: bool,
    /// The app takes nothing any more; what it said before is still read, until then.
    heard_out_by: Option<Instant>,
    why: Option<CloseReason>,
    /// Only the tunnel's affairs are left, until then.
    settle_by: Option<Instant>,
    sent: u64,
    received: u64,
    waits: Waits,
}

/// What the last poll left waiting.
#[derive(Debug, Default)]
struct Waits {
    /// The app's reader would wake us.
    app_is_read: bool,
    /// The app does not take what was received.
    app_is_slow: bool,
    check_at: Option<Instant>,
    memory_at: Option<Instant>,
    /// Bytes moved when `memory_at` was set.
    moved: u64,
}

impl<T: Transport, A: AppStream> Pump<T, A> {
    /// For a client that has queued OPEN.
    pub(crate) fn opening(link: Link<T>, leg: Leg<A>, early: Early, opened_by: Instant) -> Self {
        Self {
            opened: false,
            opened_by: Some(opened_by),
            early,
            ..Self::opened(link, leg, Backlog::default(), false)
        }
    }

    /// For a server that has queued OPENED, with what the client sent before.
    pub(crate) fn opened(link: Link<T>, leg: Leg<A>, backlog: Backlog, fin_due: bool) -> Self {
        Self {
            link,
            leg,
            early: Early::default(),
            answer: None,
            opened: true,
            opened_by: None,
            backlog,
            absorbs: false,
            fin_due,
            app_ended: false,
            heard_out_by: None,
            why: None,
            settle_by: None,
            sent: 0,
            received: 0,
            waits: Waits::default(),
        }
    }

    /// Carries the stream to its end; `cut` ends it and the tunnel at once,
    /// `drain` lets no other stream follow.
    pub(crate) async fn run(&mut self, cut: impl Future<Output = Reason>, drain: impl Future<Output = Reason>) {
        let mut cut = pin!(cut);
        let mut drain = pin!(drain);
        let mut draining = false;
        poll_fn(|cx| {
            if let Poll::Ready(reason) = cut.as_mut().poll(cx) {
                self.cut(cx, reason);
                return Poll::Ready(());
            }
            if !draining && let Poll::Ready(reason) = drain.as_mut().poll(cx) {
                draining = true;
                // It fails only on a tunnel that is over anyway.
                let _ = self.link.queue_goaway(reason);
            }
            self.poll(cx).map(|result| {
                if let Err(error) = result {
                    self.lose(cx, error);
                }
            })
        })
        .await;
    }

    /// After [`run`](Self::run): the link, and the record.
    pub(crate) fn close(mut self) -> (Link<T>, Closed<A>) {
        let deliverable = self.link.deliverable().len();
        self.backlog.push(self.link.deliverable());
        self.link.delivered(deliverable);
        let why = self.why.take().unwrap_or(CloseReason::Finished);
        let mut owed = None;
        if matches!(why, CloseReason::Finished) {
            if self.fin_due {
                let backlog = std::mem::take(&mut self.backlog);
                owed = Some(Owed { leg: self.leg, backlog });
            } else {
                self.leg.release();
            }
        }
        let closed = Closed {
            why,
            sent: self.sent,
            received: self.received,
            owed,
        };
        (self.link, closed)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TunnelError>> {
        loop {
            if let Some(until) = self.settle_by {
                return self.link.poll_settle(cx, until);
            }
            let wants_room = self.fill(cx)?;
            let sent = self.link.poll_send(cx).is_ready();
            let changed = self.receive(cx)?;
            match self.link.machine.phase() {
                Phase::Idle if sent && self.settle_by.is_none() => return Poll::Ready(Ok(())),
                Phase::Closed => return Poll::Ready(Ok(())),
                _ => {}
            }
            if changed || (wants_room && sent) {
                continue;
            }
            let deadline = self.deadline();
            if self.link.timer.poll(cx, deadline).is_pending() {
                return Poll::Pending;
            }
            self.check_deadlines(cx)?;
        }
    }

    /// Ends the stream on our side: the app is reset, and so is the stream.
    fn end(&mut self, cx: &mut Context<'_>, why: CloseReason, reason: Reason) -> Result<(), TunnelError> {
        self.why.get_or_insert(why);
        self.reset_app();
        if matches!(self.link.machine.phase(), Phase::Idle | Phase::Closed) {
            return Ok(());
        }
        let _ = self.link.poll_send(cx);
        if !self.link.is_clear() {
            return Err(TunnelError::Aborted);
        }
        self.link.queue_reset(reason)?;
        self.settle();
        Ok(())
    }

    /// The app takes nothing any more. What it said before that is still
    /// carried, as TCP would: an answer to an upload that it did not want.
    fn hear_out(&mut self, cx: &mut Context<'_>) -> Result<(), TunnelError> {
        if !self.opened || !self.may_send() {
            return self.end(cx, CloseReason::AppReset, Reason::AppReset);
        }
        self.heard_out_by = Some(Instant::now() + DISCARD_DEADLINE);
        Ok(())
    }

    /// The stream is over but for what the two sides of the tunnel owe each other.
    fn settle(&mut self) {
        self.settle_by = Some(Instant::now() + DISCARD_DEADLINE);
    }

    fn cut(&mut self, cx: &mut Context<'_>, reason: Reason) {
        self.why.get_or_insert(CloseReason::Cut(reason));
        self.reset_app();
        self.link.cut(cx, reason);
    }

    fn lose(&mut self, cx: &mut Context<'_>, error: TunnelError) {
        let connection = matches!(error, TunnelError::Io(_) | TunnelError::Truncated);
        let opening = !self.opened && matches!(self.link.machine.phase(), Phase::Opening { .. });
        self.link.fail(cx, &error);
        if opening && connection && !self.link.handed_beyond(self.early.open_end) {
            self.answer = Some(Answer::Replay(error));
            return;
        }
        self.reset_app();
        self.why.get_or_insert(CloseReason::Lost(error));
    }

    fn reset_app(&mut self) {
        self.leg = Leg::gone();
        self.throw_away();
    }

    /// What was received has nobody to go to.
    fn throw_away(&mut self) {
        self.backlog = Backlog::default();
        self.link.throw_away();
        self.fin_due = false;
    }

    fn deadline(&mut self) -> Option<Instant> {
        let waits = &mut self.waits;
        if waits.app_is_read && !waits.app_is_slow {
            waits.check_at = None;
        } else if waits.check_at.is_none() {
            waits.check_at = Some(Instant::now() + CHECK_INTERVAL);
        }
        if !self.link.holds_spare_memory() {
            waits.memory_at = None;
        } else if waits.memory_at.is_none() {
            waits.memory_at = Some(Instant::now() + MEMORY_INTERVAL);
            waits.moved = self.sent + self.received;
        }
        let link = self.link.deadline(!waits.app_is_slow);
        [self.opened_by, self.heard_out_by, waits.check_at, waits.memory_at, link]
            .into_iter()
            .flatten()
            .min()
    }

    fn check_deadlines(&mut self, cx: &mut Context<'_>) -> Result<(), TunnelError> {
        let now = Instant::now();
        let passed = |at: Option<Instant>| at.is_some_and(|at| now >= at);
        self.link.check_deadline(now)?;
        if passed(self.opened_by) {
            self.opened_by = None;
            return self.end(cx, CloseReason::OpenTimeout, Reason::Timeout);
        }
        if passed(self.heard_out_by) {
            return self.end(cx, CloseReason::AppReset, Reason::AppReset);
        }
        if passed(self.waits.memory_at) {
            self.waits.memory_at = None;
            if self.waits.moved == self.sent + self.received {
                self.link.give_back_memory();
            }
        }
        if passed(self.waits.check_at) {
            self.waits.check_at = None;
            self.link.check_failure()?;
            if self.leg.app().is_some_and(|app| app.failure().is_some()) {
                return self.end(cx, CloseReason::AppReset, Reason::AppReset);
            }
        }
        Ok(())
    }
}
