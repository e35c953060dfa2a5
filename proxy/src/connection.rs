//! The record of each connection: made before anything is judged, so that a
//! change in between is not missed; ended once, with the reason, in the log
//! and the metrics.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};
use tokio::sync::Notify;
use watchword_daemon::Clock;
use watchword_policy::{Protocol, UNAUTHENTICATED};

use crate::ended::{Ended, Verdict};
use crate::log_limit::{Line, LogLimit};
use crate::telemetry::Telemetry;

/// Which way a connection goes, seen from the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Direction {
    Inbound,
    Outbound,
}

impl Direction {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// The last call that was denied, for people.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct LastDenial {
    /// Unix seconds.
    time: u64,
    direction: Direction,
    #[serde(serialize_with = "text")]
    peer: Arc<str>,
    /// Of the other side; as it was dialled, where we called.
    address: IpAddr,
    port: u16,
    /// Method and path, where a request was denied.
    request: Option<String>,
    policy: String,
    rule: String,
    reason: &'static str,
    /// It passed: only audit policies would have denied it.
    audit: bool,
}

#[derive(Serialize)]
struct Open {
    direction: Direction,
    client: SocketAddr,
    dialled: SocketAddr,
    #[serde(serialize_with = "text")]
    peer: Arc<str>,
    /// Unix seconds.
    since: u64,
}

fn text<S: Serializer>(text: &Arc<str>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(text)
}

/// A macro, since a level must be known when the line is compiled.
macro_rules! access_line {
    ($level:path, $connection:expr, $ended:expr, $client_id:expr, $server_id:expr) => {{
        use $level as level;
        level!(
            target: "access",
            direction = $connection.direction.label(),
            client_id = $client_id,
            server_id = $server_id,
            client = %$connection.client,
            dialled = %$connection.dialled,
            protocol = $connection.protocol.as_str(),
            decision = $ended.verdict.decision,
            policy = $ended.verdict.policy(),
            rule = $ended.verdict.rule(),
            result = $ended.result,
            reason = $ended.reason,
            bytes_sent = $ended.sent,
            bytes_received = $ended.received,
            duration_ms = u64::try_from($connection.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            detail = $ended.detail,
            "connection"
        );
    }};
}

/// All connections of this proxy. Clones share one state.
#[derive(Clone)]
pub(crate) struct Connections {
    inner: Arc<Inner>,
}

struct Inner {
    own_id: Mutex<Arc<str>>,
    open: Mutex<BTreeMap<u64, Open>>,
    next: AtomicU64,
    last_denial: Mutex<Option<LastDenial>>,
    /// The last open one has ended.
    ended: Notify,
    /// For lines that anybody on the network can cause.
    strangers: Mutex<LogLimit>,
    clock: Arc<dyn Clock>,
    telemetry: Telemetry,
}

impl Inner {
    fn remove(&self, id: u64) {
        let mut open = lock(&self.open);
        open.remove(&id);
        if open.is_empty() {
            self.ended.notify_waiters();
        }
    }
}

/// What `/connections` shows.
#[derive(Serialize)]
struct Shown<'a> {
    active: usize,
    last_denial: Option<LastDenial>,
    /// The oldest, a hundred at most.
    connections: Vec<&'a Open>,
}

