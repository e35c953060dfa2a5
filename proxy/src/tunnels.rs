//! Tunnels to the endpoints that this workload calls: warm where there are
//! some, otherwise new.
//!
//! Invariant: a new stream starts only on a tunnel whose handshake would be
//! made the same way now.

use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::net::TcpStream;
use tokio::time::timeout;
use watchword_daemon::Clock;
use watchword_identity::SpiffeId;
use watchword_mtls::{Credentials, HandshakeError, TlsStream, connect_lanes, connect_tunnel};
use watchword_proto::tunnel::Reason;
use watchword_tunnel::{ClientTunnel, Pool, Pooled, Trunk};

use crate::balance::{Loads, OpenStream};
use crate::dial::Dialler;
use crate::directory::Endpoint;
use crate::ended::Ended;
use crate::reaches::{Reach, Reaches};
use crate::refusal::{Refusal, Why};
use crate::snapshots::Snapshots;
use crate::telemetry::Telemetry;
use crate::tunnel_io::{Own, TunnelIo};

/// For a tunnel to come, be it given back, or made once there is a slot for a
/// dial (docs/wire.md). A dial itself is bounded by its own deadlines; beside
/// them a burst of thousands of callers must have time to be served in turn.
const TUNNEL_DEADLINE: Duration = Duration::from_secs(60);

/// Where a tunnel leads, and who answers there.
#[derive(Clone, PartialEq, Eq)]
struct Key {
    address: SocketAddr,
    id: Arc<SpiffeId>,
}

/// By the address alone: hardly ever does more than one identity answer there.
impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.address.hash(state);
    }
}

/// What a handshake stood on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    /// Our generation.
    generation: u64,
    /// The earlier end of both certificates.
    expires: SystemTime,
    /// The tunnel shares its connection with others.
    is_lane: bool,
}

/// What a tunnel is made with, and judged by.
#[derive(Clone)]
pub(crate) struct Means {
    pub(crate) credentials: Credentials,
    pub(crate) dialler: Dialler,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) telemetry: Telemetry,
}

/// Those of one worker. Clones share them.
#[derive(Clone)]
pub(crate) struct Tunnels {
    /// With connections of their own.
    own: Warm,
    lanes: Warm,
    reaches: Reaches<Key>,
    means: Arc<Means>,
}

type Warm = Pool<Key, TunnelIo, Standing, Ended>;

/// A tunnel for one call.
pub(crate) type Taken = Pooled<TunnelIo, Standing>;

impl Tunnels {
    pub(crate) fn new(means: Means) -> Self {
        Self {
            own: Pool::default(),
            lanes: Pool::default(),
            reaches: Reaches::default(),
            means: Arc::new(means),
        }
    }

    /// An empty pool of the same means.
    pub(crate) fn for_worker(&self) -> Self {
        Self {
            own: Pool::default(),
            lanes: Pool::default(),
            reaches: Reaches::default(),
            means: Arc::clone(&self.means),
        }
    }

    /// A tunnel to the endpoint, where exactly the expected identity answers.
    /// It is for a stream that counts as open there.
    pub(crate) async fn get(&self, endpoint: &Endpoint, stream: &OpenStream) -> Result<Taken, Ended> {
        let key = key(endpoint);
        let holds = |standing: &Standing| standing.holds(&self.means).is_ok();
        let reach = self.reaches.to(&key);
        if reach.prefers_own(stream.is_alone, stream.began) {
            if let Some(warm) = self.own.take(&key, holds) {
                return Ok(warm);
            }
            if let Some(leave) = reach.own() {
                return self.dial_own(key, endpoint, leave).await;
            }
        }
        match self.lanes.take(&key, holds).or_else(|| reach.lane(holds)) {
            Some(lane) => Ok(lane),
            None => {
                let dial = dial_lane(Arc::clone(&self.means), endpoint.clone(), reach);
                wait_or_dial(self.lanes.clone(), key, dial).await
            }
        }
    }

    /// As [`get`](Self::get), but none that has waited idle: after a restart
    /// of the endpoint's sidecar all of those are stale.
    pub(crate) async fn get_new(&self, endpoint: &Endpoint) -> Result<Taken, Ended> {
        let key = key(endpoint);
        let leave = self.reaches.to(&key).one_more();
        self.dial_own(key, endpoint, leave).await
    }

    fn dial_own(&self, key: Key, endpoint: &Endpoint, leave: Arc<()>) -> Waiting {
        let dial = dial_own(Arc::clone(&self.means), endpoint.clone(), leave);
        wait_or_dial(self.own.clone(), key, dial)
    }

    /// A tunnel was stale: nobody else is to be sent the same way.
    pub(crate) fn give_up(&self, endpoint: &Endpoint, standing: Standing) {
        if standing.is_lane {
            self.reaches.to(&key(endpoint)).give_up_trunks();
        }
    }

    /// A flow to the endpoint, or from there, has ended.
    pub(crate) fn note_flow(&self, endpoint: &Endpoint) {
        self.reaches.to(&key(endpoint)).note_flow();
    }

