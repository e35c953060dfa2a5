//! The server's end of a tunnel: it serves one stream after the other.
//!
//! Invariants: a stream is answered exactly once (the types leave no other
//! way), or its tunnel is aborted; whose bytes have reached an app, that gets
//! OPENED. Must
//! not know: what is dialled, who decides, pools.

use std::future::poll_fn;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use tokio::time::Instant;
use watchword_proto::encode_payload;
use watchword_proto::tunnel::{Denied, Open, Opened, Reason, Refused};

use crate::edge::{AppStream, Leg, Transport};
use crate::error::TunnelError;
use crate::frame::Type;
use crate::link::{Event, Link};
use crate::machine::{Machine, Phase};
use crate::outcome::{Backlog, Closed};
use crate::payload::encode_denied;
use crate::pump::Pump;
use crate::{DISCARD_DEADLINE, EARLY_LIMIT, GOAWAY_GRACE, SERVER_IDLE};

/// The server's end of an idle tunnel. Dropped, it closes the connection.
#[derive(Debug)]
pub struct ServerTunnel<T: Transport> {
    link: Box<Link<T>>,
}

/// A stream that the client opened, and that waits for its answer. Dropped,
/// it aborts the tunnel.
#[derive(Debug)]
#[must_use = "a stream waits for its answer"]
pub struct Opening<T: Transport> {
    link: Box<Link<T>>,
    open: Open,
    early: Backlog,
    /// How much that came before the answer is with the app already.
    delivered: usize,
    fin: bool,
}

/// How dialling the app went.
#[derive(Debug)]
#[must_use = "a stream waits for its answer"]
pub enum Dialled<T: Transport, O> {
    /// The dial came to its end, whatever that is.
    Done(Opening<T>, O),
    /// The client reset the stream; the dial was stopped.
    Reset {
        /// As the client says.
        reason: Reason,
        /// For the next stream, if it is clean.
        tunnel: Option<ServerTunnel<T>>,
    },
    /// The cut that the caller passed; the tunnel is gone.
    Cut(Reason),
    /// The tunnel failed; the dial was stopped.
    Lost(TunnelError),
}

impl<T: Transport> ServerTunnel<T> {
    /// A tunnel on a connection whose handshake is done.
    pub fn new(transport: T) -> Self {
        Self {
            link: Link::new(transport, Machine::server()),
        }
    }

    /// Waits for the next stream. None: the tunnel came to a clean end,
    /// because the client closed it, nobody used it, or `drain` resolved (GOAWAY
    /// is said with its reason, and the client given a moment to leave).
    ///
    /// # Errors
    /// The connection failed, or the client broke the protocol.
    pub async fn next(mut self, drain: impl Future<Output = Reason>) -> Result<Option<Opening<T>>, TunnelError> {
        let mut drain = pin!(drain);
        let mut goodbye = self
            .link
            .machine
            .has_said_goaway()
            .then(|| Instant::now() + GOAWAY_GRACE);
        let idle_by = Instant::now() + SERVER_IDLE;
        let open = poll_fn(|cx| {
            if goodbye.is_none()
                && let Poll::Ready(reason) = drain.as_mut().poll(cx)
            {
                goodbye = Some(self.say_goodbye(reason)?);
            }
            loop {
                if let Poll::Ready(result) = self.poll_open(cx) {
                    return Poll::Ready(result.inspect_err(|error| self.link.fail(cx, error)));
                }
                self.link.rest();
                let wait = goodbye.unwrap_or(idle_by);
                let reading = !self.link.is_stuck();
                let deadline = self.link.deadline(reading).map_or(wait, |at| at.min(wait));
                if self.link.timer.poll(cx, Some(deadline)).is_pending() {
                    return Poll::Pending;
                }
                let now = Instant::now();
                self.link.check_deadline(now).inspect_err(|_| self.link.abort())?;
                match goodbye {
                    None if now >= idle_by => goodbye = Some(self.say_goodbye(Reason::Idle)?),
                    Some(at) if now >= at => {
                        let _ = self.link.poll_shutdown(cx);
                        return Poll::Ready(Ok(None));
                    }
                    _ => {}
                }
            }
        })
        .await?;
        Ok(open.map(|open| Opening {
            link: self.link,
            open,
            early: Backlog::default(),
            delivered: 0,
            fin: false,
        }))
    }

