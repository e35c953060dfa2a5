//! The client's end of a tunnel: it opens streams.
//!
//! Invariants: a tunnel is handed back only when both sides have ended the
//! stream; a call is handed back only when no byte of it can have reached an
//! app. Must not know: endpoints, pools, identities.

use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

use tokio::time::{Instant, timeout};
use watchword_proto::tunnel::{Denied, Open, Reason};

use crate::edge::{AppStream, Leg, Transport};
use crate::error::TunnelError;
use crate::frame::Type;
use crate::link::{Event, Link};
use crate::machine::Machine;
use crate::outcome::Closed;
use crate::payload::encode_open;
use crate::pump::{Answer, Early, Kept, Pump};
use crate::{CLIENT_IDLE, DISCARD_DEADLINE, FRESH, OPENED_DEADLINE};

/// An app's connection that is to be carried, with what must be sent again
/// when an earlier try failed. Dropped, it resets the app.
#[derive(Debug)]
pub struct Call<A: AppStream> {
    leg: Leg<A>,
    open: Open,
    kept: Kept,
    fin: bool,
}

impl<A: AppStream> Call<A> {
    /// A call that was not tried yet. Texts in `open` that are longer than
    /// docs/wire.md allows are cut.
    pub fn new(app: A, open: Open) -> Self {
        Self::with(Leg::new(app), open)
    }

    /// As [`new`](Self::new), for a connection that is [guarded](AppStream::guard)
    /// already.
    pub fn of_guarded(app: A, open: Open) -> Self {
        Self::with(Leg::of_guarded(app), open)
    }

    fn with(leg: Leg<A>, open: Open) -> Self {
        Self {
            leg,
            open,
            kept: Kept::default(),
            fin: false,
        }
    }
}

impl<A: AppStream> Call<A> {
    /// The app's connection, and the bytes that were read from it already, for
    /// somebody else to carry. None: it was reset.
    pub fn into_parts(mut self) -> Option<(A, Vec<u8>)> {
        self.leg.give_up().map(|app| (app, self.kept.into_bytes()))
    }
}

/// How a call ended.
#[derive(Debug)]
pub enum End<A: AppStream> {
    /// Policy said no on the other side. The app was reset.
    Denied(Denied),
    /// The app on the other side could not be reached. Another endpoint may
    /// be tried.
    Refused {
        /// Linux errno of connect(), 0 when there is none.
        errno: u32,
        /// To be tried again, or dropped.
        call: Call<A>,
    },
    /// Nobody served it: it may be tried again on a new tunnel, the same
    /// endpoint included.
    Replay {
        /// What happened to this tunnel.
        why: TunnelError,
        /// To be tried again, or dropped.
        call: Call<A>,
    },
    /// It was served, or may have been.
    Closed(Closed<A>),
}

/// What [`ClientTunnel::carry`] gives back.
#[derive(Debug)]
#[must_use = "a clean tunnel can be reused, and the end be recorded"]
pub struct Carried<T: Transport, A: AppStream> {
    /// The tunnel, if it is clean.
    pub tunnel: Option<ClientTunnel<T>>,
    /// How the call ended.
    pub end: End<A>,
}

/// Why an idle tunnel is of no use any more.
#[derive(Debug)]
pub enum IdleEnd {
    /// Nobody used it for [`CLIENT_IDLE`]: it is to be closed.
    Unused,
    /// The server said GOAWAY or closed it.
    ByServer(Reason),
}

/// The client's end of an idle tunnel. Dropped, it closes the connection.
#[derive(Debug)]
pub struct ClientTunnel<T: Transport> {
    link: Box<Link<T>>,
    idle_since: Instant,
}

impl<T: Transport> ClientTunnel<T> {
    /// A tunnel on a connection whose handshake is done.
    pub fn new(transport: T) -> Self {
        Self::on_lane(transport, Instant::now())
    }

    /// A tunnel on a new lane of a connection that was heard of at `heard`: what
    /// is known of the server is as old as that.
    pub fn on_lane(lane: T, heard: Instant) -> Self {
        Self {
            link: Link::new(lane, Machine::client()),
            idle_since: heard,
        }
    }

