//! A trunk: one encrypted connection that carries many tunnels at once, each
//! on a lane of its own (docs/wire.md, section 12). What many apps say at the
//! same time goes in one record, one write and one packet.
//!
//! Invariants: a lane that is not read holds up no other, since nobody sends
//! more than was granted; what waits is bounded, per lane and for all; a lane
//! that is aborted says so at once, behind no app's bytes but those that left
//! already. Must not know: streams, apps, TLS.

mod company;
mod driver;
mod lane;
mod send;
mod shared;

use std::sync::{Arc, Mutex};

use tokio::time::Instant;

use crate::edge::Transport;
use crate::error::TunnelError;
use shared::{Shared, lock};

pub use lane::Lane;

/// Lanes of one trunk that are open at once.
pub const MAX_LANES: usize = 128;

/// The client's end of a trunk, to open lanes on.
pub struct Trunk<T: Transport> {
    shared: Arc<Mutex<Shared<T>>>,
}

impl<T: Transport> Trunk<T> {
    /// A trunk on a connection whose handshake is done, its first lane, and what
    /// drives it: a future that ends with the last lane, or when the connection
    /// fails.
    pub fn connect(transport: T) -> (Self, Lane<T>, impl Future<Output = Result<(), TunnelError>> + use<T>) {
        let shared = Arc::new(Mutex::new(Shared::new(transport, true)));
        let first = lock(&shared).open();
        let lane = Lane::new(Arc::clone(&shared), first);
        let driver = driver::Driver::new(Arc::clone(&shared)).run(|_| {});
        (Self { shared }, lane, driver)
    }

    /// Serves the lanes that the client opens, until it closes the trunk, or has
    /// had no lane for [`SERVER_IDLE`](crate::SERVER_IDLE).
    ///
    /// # Errors
    /// The connection failed, or the client broke the protocol.
    pub async fn serve(transport: T, on_lane: impl FnMut(Lane<T>)) -> Result<(), TunnelError> {
        let shared = Arc::new(Mutex::new(Shared::new(transport, false)));
        driver::Driver::new(shared).run(on_lane).await
    }

    /// A new lane, if the trunk lives and has room for one; and when the other
    /// side was heard last.
    #[must_use]
    pub fn open(&self) -> Option<(Lane<T>, Instant)> {
        let mut shared = lock(&self.shared);
        if !shared.has_room() {
            return None;
        }
        let number = shared.open();
        let heard = shared.heard;
        drop(shared);
        Some((Lane::new(Arc::clone(&self.shared), number), heard))
    }

    /// Whether it can't carry anything any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        lock(&self.shared).over.is_some()
    }
}

impl<T: Transport> std::fmt::Debug for Trunk<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trunk").finish_non_exhaustive()
    }
}
