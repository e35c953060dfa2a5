//! What comes on a tunnel: one stream after the other, each recorded, judged,
//! and carried to the app, as bytes or request by request.

use std::future::{pending, poll_fn, ready};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::SystemTime;

use tokio::net::TcpStream;
use watchword_daemon::sleep_until;
use watchword_identity::Bundle;
use watchword_proto::tunnel::{Denied, Reason};
use watchword_tunnel::{AppStream, CloseReason, Closed, Dialled, Opening, ServerTunnel, TunnelError};

use super::policy_news::PolicyNews;
use crate::connection::{Connection, Direction};
use crate::dial::First;
use crate::ended::{Ended, Verdict};
use crate::enforce::{Admission, Question};
use crate::http;
use crate::live_tunnels::LiveTunnel;
use crate::mesh::Mesh;
use crate::on_wake::OnWake;
use crate::refusal::{Refusal, Why};
use crate::tunnel_io::TunnelIo;
use crate::visitor::Visitor;

/// An authenticated caller with its tunnel, and what that stands on.
pub(super) struct Caller {
    pub(super) visitor: Arc<Visitor>,
    /// The earlier end of both certificates of the handshake.
    pub(super) expires: SystemTime,
    /// What the peer was verified by.
    pub(super) trust: Arc<Bundle>,
}

/// What a tunnel is worth after a stream: nothing where it is not clean.
type After = Result<Option<ServerTunnel<TunnelIo>>, TunnelError>;

/// A stream until its end, in a box, since each protocol needs another room.
type Serving<'a> = Pin<Box<dyn Future<Output = After> + Send + 'a>>;

/// A stream that was let in, and what it takes to watch over it.
struct Admitted<'a> {
    opening: Opening<TunnelIo>,
    connection: Connection,
    question: Question,
    watch: Watch<'a>,
}

/// What a tunnel has for all of its streams: why one has to end, and why none may
/// follow.
struct Watch<'a> {
    news: &'a mut PolicyNews,
    leaving: &'a mut (dyn Future<Output = Reason> + Send + Unpin),
}

impl Caller {
    /// From its first stream to its end, as long as it counts.
    pub(super) async fn serve_tunnel(&self, tunnel: ServerTunnel<TunnelIo>, _counted: LiveTunnel) {
        if let Err(error) = self.serve_streams(tunnel).await {
            self.report(&error);
        }
    }

    /// One stream after the other, until the tunnel ends.
    async fn serve_streams(&self, mut tunnel: ServerTunnel<TunnelIo>) -> Result<(), TunnelError> {
        let mut leaving = OnWake::new(self.leaving());
        let mut news = PolicyNews::of(self.mesh().snapshots.policy_changes());
        let mut expiry = pin!(sleep_until(&self.mesh().clock, self.expires));
        loop {
            // What is awaited by value has room in each future on the way: what is
            // pinned here, and boxed where it is rare, is held once by each tunnel.
            let next = {
                // No new stream stands on a handshake whose certificates are over
                // or whose roots are not today's, and none begins while we stop.
                let goodbye = pin!(async {
                    tokio::select! {
                        () = expiry.as_mut() => Reason::Expired,
                        reason = &mut leaving => reason,
                    }
                });
                tunnel.next(goodbye).await?
            };
            let Some(opening) = next else { return Ok(()) };
            let Visitor {
                from,
                dialled,
                peer_text,
                ..
            } = &*self.visitor;
            let mut connection = self.mesh().connections.begin(Direction::Inbound, *from, *dialled);
            connection.set_peer(Arc::clone(peer_text));
            let watch = Watch {
                news: &mut news,
                leaving: &mut leaving,
            };
            match self.serve(opening, connection, watch).await? {
                Some(clean) => tunnel = clean,
                None => return Ok(()),
            }
        }
    }

    /// The tunnel has failed. That the other side broke the protocol is
    /// counted, and said although no stream was open.
    pub(super) fn report(&self, error: &TunnelError) {
        let (from, peer, reason) = (self.visitor.from, &self.visitor.peer, error.label());
        if self.count_violation(error) {
            tracing::warn!(%from, %peer, reason, %error, "the other side broke watchword/1: tunnel closed");
        } else {
            tracing::debug!(%from, %peer, reason, %error, "tunnel ended");
        }
    }

    fn mesh(&self) -> &Mesh {
        &self.visitor.mesh
    }

    fn count_violation(&self, error: &TunnelError) -> bool {
        let violated = matches!(error.label(), "protocol" | "slow-frame" | "no-end");
        if violated {
            self.mesh().connections.telemetry().tunnel_violated(error.label());
        }
        violated
    }