    fn say_goodbye(&mut self, reason: Reason) -> Result<Instant, TunnelError> {
        self.link.queue_goaway(reason)?;
        Ok(Instant::now() + GOAWAY_GRACE)
    }

    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Open>, TunnelError>> {
        loop {
            // Nothing is read while answers wait: they would pile up.
            ready!(self.link.poll_send(cx));
            return Poll::Ready(match ready!(self.link.poll_event(cx)) {
                Ok(Event::Open(open)) => Ok(Some(open)),
                Ok(Event::Vouch) => continue,
                // Otherwise only GOAWAY comes to an idle server.
                Ok(_) => Ok(None),
                Err(TunnelError::Truncated) if self.link.is_between_frames() => Ok(None),
                Err(error) => Err(error),
            });
        }
    }
}

impl<T: Transport> Opening<T> {
    /// What the client says about the stream: for logs only.
    #[must_use]
    pub fn open(&self) -> &Open {
        &self.open
    }

    /// Answers DENIED, and waits until the client has ended its half. Gives
    /// the tunnel back if it is clean. Texts longer than docs/wire.md allows
    /// are cut.
    ///
    /// # Errors
    /// The tunnel failed, or the client did not end its half.
    pub async fn deny(self, denied: &Denied) -> Result<Option<ServerTunnel<T>>, TunnelError> {
        self.answer(Type::Denied, &encode_denied(denied)).await
    }

    /// Answers REFUSED: the app could not be reached. Otherwise as
    /// [`deny`](Self::deny).
    ///
    /// # Errors
    /// As [`deny`](Self::deny).
    pub async fn refuse(self, errno: u32) -> Result<Option<ServerTunnel<T>>, TunnelError> {
        self.answer(Type::Refused, &encode_payload(&Refused { errno })).await
    }

    /// Reads on while `dial` runs: early DATA is kept, and a RESET stops the
    /// dial by dropping it.
    pub async fn dial<F: Future>(self, dial: F, cut: impl Future<Output = Reason>) -> Dialled<T, F::Output> {
        self.dial_with(|_| (0, dial), cut).await
    }

    /// The same, for who can send at once: `begin` is given what has come along
    /// with OPEN, and says how much of it is with the app. Whoever has sent some
    /// has reached the app: the dial must not fail then.
    pub async fn dial_with<F: Future>(
        mut self,
        begin: impl FnOnce(&[u8]) -> (usize, F),
        cut: impl Future<Output = Reason>,
    ) -> Dialled<T, F::Output> {
        let mut begin = Some(begin);
        let mut dial = pin!(None);
        let mut cut = pin!(cut);
        let stop = poll_fn(|cx| {
            if let Poll::Ready(reason) = cut.as_mut().poll(cx) {
                self.link.cut(cx, reason);
                return Poll::Ready(Stop::Cut(reason));
            }
            match self.poll_while_dialling(cx) {
                Poll::Ready(Ok(reason)) => return Poll::Ready(Stop::Reset(reason)),
                Poll::Ready(Err(error)) => {
                    self.link.fail(cx, &error);
                    return Poll::Ready(Stop::Lost(error));
                }
                Poll::Pending => {}
            }
            if let Some(begin) = begin.take() {
                let (sent, begun) = begin(self.early.bytes());
                self.early.consume(sent);
                self.delivered = sent;
                dial.set(Some(begun));
            }
            match dial.as_mut().as_pin_mut() {
                Some(dial) => dial.poll(cx).map(Stop::Done),
                None => Poll::Pending,
            }
        })
        .await;
        match stop {
            Stop::Done(output) => Dialled::Done(self, output),
            Stop::Reset(reason) => Dialled::Reset {
                reason,
                tunnel: reusable(self.link),
            },
            Stop::Cut(reason) => Dialled::Cut(reason),
            Stop::Lost(error) => Dialled::Lost(error),
        }
    }

