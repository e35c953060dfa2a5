//! A connection of a sidecar that carries many tunnels: each lane is served as
//! a tunnel of its own, with what the one handshake proved.
//!
//! Invariant: each lane counts for its caller's ID like a tunnel.

use std::sync::Arc;

use watchword_identity::SpiffeId;
use watchword_tunnel::{ServerTunnel, Transport as _, Trunk};

use super::stream::Caller;
use crate::live_tunnels::LiveTunnel;
use crate::tunnel_io::TunnelIo;

/// From the handshake to the connection's end. It counts, too.
pub(super) async fn serve(io: TunnelIo, caller: Arc<Caller>, (id, _counted): (SpiffeId, LiveTunnel)) {
    let served = Trunk::serve(io, |mut lane| {
        let visitor = &caller.visitor;
        let Some(live) = visitor.mesh.live_tunnels.begin(visitor.from.ip(), &id) else {
            return lane.abort();
        };
        let (caller, tunnel) = (Arc::clone(&caller), ServerTunnel::new(TunnelIo::Lane(lane)));
        tokio::spawn(async move { caller.serve_tunnel(tunnel, live).await });
    });
    if let Err(error) = served.await {
        caller.report(&error);
    }
}
