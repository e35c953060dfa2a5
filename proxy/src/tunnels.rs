//! Tunnels to the endpoints that this workload calls: warm where there are
//! some, otherwise new.
//!
//! Invariant: a new stream starts only on a tunnel whose handshake would be
//! made the same way now.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::time::timeout;
use watchword_daemon::Clock;
use watchword_identity::SpiffeId;
use watchword_mtls::{Credentials, HandshakeError, connect_tunnel};
use watchword_proto::tunnel::Reason;
use watchword_tunnel::{ClientTunnel, Pool, Pooled};

use crate::balance::Loads;
use crate::dial::Dialler;
use crate::directory::Endpoint;
use crate::ended::Ended;
use crate::refusal::{Refusal, Why};
use crate::snapshots::Snapshots;
use crate::telemetry::Telemetry;
use crate::tunnel_io::TunnelIo;

/// For a tunnel to come, be it given back, or made once there is a slot for a
/// dial (docs/wire.md). A dial itself is bounded by its own deadlines; beside
/// them a burst of thousands of callers must have time to be served in turn.
const TUNNEL_DEADLINE: Duration = Duration::from_secs(60);

/// Where a tunnel leads, and who answers there.
type Key = (SocketAddr, SpiffeId);

/// What a handshake stood on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    /// Our generation.
    generation: u64,
    /// The earlier end of both certificates.
    expires: SystemTime,
}

/// What a tunnel is made with, and judged by.
#[derive(Clone)]
pub(crate) struct Means {
    pub(crate) credentials: Credentials,
    pub(crate) dialler: Dialler,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) telemetry: Telemetry,
}

/// The pool of one worker. Clones share it.
#[derive(Clone)]
pub(crate) struct Tunnels {
    pool: Pool<Key, TunnelIo, Standing, Ended>,
    means: Arc<Means>,
}

/// A tunnel for one call.
pub(crate) type Taken = Pooled<TunnelIo, Standing>;

impl Tunnels {
    pub(crate) fn new(means: Means) -> Self {
        Self {
            pool: Pool::default(),
            means: Arc::new(means),
        }
    }

    /// An empty pool of the same means.
    pub(crate) fn for_worker(&self) -> Self {
        Self {
            pool: Pool::default(),
            means: Arc::clone(&self.means),
        }
    }

    /// A tunnel to the endpoint, where exactly the expected identity answers.
    pub(crate) async fn get(&self, endpoint: &Endpoint) -> Result<Taken, Ended> {
        match self
            .pool
            .take(&key(endpoint), |standing| standing.holds(&self.means).is_ok())
        {
            Some(warm) => Ok(warm),
            None => self.get_new(endpoint).await,
        }
    }

    /// As [`get`](Self::get), but none that has waited idle: after a restart
    /// of the endpoint's sidecar all of those are stale.
    pub(crate) async fn get_new(&self, endpoint: &Endpoint) -> Result<Taken, Ended> {
        let key = key(endpoint);
        let dialled = self
            .pool
            .wait_or_dial(&key, dial(Arc::clone(&self.means), endpoint.clone()));
        // A box, or each stream on a warm tunnel would have room for a handshake.
        Box::pin(timeout(TUNNEL_DEADLINE, dialled)).await.unwrap_or_else(|_| {
            Err(Ended::failed(
                "connect",
                format!("{}: no tunnel in time", endpoint.address),
            ))
        })
    }

    /// For the next call.
    pub(crate) fn put_back(&self, endpoint: &Endpoint, tunnel: ClientTunnel<TunnelIo>, standing: Standing) {
        match standing.holds(&self.means) {
            Ok(()) => self.pool.put(&key(endpoint), tunnel, standing),
            Err(reason) => {
                tokio::spawn(tunnel.close(reason));
            }
        }
    }

    /// Closes idle tunnels when a new generation or directory makes them
    /// useless. Never ends.
    pub(crate) async fn retire(&self, snapshots: &Snapshots, loads: &Loads) {
        let mut generations = self.means.credentials.changes();
        let mut directories = snapshots.directory_changes();
        loop {
            let changed = tokio::select! {
                changed = generations.changed() => changed,
                changed = directories.changed() => changed,
            };
            if changed.is_err() {
                return std::future::pending().await;
            }
            let directory = snapshots.directory();
            let lists = |address, id: &SpiffeId| directory.as_ref().is_some_and(|known| known.expects(address, id));
            self.pool.retire(|(address, id), standing| {
                let is_listed = lists(*address, id);
                standing
                    .holds(&self.means)
                    .err()
                    .or_else(|| (!is_listed).then_some(Reason::Unspecified))
            });
            loads.forget(|address| directory.as_ref().is_some_and(|known| known.has(address)));
        }
    }
}

impl Standing {
    /// Whether the handshake would be made the same way now. The deny-list
    /// will be asked here, too.
    fn holds(self, means: &Means) -> Result<(), Reason> {
        let is_current = means
            .credentials
            .current()
            .is_some_and(|current| current.number() == self.generation);
        if !is_current {
            Err(Reason::Rotated)
        } else if self.expires < means.clock.now() {
            Err(Reason::Expired)
        } else {
            Ok(())
        }
    }
}

fn key(endpoint: &Endpoint) -> Key {
    (endpoint.address, endpoint.id.clone())
}

async fn dial(means: Arc<Means>, endpoint: Endpoint) -> Result<(ClientTunnel<TunnelIo>, Standing), Ended> {
    let Some(generation) = means.credentials.valid() else {
        return Err(Ended::denied(&Refusal::of(Why::NoIdentity)));
    };
    let stream = means
        .dialler
        .connect(endpoint.address)
        .await
        .map_err(|error| Ended::failed("connect", format!("{}: {error}", endpoint.address)))?;
    let telemetry = &means.telemetry;
    let began = Instant::now();
    let shaken = connect_tunnel(&generation, stream, &endpoint.id).await;
    telemetry.handshake(
        shaken.as_ref().map(|_| ()).map_err(HandshakeError::label),
        began.elapsed(),
    );
    let (tls, peer) = shaken.map_err(|error| Ended::failed(error.label(), format!("{}: {error}", endpoint.address)))?;
    let standing = Standing {
        generation: generation.number(),
        expires: peer.svid().not_after().min(generation.svid().not_after()),
    };
    Ok((ClientTunnel::new(TunnelIo::new(tls, telemetry)), standing))
}