    /// What is said within a stream, too. Expiry is not: the client sees it coming.
    async fn leaving(&self) -> Reason {
        tokio::select! {
            () = self.trust_changes() => Reason::Rotated,
            () = self.mesh().shutdown.requested() => Reason::Shutdown,
        }
    }

    async fn trust_changes(&self) {
        let mut generations = self.mesh().credentials.changes();
        loop {
            let current = self.mesh().credentials.current();
            if current.is_some_and(|current| **current.bundle() != *self.trust) {
                return;
            }
            if generations.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// One stream: judged after it was recorded, carried to the app, ended once.
    fn serve<'a>(&'a self, opening: Opening<TunnelIo>, mut connection: Connection, watch: Watch<'a>) -> Serving<'a> {
        let (question, admission) = match self.admit() {
            Ok(admitted) => admitted,
            Err(refusal) => {
                connection.end(&Ended::denied(&refusal));
                let denied = self.word_for(&refusal);
                return Box::pin(async move { opening.deny(&denied).await });
            }
        };
        connection.set_protocol(question.protocol);
        let admitted = Admitted {
            opening,
            connection,
            question,
            watch,
        };
        match admission {
            Admission::Whole(decision) => Box::pin(self.serve_bytes(admitted, Verdict::of(&decision))),
            Admission::Requests { some_may_pass: true } => Box::pin(self.serve_requests(admitted)),
            Admission::Requests { some_may_pass: false } => Box::pin(self.carry_requests(admitted, None)),
        }
    }

    fn admit(&self) -> Result<(Question, Admission), Refusal> {
        let question = Question {
            visitor: Arc::clone(&self.visitor),
            protocol: self.mesh().snapshots.declared(self.visitor.dialled)?,
        };
        let admission = question.admit()?;
        Ok((question, admission))
    }

    /// As they come.
    fn serve_bytes<'a>(&'a self, admitted: Admitted<'a>, verdict: Verdict) -> impl Future<Output = After> + 'a {
        let Admitted {
            opening,
            connection,
            question,
            watch: Watch { news, leaving },
        } = admitted;
        // An `async fn` has room for its arguments twice, for as long as the stream lasts.
        async move {
            let mesh = self.mesh();
            let ends = || (self.visitor.dialled, self.visitor.from.ip());
            let mut cut = news.cut_when_denied(&question);
            let call = |first: &[u8]| mesh.dialler.call_app(ends(), first, &mesh.used_sockets);
            let (opening, app) = match Box::pin(dial(opening, call, &mut cut)).await {
                Ok(dialled) => dialled,
                Err(not_dialled) => return not_dialled.end(connection).await,
            };
            mesh.connections.telemetry().stream_opened();
            let (tunnel, mut closed) = opening.carry_guarded(app, &mut cut, leaving).await;
            if let Some(ended) = closed.released.take() {
                mesh.dialler.take_back(ends(), ended, &mesh.used_sockets);
            }
            self.settle(connection, closed, verdict, &question);
            Ok(tunnel)
        }
    }

    /// The app is dialled first: one that can't be reached is told to the
    /// caller's sidecar, which has other replicas to try.
    async fn serve_requests(&self, mut admitted: Admitted<'_>) -> After {
        if self.mesh().app_pool.has(&self.visitor.app_key()) {
            return Box::pin(self.carry_requests(admitted, None)).await;
        }
        let cut = admitted.watch.news.cut_when_denied(&admitted.question);
        let Visitor { dialled, from, .. } = &*self.visitor;
        let dialler = &self.mesh().dialler;
        let call = |first: &[u8]| (0, dialler.connect_app(*dialled, from.ip(), First::of(first)));
        match Box::pin(dial(admitted.opening, call, cut)).await {
            Ok((opening, app)) => {
                admitted.opening = opening;
                Box::pin(self.carry_requests(admitted, Some(app))).await
            }
            Err(not_dialled) => not_dialled.end(admitted.connection).await,
        }
    }

    /// An HTTP server stands where the app would.
    async fn carry_requests(&self, admitted: Admitted<'_>, app: Option<TcpStream>) -> After {
        self.mesh().connections.telemetry().stream_opened();
        let Admitted {
            opening,
            connection,
            question,
            watch: Watch { news, leaving },
        } = admitted;
        let cut = news.cut_when_denied(&question);
        let (tunnel_end, server_end, spoken) = http::pipe();
        let stop = OnWake::new(self.mesh().shutdown.requested());
        let served = (Arc::clone(&self.visitor), question.protocol);
        let serving = async {
            if let Err(error) = http::serve(served, server_end, app, (pending(), stop)).await {
                tracing::debug!(%error, "a caller's connection ended");
            }
            // What it owes to the caller is under way; the tunnel says when it is there.
            pending::<()>().await;
        };
        let carrying = opening.carry(tunnel_end, cut, leaving);
        let (tunnel, closed) = in_turns(Box::pin(carrying), Box::pin(serving), spoken).await;
        self.settle(connection, closed, Verdict::none(), &question);
        Ok(tunnel)
    }

    /// What a slow app has yet to take must not keep the tunnel.
    fn settle<A: AppStream + Send + 'static>(
        &self,
        connection: Connection,
        mut closed: Closed<A>,
        verdict: Verdict,
        question: &Question,
    ) {
        if let CloseReason::Lost(error) = &closed.why {
            self.count_violation(error);
        }
        if closed.owed.is_none() {
            return connection.end(&Ended::of_served(&closed, verdict));
        }
        let (question, changes) = (question.clone(), self.mesh().snapshots.policy_changes());
        tokio::spawn(async move {
            let cut = async {
                // Between the last news and these.
                if question.is_denied() {
                    return Reason::PolicyChanged;
                }
                question.cut_when_denied(changes).await
            };
            closed.settle(cut).await;
            connection.end(&Ended::of_served(&closed, verdict));
        });
    }

    fn word_for(&self, refusal: &Refusal) -> Denied {
        let (policy, rule) = refusal.named_to(self.visitor.is_of_our_domain());
        Denied {
            reason: refusal.why.on_the_wire().into(),
            policy: policy.unwrap_or_default().to_owned(),
            rule: rule.unwrap_or_default().to_owned(),
        }
    }
}

/// A stream that has ended without an app, and what remains of its tunnel.
struct NotDialled {
    ended: Ended,
    after: Serving<'static>,
}

impl NotDialled {
    fn new(ended: Ended, after: impl Future<Output = After> + Send + 'static) -> Self {
        let after = Box::pin(after);
        Self { ended, after }
    }