impl Connections {
    pub(crate) fn new(clock: Arc<dyn Clock>, telemetry: Telemetry) -> Self {
        let inner = Inner {
            own_id: Mutex::default(),
            open: Mutex::default(),
            next: AtomicU64::new(1),
            last_denial: Mutex::default(),
            ended: Notify::new(),
            strangers: Mutex::default(),
            clock,
            telemetry,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Who we are, for the log.
    pub(crate) fn set_own_id(&self, id: String) {
        *lock(&self.inner.own_id) = id.into();
    }

    /// Records a connection at its start.
    pub(crate) fn begin(&self, direction: Direction, client: SocketAddr, dialled: SocketAddr) -> Connection {
        let id = self.inner.next.fetch_add(1, Ordering::Relaxed);
        let open = Open {
            direction,
            client,
            dialled,
            peer: Arc::default(),
            since: self.unix_now(),
        };
        lock(&self.inner.open).insert(id, open);
        self.inner.telemetry.connection_opened(direction);
        Connection {
            id,
            direction,
            client,
            dialled,
            peer: Arc::default(),
            protocol: Protocol::Tcp,
            began: Instant::now(),
            ended: false,
            connections: self.clone(),
        }
    }

    /// How many are open.
    pub(crate) fn active(&self) -> usize {
        lock(&self.inner.open).len()
    }

    /// Waits until none is open.
    pub(crate) async fn all_ended(&self) {
        loop {
            let ended = self.inner.ended.notified();
            if self.active() == 0 {
                return;
            }
            ended.await;
        }
    }

    /// As JSON, for the admin page.
    pub(crate) fn to_json(&self) -> String {
        let open = lock(&self.inner.open);
        let shown = Shown {
            active: open.len(),
            last_denial: lock(&self.inner.last_denial).clone(),
            connections: open.values().take(100).collect(),
        };
        serde_json::to_string(&shown).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"))
    }

    /// What was denied is shown to people; `request` is method and path, where
    /// a connection goes on. With `audit` it passed.
    pub(crate) fn note_denial(
        &self,
        (peer, address, port): (&Arc<str>, IpAddr, u16),
        (reason, by): (&'static str, &Verdict),
        (request, audit): (Option<String>, bool),
    ) {
        *lock(&self.inner.last_denial) = Some(LastDenial {
            time: self.unix_now(),
            direction: Direction::Inbound,
            peer: Arc::clone(peer),
            address,
            port,
            request,
            policy: by.policy().to_owned(),
            rule: by.rule().to_owned(),
            reason,
            audit,
        });
    }

    pub(crate) fn telemetry(&self) -> &Telemetry {
        &self.inner.telemetry
    }

    /// Whether a line may be written about somebody who has proved nothing;
    /// those that may not are summed up once a second.
    pub(crate) fn may_write_of_stranger(&self) -> bool {
        let line = lock(&self.inner.strangers).ask(Instant::now());
        if let Line::LeaveOutAndSumUpAt(moment) = line
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let this = self.clone();
            runtime.spawn(async move {
                tokio::time::sleep_until(moment.into()).await;
                let left_out = lock(&this.inner.strangers).sum_up();
                tracing::warn!(
                    left_out,
                    "more refused connections than are logged one by one: watchword_connections_total counts them all"
                );
            });
        }
        line == Line::Write
    }

    fn unix_now(&self) -> u64 {
        unix_seconds(self.inner.clock.now())
    }
}

/// One connection. Dropped without [`Connection::end`], it ends as cancelled.
pub(crate) struct Connection {
    id: u64,
    direction: Direction,
    client: SocketAddr,
    dialled: SocketAddr,
    peer: Arc<str>,
    protocol: Protocol,
    began: Instant,
    ended: bool,
    connections: Connections,
}

impl Connection {
    /// Once it is known who is at the other end.
    pub(crate) fn set_peer(&mut self, peer: impl Into<Arc<str>>) {
        self.peer = peer.into();
        if let Some(open) = lock(&self.connections.inner.open).get_mut(&self.id) {
            open.peer = Arc::clone(&self.peer);
        }
    }

    /// Once it is known what is spoken; before, its bytes are nobody's business.
    pub(crate) fn set_protocol(&mut self, protocol: Protocol) {
        self.protocol = protocol;
    }

    /// Not a connection after all: the streams on it are.
    pub(crate) fn forget(mut self) {
        self.ended = true;
        self.connections.inner.remove(self.id);
        self.connections.inner.telemetry.connection_forgotten(self.direction);
    }

    /// The one end: log line, metrics, and no longer among the open ones.
    pub(crate) fn end(mut self, ended: &Ended) {
        self.finish(ended);
    }

    fn finish(&mut self, ended: &Ended) {
        self.ended = true;
        let inner = &self.connections.inner;
        inner.remove(self.id);
        inner
            .telemetry
            .connection_closed(self.direction, &self.peer, ended.result, ended.reason);
        inner.telemetry.carried(self.direction, ended.sent + ended.received);
        if ended.result == "denied" {
            *lock(&inner.last_denial) = Some(LastDenial {
                time: unix_seconds(inner.clock.now()),
                direction: self.direction,
                peer: self.peer.clone(),
                address: match self.direction {
                    Direction::Inbound => self.client.ip(),
                    Direction::Outbound => self.dialled.ip(),
                },
                port: self.dialled.port(),
                request: None,
                policy: ended.verdict.policy().to_owned(),
                rule: ended.verdict.rule().to_owned(),
                reason: ended.reason,
                audit: false,
            });
        }
        self.log(ended);
    }

    /// The access log: one line per connection.
    fn log(&self, ended: &Ended) {
        let proved_nothing = self.peer.is_empty() || (*self.peer == *UNAUTHENTICATED && ended.result != "ok");
        let is_strangers = self.direction == Direction::Inbound && proved_nothing;
        if is_strangers && !self.connections.may_write_of_stranger() {
            return;
        }
        let own = Arc::clone(&lock(&self.connections.inner.own_id));
        let (client_id, server_id) = match self.direction {
            Direction::Inbound => (&*self.peer, &*own),
            Direction::Outbound => (&*own, &*self.peer),
        };
        // A call that did not come to its end is what people look for, and one
        // that would not have, if audit policies were enforced.
        if ended.result == "ok" && ended.verdict.decision == "allow" {
            access_line!(tracing::info, self, ended, client_id, server_id);
        } else {
            access_line!(tracing::warn, self, ended, client_id, server_id);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if !self.ended {
            self.finish(&Ended::failed("shutdown", ""));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