    /// Answers OPENED and carries the stream to its end. `cut` ends the
    /// stream and the tunnel at once, with its reason; `drain` says GOAWAY
    /// with its own, and the stream goes on. Gives the tunnel back if it is
    /// clean. Dropping the future resets the app and the tunnel.
    pub fn carry<A: AppStream>(
        self,
        app: A,
        cut: impl Future<Output = Reason>,
        drain: impl Future<Output = Reason>,
    ) -> impl Future<Output = (Option<ServerTunnel<T>>, Closed<A>)> {
        self.carry_to(Leg::new(app), cut, drain)
    }

    /// As [`carry`](Self::carry), for a connection that is
    /// [guarded](AppStream::guard) already.
    pub fn carry_guarded<A: AppStream>(
        self,
        app: A,
        cut: impl Future<Output = Reason>,
        drain: impl Future<Output = Reason>,
    ) -> impl Future<Output = (Option<ServerTunnel<T>>, Closed<A>)> {
        self.carry_to(Leg::of_guarded(app), cut, drain)
    }

    fn carry_to<A: AppStream>(
        mut self,
        leg: Leg<A>,
        cut: impl Future<Output = Reason>,
        drain: impl Future<Output = Reason>,
    ) -> impl Future<Output = (Option<ServerTunnel<T>>, Closed<A>)> {
        // A stream that waits for its answer always takes OPENED.
        let _ = self.link.queue(Type::Opened, &encode_payload(&Opened {}));
        let before = (self.delivered as u64, self.early, self.fin);
        let mut pump = Pump::opened(self.link, leg, before);
        // An `async fn` has room for its arguments twice, for as long as the stream lasts.
        async move {
            pump.run(cut, drain).await;
            let (link, closed) = pump.close();
            (reusable(link), closed)
        }
    }

    async fn answer(mut self, kind: Type, payload: &[u8]) -> Result<Option<ServerTunnel<T>>, TunnelError> {
        self.link.queue(kind, payload)?;
        let until = Instant::now() + DISCARD_DEADLINE;
        poll_fn(|cx| {
            self.link
                .poll_settle(cx, until)
                .map(|result| result.inspect_err(|error| self.link.fail(cx, error)))
        })
        .await?;
        Ok(reusable(self.link))
    }

    /// Ready with the reason when the client resets the stream.
    fn poll_while_dialling(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reason, TunnelError>> {
        loop {
            let _ = self.link.poll_send(cx);
            match self.link.poll_event(cx)? {
                Poll::Ready(Event::Data) => self.keep_early()?,
                Poll::Ready(Event::Fin) => self.fin = true,
                Poll::Ready(Event::Reset(reason)) => return Poll::Ready(Ok(reason)),
                Poll::Ready(Event::Farewell(_, reason)) => {
                    return Poll::Ready(Err(TunnelError::ClosedByPeer(reason)));
                }
                // The machine lets nothing else in here.
                Poll::Ready(_) => {}
                Poll::Pending => {
                    self.link.rest();
                    let deadline = self.link.deadline(true);
                    if self.link.timer.poll(cx, deadline).is_pending() {
                        return Poll::Pending;
                    }
                    self.link.check_deadline(Instant::now())?;
                }
            }
        }
    }

    fn keep_early(&mut self) -> Result<(), TunnelError> {
        let bytes = self.link.deliverable();
        let count = bytes.len();
        if self.early.bytes().len() + count > EARLY_LIMIT {
            return Err(TunnelError::TooMuchEarly);
        }
        self.early.push(bytes);
        self.link.delivered(count);
        Ok(())
    }
}

/// What ended the dial.
enum Stop<O> {
    Done(O),
    Reset(Reason),
    Cut(Reason),
    Lost(TunnelError),
}

/// Also a tunnel that GOAWAY was said on: the client has yet to leave.
fn reusable<T: Transport>(link: Box<Link<T>>) -> Option<ServerTunnel<T>> {
    let is_clean = link.machine.phase() == Phase::Idle && !link.has_failed();
    is_clean.then(|| ServerTunnel { link })
}
