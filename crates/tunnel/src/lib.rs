//! watchword/1, the protocol between two sidecars (docs/wire.md): one stream
//! at a time on a tunnel that is reused, with no HTTP/2 between the app and
//! the wire.
//!
//! A client wraps its encrypted connection in a [`ClientTunnel`] and lets it
//! [carry](ClientTunnel::carry) a [`Call`]; a server wraps its own in a
//! [`ServerTunnel`], takes the [next](ServerTunnel::next) [`Opening`], and
//! denies, refuses or carries it. Each hands the tunnel back when it is clean.
//! The connection may be one of its own, or a [`Lane`] of a [`Trunk`] that many
//! tunnels share.
//!
//! Invariants: knows bytes and deadlines, not policies, identities or TLS;
//! nothing from the network panics, allocates without bound or waits without
//! a deadline; no byte of one stream reaches another; an app never sees a cut
//! as the end of its data.

mod bell;
mod buffer;
mod client;
mod edge;
mod error;
pub mod frame;
mod link;
pub mod machine;
mod outcome;
mod payload;
mod pool;
mod pump;
mod server;
mod timer;
mod trunk;

use std::time::Duration;

pub use bell::Bell;
pub use client::{Call, Carried, ClientTunnel, End, IdleEnd};
pub use edge::{AppStream, LazyStream, Released, Transport};
pub use error::{CloseReason, TunnelError};
pub use outcome::{Closed, Owed};
pub use pool::{Pool, Pooled};
pub use server::{Dialled, Opening, ServerTunnel};
pub use trunk::{Lane, MAX_LANES, Trunk};

/// A [`Transport`] is given at most about so much by one write, in bytes.
pub const LARGEST_WRITE: usize = buffer::WIDE;
/// DATA before OPENED that a client keeps and a server buffers, in bytes.
pub const EARLY_LIMIT: usize = 64 * 1024;
/// OPENED, DENIED or REFUSED must come within this after OPEN.
pub const OPENED_DEADLINE: Duration = Duration::from_secs(15);
/// A client trusts a tunnel that it used within this to be alive: on any other
/// it sends OPEN alone, and DATA after OPENED, so that a call that finds the
/// tunnel dead can be tried again.
pub const FRESH: Duration = Duration::from_secs(1);
/// OPEN on a tunnel that is not fresh must be acknowledged within this.
pub const SILENCE_LIMIT: Duration = Duration::from_secs(5);
/// A frame that was begun must be complete within this, while it is read.
pub const FRAME_DEADLINE: Duration = Duration::from_secs(10);
/// The peer must end its half within this after ours was ended by force.
pub const DISCARD_DEADLINE: Duration = Duration::from_secs(1);
/// A client closes a tunnel that was idle for this long.
pub const CLIENT_IDLE: Duration = Duration::from_secs(60);
/// A server says GOAWAY on a tunnel that was idle for this long.
pub const SERVER_IDLE: Duration = Duration::from_secs(90);
/// A server closes this long after its GOAWAY, if the client did not.
pub const GOAWAY_GRACE: Duration = Duration::from_secs(5);

/// OPENED waits so long for an answer that it can go with, where the client has
/// sent its question along with OPEN.
const ANSWER_PATIENCE: Duration = Duration::from_millis(5);
/// How often a side that is not being read is asked for errors.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
