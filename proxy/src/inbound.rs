//! The story of a connection that comes to the workload: where it was going,
//! who calls, whether they may, and then the bytes.

use std::future::ready;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::{Instant, SystemTime};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch::Receiver;
use watchword_daemon::sleep_until;
use watchword_identity::{Bundle, SpiffeId};
use watchword_mtls::{Generation, HandshakeError, Peer, accept_tunnel};
use watchword_policy::Decision;
use watchword_proto::tunnel::{Denied, Reason};
use watchword_tunnel::{AppStream, CloseReason, Closed, Dialled, Opening, ServerTunnel, TunnelError};

use crate::connection::{Connection, Direction};
use crate::dial::watch_peer;
use crate::directory::Found;
use crate::ended::Ended;
use crate::enforce::Question;
use crate::intercept::CANARY_PORT;
use crate::intercept::original::{is_local, is_own_port, original_destination};
use crate::mesh::Mesh;
use crate::refusal::{Refusal, Why};
use crate::tunnel_io::TunnelIo;

/// Takes a connection that the kernel sent to us, as a task of its own.
pub(crate) fn begin(mesh: &Mesh, stream: TcpStream, from: SocketAddr) {
    let mesh = mesh.clone();
    tokio::spawn(async move { receive(&mesh, stream, from).await });
}

/// From the accepted connection to its last stream.
async fn receive(mesh: &Mesh, mut stream: TcpStream, from: SocketAddr) {
    let dialled = match original_destination(&stream) {
        Ok(dialled) if is_own_port(dialled.port()) => {
            if mesh.connections.may_write_of_stranger() {
                tracing::warn!(%from, %dialled, reason = Why::NotCaptured.label(), "a call to the sidecar's own port refused");
            }
            return stream.abort();
        }
        Ok(dialled) => dialled,
        Err(error) => {
            if mesh.connections.may_write_of_stranger() {
                tracing::warn!(%from, reason = Why::NotCaptured.label(), %error, "inbound connection refused");
            }
            return stream.abort();
        }
    };
    if dialled.port() == CANARY_PORT {
        return answer_canary(stream).await;
    }
    let mut connection = mesh.connections.begin(Direction::Inbound, from, dialled);
    if !is_local(dialled.ip()).unwrap_or(false) {
        stream.abort();
        return connection.end(&Ended::denied(&Refusal::of(Why::NotLocal)));
    }
    let (tunnel, peer, generation) = match Box::pin(shake_hands(mesh, stream, from.ip())).await {
        Ok(shaken) => shaken,
        Err(ended) => return connection.end(&ended),
    };
    let Some(_live) = mesh.live_tunnels.begin(from.ip(), peer.id()) else {
        connection.set_peer(peer.id().to_string());
        connection.end(&Ended::failed("limit", "its SPIFFE ID has too many tunnels here"));
        let _ = tunnel.next(ready(Reason::Limit)).await;
        return;
    };
    connection.forget();
    let caller = Caller {
        mesh,
        from,
        dialled,
        expires: peer.svid().not_after().min(generation.svid().not_after()),
        peer: peer.id().clone(),
        own: generation.svid().id().clone(),
        trust: Arc::clone(generation.bundle()),
    };
    // What stands here while the tunnel is idle is held for each of them.
    drop((generation, peer));
    if let Err(error) = caller.serve_streams(tunnel).await {
        caller.report(&error);
    }
}

/// Interception is there: said to whoever dials the port that nobody serves.
async fn answer_canary(mut stream: TcpStream) {
    static INSTANCE: OnceLock<u64> = OnceLock::new();
    let body = format!("{:016x}\n", INSTANCE.get_or_init(|| fastrand::u64(..)));
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}

/// TLS with a mandatory client SVID, once there is a slot for it.
async fn shake_hands(
    mesh: &Mesh,
    mut stream: TcpStream,
    source: IpAddr,
) -> Result<(ServerTunnel<TunnelIo>, Peer, Arc<Generation>), Ended> {
    let known = mesh.live_tunnels.reach_from(source);
    let Some(_slot) = mesh.handshakes.slot(source, known).await else {
        stream.abort();
        return Err(Ended::failed("limit", "too many connections wait for their handshake"));
    };
    let Some(generation) = mesh.credentials.valid() else {
        stream.abort();
        return Err(Ended::denied(&Refusal::of(Why::NoIdentity)));
    };
    let _ = watch_peer(&stream);
    let began = Instant::now();
    let shaken = accept_tunnel(&generation, stream).await;
    mesh.connections.telemetry().handshake(
        shaken.as_ref().map(|_| ()).map_err(HandshakeError::label),
        began.elapsed(),
    );
    match shaken {
        Ok((tls, peer)) => {
            let io = TunnelIo::new(tls, mesh.connections.telemetry());
            Ok((ServerTunnel::new(io), peer, generation))
        }
        Err(error) => Err(Ended::failed(error.label(), error.to_string())),
    }
}

