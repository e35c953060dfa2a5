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

use crate::bell::Bell;
use crate::edge::{AppStream, Leg, Transport};
use crate::error::{CloseReason, TunnelError};
use crate::link::Link;
use crate::machine::{Phase, Role};
use crate::outcome::{Backlog, Closed, Owed};
use crate::timer::earlier;
use crate::{ANSWER_PATIENCE, CHECK_INTERVAL, DISCARD_DEADLINE};

/// What is sent along with OPEN and is no more than this, in bytes, is taken
/// for a question: whoever has more to send needs OPENED for it.
const QUESTION: u64 = 4 * 1024;

/// A stream that has had so many turns will have more: it is told by which side
/// each turn was caused, and leaves the other alone.
const LONG: u32 = 10;

/// Whether OPENED, which is queued, waits for the app's answer to go with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    /// What came along with OPEN is yet to be looked at.
    Undecided,
    /// Until then, unless the client sends more than so many bytes.
    Until(Instant, u64),
    No,
}

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
    pub(crate) link: Box<Link<T>>,
    pub(crate) leg: Leg<A>,
    pub(crate) early: Early,
    pub(crate) answer: Option<Answer>,
    /// OPENED was sent or received.
    opened: bool,
    /// OPENED must have come by.
    opened_by: Option<Instant>,
    held: Held,
    /// What goes to the app before what the link has read.
    backlog: Backlog,
    /// Received DATA goes to the backlog, since its END was read behind it.
    absorbs: bool,
    /// The peer's FIN was decoded; the app's writing half is not shut down yet.
    fin_due: bool,
    /// FIN was queued.
    app_ended: bool,
    /// The app gave a full frame: it may have several.
    flows: bool,
    /// The app takes nothing any more; what it said before is still read, until then.
    heard_out_by: Option<Instant>,
    why: Option<CloseReason>,
    /// Only the tunnel's affairs are left, until then.
    settle_by: Option<Instant>,
    sent: u64,
    received: u64,
    waits: Waits,
    turns: u32,
    /// Rings when the app may have more to be read.
    arrivals: Bell,
}

/// What the last poll left waiting.
#[derive(Debug, Default)]
struct Waits {
    /// The app's reader would wake us.
    app_is_read: bool,
    /// The app does not take what was received.
    app_is_slow: bool,
    check_at: Option<Instant>,
}

impl<T: Transport, A: AppStream> Pump<T, A> {
    /// For a client that has queued OPEN.
    pub(crate) fn opening(link: Box<Link<T>>, leg: Leg<A>, early: Early, opened_by: Instant) -> Self {
        Self {
            opened: false,
            held: Held::No,
            opened_by: Some(opened_by),
            early,
            ..Self::opened(link, leg, (0, Backlog::default(), false))
        }
    }

    /// For a server that has queued OPENED, with what the client sent before: how
    /// much of it is with the app, what is not, and whether its end came.
    pub(crate) fn opened(link: Box<Link<T>>, leg: Leg<A>, (received, backlog, fin_due): (u64, Backlog, bool)) -> Self {
        Self {
            link,
            leg,
            early: Early::default(),
            answer: None,
            opened: true,
            opened_by: None,
            held: Held::Undecided,
            backlog,
            absorbs: false,
            fin_due,
            app_ended: false,
            flows: false,
            heard_out_by: None,
            why: None,
            settle_by: None,
            sent: 0,
            received,
            waits: Waits::default(),
            turns: 0,
            arrivals: Bell::default(),
        }
    }

    /// Whether OPENED waits on, after a look at what the client has sent.
    fn hold(&self) -> Held {
        let is_delivered = self.backlog.is_empty() && self.link.deliverable().is_empty();
        let is_question = (1..=QUESTION).contains(&self.received) && self.link.machine.phase() == Phase::Open;
        match self.held {
            Held::Undecided if is_delivered && is_question => {
                Held::Until(Instant::now() + ANSWER_PATIENCE, self.received)
            }
            Held::Until(_, question) if is_question && self.received == question => self.held,
            _ => Held::No,
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
    pub(crate) fn close(mut self) -> (Box<Link<T>>, Closed<A>) {
        self.link.arrivals.take_down();
        let deliverable = self.link.deliverable().len();
        self.backlog.push(self.link.deliverable());
        self.link.delivered(deliverable);
        let why = self.why.take().unwrap_or(CloseReason::Finished);
        let (mut owed, mut released) = (None, None);
        if matches!(why, CloseReason::Finished) {
            if self.fin_due {
                let backlog = std::mem::take(&mut self.backlog);
                owed = Some(Owed { leg: self.leg, backlog });
            } else {
                released = self.leg.release();
            }
        }
        let closed = Closed {
            why,
            sent: self.sent,
            received: self.received,
            owed,
            released,
        };
        (self.link, closed)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TunnelError>> {
        self.turns = self.turns.saturating_add(1);
        if self.turns == LONG {
            self.link.arrivals.hang();
            if self.leg.app().is_some_and(|app| app.wakes_its_reader()) {
                self.arrivals.hang();
            }
        }
        let result = self.go_on(cx);
        if result.is_pending() {
            self.link.rest();
        }
        result
    }

    fn go_on(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TunnelError>> {
        loop {
            if let Some(until) = self.settle_by {
                return self.link.poll_settle(cx, until);
            }
            let wants_room = self.fill(cx)?;
            if self.owes_only_its_end() {
                return Poll::Ready(Ok(()));
            }
            if self.sent > 0 || self.app_ended {
                self.held = Held::No;
            }
            let sent = self.held == Held::No && self.link.poll_send(cx).is_ready();
            let changed = self.receive(cx)?;
            if self.held != Held::No {
                self.held = self.hold();
                if self.held == Held::No {
                    continue;
                }
            }
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

    /// Whether nothing is left of the stream but a client's FIN, for which nobody
    /// waits: the next stream takes it along, or the pool sends it soon.
    fn owes_only_its_end(&self) -> bool {
        let machine = &self.link.machine;
        self.settle_by.is_none()
            && machine.phase() == Phase::Idle
            && machine.role() == Role::Client
            && self.link.holds_only_an_end()
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
        if self.held != Held::No {
            let _ = self.link.poll_send(cx);
        }
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
        let link = self.link.deadline(!waits.app_is_slow);
        let held = match self.held {
            Held::Until(moment, _) => Some(moment),
            _ => None,
        };
        let answers = earlier(self.opened_by, held);
        let looks = earlier(self.heard_out_by, waits.check_at);
        earlier(link, earlier(answers, looks))
    }

    fn check_deadlines(&mut self, cx: &mut Context<'_>) -> Result<(), TunnelError> {
        let now = Instant::now();
        let passed = |at: Option<Instant>| at.is_some_and(|at| now >= at);
        self.link.check_deadline(now)?;
        if passed(self.opened_by) {
            self.opened_by = None;
            return self.end(cx, CloseReason::OpenTimeout, Reason::Timeout);
        }
        if matches!(self.held, Held::Until(moment, _) if now >= moment) {
            self.held = Held::No;
        }
        if passed(self.heard_out_by) {
            return self.end(cx, CloseReason::AppReset, Reason::AppReset);
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
