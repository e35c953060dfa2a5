//! A connection of a sidecar that carries many tunnels: each lane is served as
//! a tunnel of its own, with what the one handshake proved.
//!
//! Invariant: each lane counts for its caller's ID like a tunnel.

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use watchword_identity::SpiffeId;
use watchword_proto::tunnel::Reason;
use watchword_tunnel::{ServerTunnel, Trunk};

use super::stream::Caller;
use crate::live_tunnels::LiveTunnel;
use crate::tunnel_io::{Own, TunnelIo};

/// For a caller that is sent away to leave.
const PATIENCE: Duration = Duration::from_secs(10);

/// From the handshake to the connection's end. It counts, too.
pub(super) async fn serve(io: Own, caller: Arc<Caller>, (id, _counted): (SpiffeId, LiveTunnel)) {
    let served = Trunk::serve(io, |lane| {
        let visitor = &caller.visitor;
        let tunnel = ServerTunnel::new(TunnelIo::Lane(lane));
        let Some(live) = visitor.mesh.live_tunnels.begin(visitor.from.ip(), &id) else {
            return refuse(tunnel);
        };
        let caller = Arc::clone(&caller);
        tokio::spawn(async move { caller.serve_tunnel(tunnel, live).await });
    });
    if let Err(error) = served.await {
        caller.report(&error);
    }
}

/// Sends all of its tunnels away: there are too many of its kind.
pub(super) async fn send_away(io: Own) {
    let refused = Trunk::serve(io, |lane| refuse(ServerTunnel::new(TunnelIo::Lane(lane))));
    let _ = timeout(PATIENCE, refused).await;
}

/// The caller may go elsewhere with what it wants of it.
fn refuse(tunnel: ServerTunnel<TunnelIo>) {
    tokio::spawn(async move {
        let _ = tunnel.next(ready(Reason::Limit)).await;
    });
}
