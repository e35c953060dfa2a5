//! Accepting: from a listener to a connection that proved who it is, within
//! limits of number and time.
//!
//! Invariants: at most 256 handshakes run at once; beyond that connections
//! wait in the listener's own queue. A caller that says nothing, or anything
//! but TLS, costs one slot for five seconds, and a line in the log.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use watchword_daemon::{Clock, Shutdown, sleep_until};
use watchword_mtls::{Credentials, HandshakeError, Peer};

use super::connection::{Caller, ControlConnection, End, Transport};
use crate::metrics::ControlMetrics;

const MAX_HANDSHAKES: usize = 256;
/// With a certificate.
const MAX_CONNECTIONS: usize = 16_384;
/// Without one: they attest and go.
const MAX_ANONYMOUS: usize = 1024;
const ANONYMOUS_LIFETIME: Duration = Duration::from_secs(30);
/// So that a stream can still say why it ends.
const AFTER_EXPIRY: Duration = Duration::from_secs(2);
/// Refused connections that are named in the log; all are counted.
const LINES_PER_SECOND: u32 = 10;
/// After an error of accept itself, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is listened on.
#[derive(Debug)]
pub enum ControlListener {
    /// `listen`.
    Tcp(TcpListener),
    /// control.sock.
    Unix(UnixListener),
}

impl ControlListener {
    async fn accept(&self) -> io::Result<Transport> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // Small messages both ways.
                stream.set_nodelay(true)?;
                Ok(Transport::Tcp(stream))
            }
            Self::Unix(listener) => listener.accept().await.map(|(stream, _)| Transport::Unix(stream)),
        }
    }
}

/// What handshakes need. Clones share the limits.
#[derive(Clone)]
pub struct Doorkeeper {
    credentials: Credentials,
    clock: Arc<dyn Clock>,
    metrics: ControlMetrics,
    handshakes: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    anonymous: Arc<Semaphore>,
    log_limit: LogLimit,
}

impl Doorkeeper {
    /// With nobody inside.
    pub fn new(credentials: Credentials, clock: Arc<dyn Clock>, metrics: ControlMetrics) -> Self {
        Self {
            credentials,
            clock,
            metrics,
            handshakes: Arc::new(Semaphore::new(MAX_HANDSHAKES)),
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            anonymous: Arc::new(Semaphore::new(MAX_ANONYMOUS)),
            log_limit: LogLimit::default(),
        }
    }

    async fn admit(&self, transport: Transport) -> Option<ControlConnection> {
        let from = transport.describe();
        let generation = self.credentials.current()?;
        match watchword_mtls::accept_control(&generation, transport).await {
            Ok((stream, peer)) => {
                self.metrics.handshake("");
                let kind = if peer.is_some() {
                    &self.connections
                } else {
                    &self.anonymous
                };
                let Ok(place) = Arc::clone(kind).try_acquire_owned() else {
                    tracing::warn!(from, reason = "limit", "connection refused: there are too many");
                    return None;
                };
                let end = self.end_of(peer.as_ref());
                Some(ControlConnection::new(stream, Caller { peer, from }, end, vec![place]))
            }
            Err(error) => {
                self.metrics.handshake(error.label());
                log_failure(&from, &error, &self.log_limit);
                None
            }
        }
    }

    fn end_of(&self, peer: Option<&Peer>) -> End {
        let Some(peer) = peer else {
            return Box::pin(tokio::time::sleep(ANONYMOUS_LIFETIME));
        };
        let (clock, end) = (Arc::clone(&self.clock), peer.svid().not_after() + AFTER_EXPIRY);
        Box::pin(async move { sleep_until(&clock, end).await })
    }
}

/// Lets a bounded number of lines through per second, so that a flood of bad
/// connections does not fill the disk.
#[derive(Clone, Default)]
struct LogLimit(Arc<Mutex<(Option<Instant>, u32)>>);

impl LogLimit {
    fn allows(&self) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.0.is_none_or(|began| began.elapsed() >= Duration::from_secs(1)) {
            *state = (Some(Instant::now()), 0);
        }
        state.1 += 1;
        state.1 <= LINES_PER_SECOND
    }
}

fn log_failure(from: &str, error: &HandshakeError, limit: &LogLimit) {
    let reason = error.label();
    // A connection that ends by itself is a probe of a port, no more.
    if matches!(error, HandshakeError::Io(_)) || !limit.allows() {
        tracing::debug!(from, reason, %error, "connection refused");
    } else {
        tracing::warn!(from, reason, %error, "connection refused");
    }
}

/// Accepts callers until shutdown.
pub async fn accept_control(
    listener: ControlListener,
    doorkeeper: Doorkeeper,
    accepted: mpsc::Sender<io::Result<ControlConnection>>,
    shutdown: Shutdown,
) {
    loop {
        let Ok(slot) = Arc::clone(&doorkeeper.handshakes).acquire_owned().await else {
            return;
        };
        let transport = tokio::select! {
            transport = listener.accept() => transport,
            () = shutdown.requested() => return,
        };
        let transport = match transport {
            Ok(transport) => transport,
            Err(error) => {
                tracing::warn!(%error, "a connection can't be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (doorkeeper, accepted) = (doorkeeper.clone(), accepted.clone());
        tokio::spawn(async move {
            let connection = doorkeeper.admit(transport).await;
            drop(slot);
            if let Some(connection) = connection {
                // Refused only while the server stops.
                let _ = accepted.send(Ok(connection)).await;
            }
        });
    }
}

/// Accepts people on the admin socket until shutdown: root and our own uid.
/// The socket's mode keeps others out already.
pub async fn accept_admin(listener: UnixListener, accepted: mpsc::Sender<io::Result<UnixStream>>, shutdown: Shutdown) {
    let us = nix::unistd::geteuid().as_raw();
    loop {
        let stream = tokio::select! {
            stream = listener.accept() => stream,
            () = shutdown.requested() => return,
        };
        let caller = stream.and_then(|(stream, _)| stream.peer_cred().map(|caller| (stream, caller.uid())));
        match caller {
            Ok((stream, uid)) if uid == 0 || uid == us => {
                if accepted.send(Ok(stream)).await.is_err() {
                    return;
                }
            }
            Ok((_, uid)) => tracing::warn!(uid, reason = "uid", "connection to the admin socket refused"),
            Err(error) => {
                tracing::warn!(%error, "a connection to the admin socket can't be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
