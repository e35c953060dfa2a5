//! What every connection needs of the process: who we are, whom the control
//! plane speaks of, how to dial, and room for a handshake.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use watchword_daemon::{Clock, Shutdown};
use watchword_mtls::Credentials;

use crate::balance::Loads;
use crate::connection::Connections;
use crate::dial::Dialler;
use crate::snapshots::Snapshots;
use crate::tunnels::Tunnels;

/// Handshakes at once, in a worker (docs/threat-model.md).
const MAX_HANDSHAKES: usize = 256;
/// Accepted connections that wait unread for their handshake.
const MAX_WAITING: usize = 16_384;

/// Clones share one state.
#[derive(Clone)]
pub(crate) struct Mesh {
    pub(crate) credentials: Credentials,
    pub(crate) snapshots: Arc<Snapshots>,
    pub(crate) connections: Connections,
    pub(crate) dialler: Dialler,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) handshakes: Arc<Handshakes>,
    pub(crate) tunnels: Tunnels,
    pub(crate) loads: Arc<Loads>,
    pub(crate) shutdown: Shutdown,
    /// For open connections to end after the wish to stop.
    pub(crate) drain: Duration,
}

impl Mesh {
    /// The same with room for handshakes, and tunnels, of its own.
    pub(crate) fn for_worker(&self) -> Self {
        Self {
            handshakes: Arc::default(),
            tunnels: Tunnels::default(),
            loads: Arc::default(),
            ..self.clone()
        }
    }
}

/// Bounds what callers that have proved nothing yet may make us do.
pub(crate) struct Handshakes {
    slots: Semaphore,
    waiting: Semaphore,
}

impl Default for Handshakes {
    fn default() -> Self {
        Self {
            slots: Semaphore::new(MAX_HANDSHAKES),
            waiting: Semaphore::new(MAX_WAITING),
        }
    }
}

impl Handshakes {
    /// Waits for a slot; nothing when too many wait already.
    pub(crate) async fn slot(&self) -> Option<SemaphorePermit<'_>> {
        let _waiting = self.waiting.try_acquire().ok()?;
        self.slots.acquire().await.ok()
    }
}