    /// The record ends at once, before what remains is awaited.
    fn end(self, connection: Connection) -> impl Future<Output = After> {
        connection.end(&self.ended);
        self.after
    }
}

/// Dials the app. Otherwise the stream has ended.
async fn dial<A, D>(
    opening: Opening<TunnelIo>,
    call: impl FnOnce(&[u8]) -> (usize, D),
    cut: impl Future<Output = Reason>,
) -> Result<(Opening<TunnelIo>, A), NotDialled>
where
    D: Future<Output = std::io::Result<A>>,
{
    Err(match opening.dial_with(call, cut).await {
        Dialled::Done(opening, Ok(app)) => return Ok((opening, app)),
        Dialled::Done(opening, Err(error)) => {
            NotDialled::new(Ended::refused(&error.to_string()), opening.refuse(errno(&error)))
        }
        Dialled::Reset { reason, tunnel } => {
            NotDialled::new(Ended::failed("peer-reset", Why::label_of(reason)), ready(Ok(tunnel)))
        }
        Dialled::Cut(reason) => NotDialled::new(Ended::failed("cut", Why::label_of(reason)), ready(Ok(None))),
        Dialled::Lost(error) => NotDialled::new(Ended::failed(error.label(), error.to_string()), ready(Err(error))),
    })
}

/// Polls both ends of a pipe, the second one for as long as the first lasts.
/// What one does for the other is taken up at once, without waking the task.
async fn in_turns<C>(
    mut carrying: Pin<Box<impl Future<Output = C>>>,
    mut serving: Pin<Box<impl Future<Output = ()>>>,
    news: http::News,
) -> C {
    poll_fn(|cx| {
        let mut is_first = true;
        loop {
            if let Poll::Ready(carried) = carrying.as_mut().poll(cx) {
                return Poll::Ready(carried);
            }
            if news.for_server() || is_first {
                let _ = serving.as_mut().poll(cx);
            }
            is_first = false;
            if !news.for_tunnel() {
                return Poll::Pending;
            }
        }
    })
    .await
}

fn errno(error: &std::io::Error) -> u32 {
    error
        .raw_os_error()
        .and_then(|code| u32::try_from(code).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In bytes: of more, glibc has no list that a thread has for itself (tcache).
    const QUICK: usize = 1032;

    fn size_of_result<Asked, Result>(_: impl FnOnce(Asked) -> Result) -> usize {
        size_of::<Result>()
    }

    #[test]
    fn what_a_stream_holds_is_small_enough_for_quick_memory() {
        let size = size_of_result(|(caller, admitted): (&'static Caller, Admitted<'static>)| {
            caller.serve_bytes(admitted, Verdict::none())
        });
        assert!(size <= QUICK, "{size} bytes");
    }
}
