//! What every connection needs of the process: who we are, whom the control
//! plane speaks of, how to dial, and room for a handshake.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use watchword_daemon::{Clock, Shutdown, Traces};
use watchword_mtls::Credentials;

use crate::balance::Loads;
use crate::canary::Canary;
use crate::connection::Connections;
use crate::control::identity::RenewalTrouble;
use crate::dial::{Dialler, UsedSockets};
use crate::egress::Way;
use crate::handshakes::Handshakes;
use crate::http::app_pool::AppPool;
use crate::live_tunnels::LiveTunnels;
use crate::outbound::Carriers;
use crate::plaintext_room::PlaintextRoom;
use crate::snapshots::Snapshots;
use crate::tunnels::Tunnels;

/// One allocation that all connections of a worker share.
#[derive(Clone)]
pub(crate) struct Mesh(Arc<Parts>);

/// What it holds. Clones share one state.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) credentials: Credentials,
    pub(crate) trouble: RenewalTrouble,
    pub(crate) snapshots: Arc<Snapshots>,
    pub(crate) connections: Connections,
    pub(crate) dialler: Dialler,
    pub(crate) egress: Way,
    pub(crate) clock: Arc<dyn Clock>,
    /// Of one worker.
    pub(crate) handshakes: Handshakes,
    pub(crate) live_tunnels: LiveTunnels,
    pub(crate) plaintext_room: PlaintextRoom,
    pub(crate) tunnels: Tunnels,
    pub(crate) app_pool: AppPool,
    pub(crate) used_sockets: Arc<UsedSockets>,
    pub(crate) carriers: Arc<Carriers>,
    pub(crate) loads: Arc<Loads>,
    pub(crate) traces: Traces,
    pub(crate) canary: Canary,
    pub(crate) shutdown: Shutdown,
    /// For open connections to end after the wish to stop.
    pub(crate) drain: Duration,
}

impl Mesh {
    pub(crate) fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// The same with room for handshakes, and tunnels, of its own.
    pub(crate) fn for_worker(&self) -> Self {
        Self::new(Parts {
            handshakes: Handshakes::default(),
            tunnels: self.tunnels.for_worker(),
            app_pool: AppPool::default(),
            used_sockets: Arc::default(),
            carriers: Arc::default(),
            loads: Arc::default(),
            ..Parts::clone(self)
        })
    }
}

impl Deref for Mesh {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}