    /// Carries one call to its end. `cut` ends the stream and the tunnel at
    /// once, with its reason. Dropping the future resets the app and the
    /// tunnel.
    pub fn carry<A: AppStream>(
        mut self,
        call: Call<A>,
        cut: impl Future<Output = Reason>,
    ) -> impl Future<Output = Carried<T, A>> {
        let is_fresh = self.idle_since.elapsed() < FRESH;
        // An `async fn` has room for its arguments twice, for as long as the stream lasts.
        async move {
            if let Err(why) = self.begin(&call).await {
                let end = End::Replay { why, call };
                return Carried { tunnel: None, end };
            }
            let early = Early {
                kept: call.kept,
                fin: call.fin,
                sent: 0,
                open_end: self.link.queued_to(),
                is_held: !is_fresh,
            };
            self.link.limit_silence(!is_fresh);
            let opened_by = Instant::now() + OPENED_DEADLINE;
            let mut pump = Pump::opening(self.link, call.leg, early, opened_by);
            pump.run(cut, std::future::pending()).await;
            conclude(pump, call.open)
        }
    }

    /// Watches the idle tunnel until it is of no use any more. A pool calls
    /// this while the tunnel waits; dropping the future loses nothing.
    ///
    /// # Errors
    /// The connection failed, or the server broke the protocol.
    pub async fn watch(&mut self) -> Result<IdleEnd, TunnelError> {
        poll_fn(|cx| self.poll_watch(cx)).await
    }

    /// Sends what the last stream left to be said. False: some of it waits, and
    /// whoever watches the tunnel sends it.
    pub(crate) fn settle(&mut self) -> bool {
        let sent = self.link.poll_send(&mut Context::from_waker(Waker::noop())).is_ready();
        self.link.rest();
        sent
    }

    /// As [`watch`](Self::watch), for who holds the tunnel where others may
    /// take it from.
    pub(crate) fn poll_watch(&mut self, cx: &mut Context<'_>) -> Poll<Result<IdleEnd, TunnelError>> {
        let unused_by = self.idle_since + CLIENT_IDLE;
        let _ = self.link.poll_send(cx);
        match self.link.poll_event(cx) {
            Poll::Ready(Ok(Event::Farewell(_, reason))) => return Poll::Ready(Ok(IdleEnd::ByServer(reason))),
            // No other event comes to an idle client.
            Poll::Ready(Ok(_)) => return Poll::Ready(Ok(IdleEnd::ByServer(Reason::Protocol))),
            Poll::Ready(Err(TunnelError::Truncated)) if self.link.is_between_frames() => {
                return Poll::Ready(Ok(IdleEnd::ByServer(Reason::Unspecified)));
            }
            Poll::Ready(Err(error)) => {
                self.link.fail(cx, &error);
                return Poll::Ready(Err(error));
            }
            Poll::Pending => {}
        }
        self.link.rest();
        let deadline = self.link.deadline(true).map_or(unused_by, |at| at.min(unused_by));
        if self.link.timer.poll(cx, Some(deadline)).is_pending() {
            return Poll::Pending;
        }
        let late = self
            .link
            .check_deadline(Instant::now())
            .inspect_err(|_| self.link.abort());
        Poll::Ready(late.map(|()| IdleEnd::Unused))
    }

    /// Says GOAWAY and closes, within a second.
    pub async fn close(mut self, reason: Reason) {
        if self.link.queue_goaway(reason).is_ok() {
            let _ = timeout(DISCARD_DEADLINE, poll_fn(|cx| self.link.poll_shutdown(cx))).await;
        }
    }

    fn idle(link: Box<Link<T>>) -> Self {
        let idle_since = Instant::now();
        Self { link, idle_since }
    }

    /// Queues OPEN, unless the server has left already.
    async fn begin<A: AppStream>(&mut self, call: &Call<A>) -> Result<(), TunnelError> {
        if self.link.machine.latest() > 0 {
            poll_fn(|cx| match self.link.poll_event(cx) {
                Poll::Ready(Ok(Event::Farewell(_, reason))) => Poll::Ready(Err(TunnelError::ClosedByPeer(reason))),
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Ready(Ok(_)) | Poll::Pending => Poll::Ready(Ok(())),
            })
            .await?;
        }
        self.link.queue(Type::Open, &encode_open(&call.open))
    }
}

fn conclude<T: Transport, A: AppStream>(mut pump: Pump<T, A>, open: Open) -> Carried<T, A> {
    pump.link.limit_silence(false);
    let answer = pump.answer.take();
    let call = Call {
        leg: pump.leg.take(),
        open,
        kept: std::mem::take(&mut pump.early.kept),
        fin: pump.early.fin,
    };
    let end = match answer {
        Some(Answer::Denied(denied)) => Some(End::Denied(denied)),
        Some(Answer::Refused(errno)) => Some(End::Refused { errno, call }),
        Some(Answer::Replay(why)) => Some(End::Replay { why, call }),
        None => {
            pump.leg = call.leg;
            None
        }
    };
    let (link, closed) = pump.close();
    Carried {
        tunnel: link.is_reusable().then(|| ClientTunnel::idle(link)),
        end: end.unwrap_or(End::Closed(closed)),
    }
}