    /// For the next call.
    pub(crate) fn put_back(&self, endpoint: &Endpoint, tunnel: ClientTunnel<TunnelIo>, standing: Standing) {
        match standing.holds(&self.means) {
            Ok(()) => self.pool_of(standing).put(&key(endpoint), tunnel, standing),
            Err(reason) => {
                tokio::spawn(tunnel.close(reason));
            }
        }
    }

    fn pool_of(&self, standing: Standing) -> &Warm {
        if standing.is_lane { &self.lanes } else { &self.own }
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
            let lists = |key: &Key| {
                let known = directory.as_ref();
                known.is_some_and(|known| known.expects(key.address, &key.id))
            };
            for pool in [&self.own, &self.lanes] {
                pool.retire(|key, standing| {
                    let is_listed = lists(key);
                    standing
                        .holds(&self.means)
                        .err()
                        .or_else(|| (!is_listed).then_some(Reason::Unspecified))
                });
            }
            self.reaches.forget(lists);
            loads.forget(|address| directory.as_ref().is_some_and(|known| known.has(address)));
        }
    }
}

impl Standing {
    /// Whether the tunnel shares its connection with others.
    pub(crate) fn is_lane(self) -> bool {
        self.is_lane
    }

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
    Key {
        address: endpoint.address,
        id: Arc::clone(&endpoint.id),
    }
}

/// In a box, or each stream on a warm tunnel would have room for a handshake.
type Waiting = Pin<Box<dyn Future<Output = Result<Taken, Ended>> + Send>>;

fn wait_or_dial<D>(pool: Warm, key: Key, dial: D) -> Waiting
where
    D: Future<Output = Result<(ClientTunnel<TunnelIo>, Standing), Ended>> + Send + 'static,
{
    Box::pin(async move {
        let taken = timeout(TUNNEL_DEADLINE, pool.wait_or_dial(&key, dial)).await;
        taken.unwrap_or_else(|_| {
            let address = key.address;
            Err(Ended::failed("connect", format!("{address}: no tunnel in time")))
        })
    })
}

/// On a connection of its own.
async fn dial_own(
    means: Arc<Means>,
    endpoint: Endpoint,
    leave: Arc<()>,
) -> Result<(ClientTunnel<TunnelIo>, Standing), Ended> {
    let (tls, standing) = shake_hands(&means, &endpoint, false).await?;
    let io = Own::new(tls, &means.telemetry).counted(leave);
    Ok((ClientTunnel::new(TunnelIo::Own(io)), standing))
}

/// On a lane of a connection that others share; on one of its own where the
/// other side knows no lanes.
async fn dial_lane(
    means: Arc<Means>,
    endpoint: Endpoint,
    reach: Arc<Reach>,
) -> Result<(ClientTunnel<TunnelIo>, Standing), Ended> {
    let began = Instant::now();
    let turn = reach.turn.lock().await;
    if let Some(lane) = reach.lane(|standing| standing.holds(&means).is_ok()) {
        return Ok((lane.tunnel, lane.facts));
    }
    // Nobody waits for one dial after the other.
    if let Some(ended) = reach.failure_since(began) {
        return Err(ended);
    }
    // It may have been found meanwhile.
    if reach.knows_no_lanes() {
        drop(turn);
        return dial_own(means, endpoint, reach.one_more()).await;
    }
    let shaken = shake_hands(&means, &endpoint, true).await;
    let (tls, standing) = shaken.inspect_err(|ended| reach.note_failure(ended))?;
    if !tls.has_lanes() {
        reach.note_no_lanes();
        let io = Own::new(tls, &means.telemetry).counted(reach.one_more());
        return Ok((ClientTunnel::new(TunnelIo::Own(io)), standing));
    }
    let (trunk, lane, driver) = Trunk::connect(Own::new(tls, &means.telemetry));
    let address = endpoint.address;
    tokio::spawn(async move {
        if let Err(error) = driver.await {
            tracing::debug!(%address, reason = error.label(), %error, "a connection of many tunnels ended");
        }
    });
    reach.add(trunk, standing);
    Ok((ClientTunnel::new(TunnelIo::Lane(lane)), standing))
}

async fn shake_hands(
    means: &Means,
    endpoint: &Endpoint,
    with_lanes: bool,
) -> Result<(TlsStream<TcpStream>, Standing), Ended> {
    let Some(generation) = means.credentials.valid() else {
        return Err(Ended::denied(&Refusal::of(Why::NoIdentity)));
    };
    let stream = means
        .dialler
        .connect(endpoint.address)
        .await
        .map_err(|error| Ended::failed("connect", format!("{}: {error}", endpoint.address)))?;
    let began = Instant::now();
    let shaken = match with_lanes {
        true => connect_lanes(&generation, stream, &endpoint.id).await,
        false => connect_tunnel(&generation, stream, &endpoint.id).await,
    };
    means.telemetry.handshake(
        shaken.as_ref().map(|_| ()).map_err(HandshakeError::label),
        began.elapsed(),
    );
    let (tls, peer) = shaken.map_err(|error| Ended::failed(error.label(), format!("{}: {error}", endpoint.address)))?;
    let standing = Standing {
        generation: generation.number(),
        expires: peer.svid().not_after().min(generation.svid().not_after()),
        is_lane: tls.has_lanes(),
    };
    Ok((tls, standing))
}
