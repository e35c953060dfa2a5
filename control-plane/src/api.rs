//! The control plane's gRPC services and the connections that carry them.
//!
//! Invariants: Identity and Discovery are served over TLS only, and every
//! method but Attest demands a client certificate that is valid now. Admin is
//! served on a Unix socket that only our own uid and root can use. A bad
//! connection harms nobody else.

mod admin;
mod connection;
mod discovery;
mod identity;
mod listen;
mod sockets;
mod status;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tower::layer::util::{Identity as NoLayer, Stack};
use tower::limit::GlobalConcurrencyLimitLayer;
use watchword_daemon::Shutdown;
use watchword_proto::admin::AdminServer;
use watchword_proto::control::{DiscoveryServer, IdentityServer};

use crate::issuer::{LONGEST_HOLD, SIGN_DEADLINE};

pub use admin::AdminApi;
pub use connection::{ControlConnection, Transport};
pub use discovery::DiscoveryApi;
pub use identity::IdentityApi;
pub use listen::{ControlListener, Doorkeeper, accept_admin, accept_control};
pub use sockets::{SocketError, bind_unix};

/// Longest message that a caller may send: a request of 8 KiB with a token,
/// or a Nack with its reason.
const MAX_REQUEST: usize = 16 * 1024;
/// Longest message that is sent: a large mesh's directory.
const MAX_ANSWER: usize = 32 * 1024 * 1024;
/// A unary call, or the start of a stream: longer than the authority may take
/// and than a leaf of a new root may be withheld, together. Sidecars wait for
/// longer than that (proxy/src/control/identity.rs).
const CALL_DEADLINE: Duration = Duration::from_secs(22);
const _: () = assert!(CALL_DEADLINE.as_secs() > SIGN_DEADLINE.as_secs() + LONGEST_HOLD.as_secs() + 2);
/// Calls that are being answered; more are refused at once.
const MAX_CALLS: usize = 1024;
const MAX_CALLS_PER_CONNECTION: usize = 16;
const MAX_HEADERS: u32 = 16 * 1024;
const KEEPALIVE_EVERY: Duration = Duration::from_secs(20);
const KEEPALIVE_DEADLINE: Duration = Duration::from_secs(10);

/// How many accepted connections wait to be served.
pub const ACCEPT_QUEUE: usize = 64;

type Layers = Stack<GlobalConcurrencyLimitLayer, NoLayer>;

/// Serves Identity and Discovery on connections that were accepted, until
/// shutdown; then waits for the calls that are running.
///
/// # Errors
/// When serving as a whole fails, never because of one connection.
pub async fn serve_control(
    identity: IdentityApi,
    discovery: DiscoveryApi,
    accepted: mpsc::Receiver<io::Result<ControlConnection>>,
    shutdown: Shutdown,
) -> Result<(), tonic::transport::Error> {
    let identity = IdentityServer::new(identity)
        .max_decoding_message_size(MAX_REQUEST)
        .max_encoding_message_size(MAX_ANSWER);
    let discovery = DiscoveryServer::new(discovery)
        .max_decoding_message_size(MAX_REQUEST)
        .max_encoding_message_size(MAX_ANSWER);
    let router: Router<Layers> = server().add_service(identity).add_service(discovery);
    let stop = async move { shutdown.requested().await };
    router
        .serve_with_incoming_shutdown(ReceiverStream::new(accepted), stop)
        .await
}

/// Serves Admin on connections that were accepted, until shutdown.
///
/// # Errors
/// As [`serve_control`].
pub async fn serve_admin(
    admin: AdminApi,
    accepted: mpsc::Receiver<io::Result<tokio::net::UnixStream>>,
    shutdown: Shutdown,
) -> Result<(), tonic::transport::Error> {
    let admin = AdminServer::new(admin)
        .max_decoding_message_size(MAX_REQUEST)
        .max_encoding_message_size(MAX_ANSWER);
    let stop = async move { shutdown.requested().await };
    server()
        .add_service(admin)
        .serve_with_incoming_shutdown(ReceiverStream::new(accepted), stop)
        .await
}

/// Limits that hold for every call. Excess calls are refused at once, not
/// queued: their callers have a backoff, a queue would hide the overload.
fn server() -> Server<Layers> {
    let calls = Arc::new(tokio::sync::Semaphore::new(MAX_CALLS));
    Server::builder()
        .load_shed(true)
        .concurrency_limit_per_connection(MAX_CALLS_PER_CONNECTION)
        .timeout(CALL_DEADLINE)
        .max_concurrent_streams(u32::try_from(MAX_CALLS_PER_CONNECTION).ok())
        .http2_max_header_list_size(MAX_HEADERS)
        .http2_keepalive_interval(Some(KEEPALIVE_EVERY))
        .http2_keepalive_timeout(Some(KEEPALIVE_DEADLINE))
        .layer(GlobalConcurrencyLimitLayer::with_semaphore(calls))
}
