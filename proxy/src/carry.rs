//! The helper for `publish`: it carries each connection that comes to a
//! listening socket on to one address.
//!
//! `watchword up` runs it in a network of the mesh's, where what it dials is
//! captured like any app's call, with a socket of the caller's network as
//! standard input: sockets stay in the network that they were made in.
//!
//! Invariants: so many connections at most, and who comes then waits in the
//! kernel's queue; ends, resets and slowness of either side reach the other.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::resource::{Resource, getrlimit};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use watchword_daemon::prepare_process;
use watchword_tunnel::AppStream as _;

use crate::dial::{connect_within, watch_peer};
use crate::relay::both_ways;

const MAX_CONNECTIONS: u64 = 4096;
/// After an accept that failed.
const PAUSE: Duration = Duration::from_millis(50);

/// Serves the listening TCP socket that is standard input, until it is killed.
///
/// # Errors
/// When it can't start.
pub fn run(to: SocketAddr) -> anyhow::Result<()> {
    serve::<TcpListener, _>(move |stream| carry(stream, to))
}

async fn carry(mut caller: TcpStream, to: SocketAddr) {
    let _ = watch_peer(&caller);
    match dial(to).await {
        Ok(mut called) => drop(both_ways(&mut caller, Vec::new(), &mut called).await),
        Err(error) => {
            tracing::warn!(%to, %error, "a call from outside can't be carried on");
            caller.abort();
        }
    }
}

/// Connects from here, within a deadline.
pub(crate) async fn dial(to: SocketAddr) -> io::Result<TcpStream> {
    connect_within(crate::dial::new_socket(to)?, to).await
}

/// A socket that listens, which the parent has bound.
pub(crate) trait Source: Sized {
    type Connection: Send;

    fn inherited(socket: OwnedFd) -> io::Result<Self>;

    async fn next(&self) -> io::Result<Self::Connection>;
}

impl Source for TcpListener {
    type Connection = TcpStream;

    fn inherited(socket: OwnedFd) -> io::Result<Self> {
        Self::from_std(socket.into())
    }

    async fn next(&self) -> io::Result<TcpStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

impl Source for UnixListener {
    type Connection = UnixStream;

    fn inherited(socket: OwnedFd) -> io::Result<Self> {
        Self::from_std(socket.into())
    }

    async fn next(&self) -> io::Result<UnixStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

/// Accepts for ever, and carries what comes, so much at once.
pub(crate) fn serve<S: Source, F: Future<Output = ()> + Send + 'static>(
    carry: impl Fn(S::Connection) -> F,
) -> anyhow::Result<()> {
    prepare_process();
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    // Two descriptors each, and some to live on.
    let room = (limit / 2).saturating_sub(16).clamp(1, MAX_CONNECTIONS);
    let slots = Arc::new(Semaphore::new(usize::try_from(room)?));
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    socket2::SockRef::from(&socket)
        .set_nonblocking(true)
        .context("standard input is no socket: `watchword up` starts this")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let source = S::inherited(socket)?;
        loop {
            let slot = Arc::clone(&slots).acquire_owned().await?;
            match source.next().await {
                Ok(connection) => {
                    let carried = carry(connection);
                    tokio::spawn(async move {
                        carried.await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "new connections wait");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    })
}