/// An authenticated caller and where it called.
struct Caller<'a> {
    mesh: &'a Mesh,
    from: SocketAddr,
    dialled: SocketAddr,
    peer: SpiffeId,
    own: SpiffeId,
    /// The earlier end of both certificates of the handshake.
    expires: SystemTime,
    /// What the peer was verified by.
    trust: Arc<Bundle>,
}

impl Caller<'_> {
    /// One stream after the other, until the tunnel ends.
    async fn serve_streams(&self, mut tunnel: ServerTunnel<TunnelIo>) -> Result<(), TunnelError> {
        while let Some(opening) = tunnel.next(self.goodbye()).await? {
            let mut connection = self.mesh.connections.begin(Direction::Inbound, self.from, self.dialled);
            connection.set_peer(self.peer.to_string());
            match Box::pin(self.serve(opening, connection)).await? {
                Some(clean) => tunnel = clean,
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// The tunnel has failed. That the other side broke the protocol is
    /// counted, and said although no stream was open.
    fn report(&self, error: &TunnelError) {
        let (from, peer, reason) = (self.from, &self.peer, error.label());
        if self.count_violation(error) {
            tracing::warn!(%from, %peer, reason, %error, "the other side broke watchword/1: tunnel closed");
        } else {
            tracing::debug!(%from, %peer, reason, %error, "tunnel ended");
        }
    }

    fn count_violation(&self, error: &TunnelError) -> bool {
        let violated = matches!(error.label(), "protocol" | "slow-frame" | "no-end");
        if violated {
            self.mesh.connections.telemetry().tunnel_violated(error.label());
        }
        violated
    }

    /// No new stream stands on a handshake whose certificates are over or
    /// whose roots are not today's, and none begins while we stop.
    async fn goodbye(&self) -> Reason {
        tokio::select! {
            () = sleep_until(&self.mesh.clock, self.expires) => Reason::Expired,
            reason = self.leaving() => reason,
        }
    }

    /// The part of it that is said within a stream, too. Expiry is not: the
    /// client sees it coming, and a timer for each open stream has its price.
    async fn leaving(&self) -> Reason {
        tokio::select! {
            () = self.trust_changes() => Reason::Rotated,
            () = self.mesh.shutdown.requested() => Reason::Shutdown,
        }
    }

    async fn trust_changes(&self) {
        let mut generations = self.mesh.credentials.changes();
        loop {
            let current = self.mesh.credentials.current();
            if current.is_some_and(|current| **current.bundle() != *self.trust) {
                return;
            }
            if generations.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// One stream: judged after it was recorded, carried to the app, ended once.
    async fn serve(
        &self,
        opening: Opening<TunnelIo>,
        connection: Connection,
    ) -> Result<Option<ServerTunnel<TunnelIo>>, TunnelError> {
        let question = Question {
            service: self.own.clone(),
            peer: self.peer.clone(),
            port: self.dialled.port(),
        };
        let changes = self.mesh.snapshots.policy_changes();
        let decision = match self.declared().and_then(|()| question.decide(self.mesh)) {
            Ok(decision) => decision,
            Err(refusal) => {
                connection.end(&Ended::denied(&refusal));
                return opening.deny(&self.word_for(&refusal)).await;
            }
        };
        let cut = || question.cut_when_denied(self.mesh, changes.clone());
        let (opening, app) = match opening.dial(self.dial_app(), cut()).await {
            Dialled::Done(opening, app) => (opening, app),
            Dialled::Reset { reason, tunnel } => {
                connection.end(&Ended::failed("peer-reset", Why::label_of(reason)));
                return Ok(tunnel);
            }
            Dialled::Cut(reason) => {
                connection.end(&Ended::failed("cut", Why::label_of(reason)));
                return Ok(None);
            }
            Dialled::Lost(error) => {
                connection.end(&Ended::failed(error.label(), error.to_string()));
                return Err(error);
            }
        };
        match app {
            Ok(app) => {
                self.mesh.connections.telemetry().stream_opened();
                let (tunnel, closed) = opening.carry(app, cut(), self.leaving()).await;
                self.settle(connection, closed, &decision, (question, changes));
                Ok(tunnel)
            }
            Err(error) => {
                connection.end(&Ended::refused(&error.to_string()));
                opening.refuse(errno(&error)).await
            }
        }
    }

    async fn dial_app(&self) -> std::io::Result<TcpStream> {
        self.mesh.dialler.connect_app(self.dialled, self.from.ip()).await
    }

    /// A rule without ports means the ports that the service declares, not
    /// whatever else listens on the workload's address.
    fn declared(&self) -> Result<(), Refusal> {
        let directory = self
            .mesh
            .snapshots
            .directory()
            .ok_or_else(|| Refusal::of(Why::NotReady))?;
        match directory.find(self.dialled) {
            Found::Endpoints(_) => Ok(()),
            Found::PortNotDeclared | Found::Unlisted | Found::Outside => Err(Refusal::of(Why::PortNotDeclared)),
        }
    }

    /// What a slow app has yet to take must not keep the tunnel.
    fn settle(
        &self,
        connection: Connection,
        mut closed: Closed<TcpStream>,
        decision: &Decision,
        (question, changes): (Question, Receiver<u64>),
    ) {
        if let CloseReason::Lost(error) = &closed.why {
            self.count_violation(error);
        }
        if closed.owed.is_none() {
            return connection.end(&Ended::of_served(&closed, decision));
        }
        let (mesh, decision) = (self.mesh.clone(), decision.clone());
        tokio::spawn(async move {
            closed.settle(question.cut_when_denied(&mesh, changes)).await;
            connection.end(&Ended::of_served(&closed, &decision));
        });
    }

    /// Policy and rule are for the own trust domain: to another only the reason.
    fn word_for(&self, refusal: &Refusal) -> Denied {
        let same_domain = self.peer.trust_domain() == self.own.trust_domain();
        let name =
            |name: &Option<std::sync::Arc<str>>| name.as_deref().filter(|_| same_domain).unwrap_or_default().to_owned();
        Denied {
            reason: refusal.why.on_the_wire().into(),
            policy: name(&refusal.policy),
            rule: name(&refusal.rule),
        }
    }
}

/// A call of the workload to itself: it never leaves the process, and is
/// judged like any other.
/// `read` was read from the caller already.
pub(crate) async fn serve_self(
    mesh: &Mesh,
    (mut caller, read): (TcpStream, Vec<u8>),
    from: SocketAddr,
    dialled: SocketAddr,
) -> Ended {
    let mut connection = mesh.connections.begin(Direction::Inbound, from, dialled);
    let Some(generation) = mesh.credentials.valid() else {
        caller.abort();
        let ended = Ended::denied(&Refusal::of(Why::NoIdentity));
        connection.end(&ended);
        return ended;
    };
    let own = generation.svid().id();
    connection.set_peer(own.to_string());
    let ended = carry_to_self(mesh, (caller, read), own, dialled).await;
    connection.end(&ended);
    ended
}

async fn carry_to_self(
    mesh: &Mesh,
    (mut caller, read): (TcpStream, Vec<u8>),
    own: &SpiffeId,
    dialled: SocketAddr,
) -> Ended {
    let question = Question {
        service: own.clone(),
        peer: own.clone(),
        port: dialled.port(),
    };
    let changes = mesh.snapshots.policy_changes();
    let decision = match question.decide(mesh) {
        Ok(decision) => decision,
        Err(refusal) => {
            caller.abort();
            return Ended::denied(&refusal);
        }
    };
    let mut app = match mesh.dialler.connect_self(dialled).await {
        Ok(app) => app,
        Err(error) => {
            caller.abort();
            return Ended::refused(&error.to_string());
        }
    };
    // Neither side may take a cut for the end of its data, nor our being killed.
    caller.guard(true);
    app.guard(true);
    let carried = async {
        app.write_all(&read).await?;
        tokio::io::copy_bidirectional(&mut caller, &mut app).await
    };
    tokio::select! {
        carried = carried => match carried {
            Ok((sent, received)) => {
                caller.guard(false);
                app.guard(false);
                Ended::finished(sent + read.len() as u64, received, &decision)
            }
            Err(error) => Ended::failed("app-reset", error.to_string()),
        },
        reason = question.cut_when_denied(mesh, changes) => Ended::failed("cut", Why::label_of(reason)),
    }
}

fn errno(error: &std::io::Error) -> u32 {
    error
        .raw_os_error()
        .and_then(|code| u32::try_from(code).ok())
        .unwrap_or(0)
}
