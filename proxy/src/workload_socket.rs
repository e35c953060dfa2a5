//! `workload.sock`: who may connect, and the services that answer there.
//!
//! Invariants: everybody may connect to the socket, and the kernel says who
//! it is; one user holds a part of all connections at most. The socket lies in
//! a folder that nobody else may write to: somebody else's socket in its place
//! would hand out identities of its own.

mod authority;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use watchword_daemon::Trouble;
use watchword_proto::sds::SecretDiscoveryServiceServer;
use watchword_proto::workload_api::SpiffeWorkloadApiServer;

use self::authority::Authority;
use crate::live_tunnels::take_one;
use crate::sds::Sds;
use crate::unix_socket;
use crate::workload_api::WorkloadApi;
use crate::workload_calls::Connection;
use crate::workloads::{Caller, Workloads};

/// Connections of one user at a time.
const MAX_CONNECTIONS_OF_USER: usize = 256;
/// Streams on one connection at a time.
const MAX_STREAMS: u32 = 2048;
/// A client's request: an Envoy names all its extensions in its first one.
const MAX_REQUEST: usize = 1024 * 1024;
/// Accepted, and not taken up yet.
const QUEUE: usize = 16;
/// After an error of accept itself, such as too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// Whether callers are told apart by process, or by user alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ToldApartBy {
    User,
    Process,
}

/// Listens.
///
/// # Errors
/// When the path is too long or taken, or its folder is open to others.
pub(crate) fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    check_folder(
        path.parent()
            .filter(|folder| !folder.as_os_str().is_empty())
            .unwrap_or(Path::new(".")),
    )?;
    unix_socket::bind(path, 0o666, ("workload socket", "workloadApi.socket"))
}

/// Only we, or root, may write there.
fn check_folder(folder: &Path) -> anyhow::Result<()> {
    let shown = folder.display();
    let found =
        fs::metadata(folder).with_context(|| format!("the workload socket's folder {shown} can't be looked at"))?;
    ensure!(
        found.is_dir(),
        "{shown}, where the workload socket is to lie, is no folder"
    );
    let (owner, us) = (found.uid(), nix::unistd::geteuid().as_raw());
    ensure!(
        owner == us || owner == 0,
        "the workload socket's folder {shown} belongs to uid {owner}, who could put another socket there: give it to uid {us}"
    );
    let mode = found.mode() & 0o7777;
    ensure!(
        mode & 0o022 == 0,
        "the workload socket's folder {shown} may be written to by others (mode {mode:o}), who could put another socket there: chmod go-w {shown}"
    );
    Ok(())
}

/// Serves callers for ever.
pub(crate) async fn serve(listener: UnixListener, workloads: Workloads, told_apart_by: ToldApartBy) {
    let (sender, accepted) = mpsc::channel(QUEUE);
    let api = WorkloadApi {
        workloads: workloads.clone(),
    };
    let served = Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .add_service(SpiffeWorkloadApiServer::new(api).max_decoding_message_size(MAX_REQUEST))
        .add_service(SecretDiscoveryServiceServer::new(Sds { workloads }).max_decoding_message_size(MAX_REQUEST))
        .serve_with_incoming(ReceiverStream::new(accepted));
    tokio::select! {
        served = served => if let Err(error) = served {
            tracing::error!(%error, "the workload socket is not served any more");
        },
        () = accept(listener, told_apart_by, sender) => {}
    }
}

async fn accept(listener: UnixListener, told_apart_by: ToldApartBy, accepted: mpsc::Sender<io::Result<Accepted>>) {
    let places = Places::default();
    let mut trouble = Trouble::default();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                if let Some(times) = trouble.note() {
                    tracing::warn!(%error, times, "callers of the workload socket wait");
                }
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let connection = match who(&stream, told_apart_by) {
            Ok(connection) => connection,
            Err(error) => {
                tracing::debug!(%error, "a caller of the workload socket can't be told");
                continue;
            }
        };
        let uid = connection.caller.uid;
        let Some(place) = places.take(uid) else {
            if let Some(times) = trouble.note() {
                tracing::warn!(
                    uid,
                    times,
                    "more than {MAX_CONNECTIONS_OF_USER} connections to the workload socket: refused"
                );
            }
            continue;
        };
        let connection = Accepted {
            stream,
            connection,
            authority: Authority::default(),
            _place: place,
        };
        if accepted.send(Ok(connection)).await.is_err() {
            return;
        }
    }
}

fn who(stream: &UnixStream, told_apart_by: ToldApartBy) -> io::Result<Connection> {
    match told_apart_by {
        ToldApartBy::User => Ok(Connection {
            caller: Caller::user_of(stream)?,
            process: None,
        }),
        ToldApartBy::Process => {
            let (caller, process) = Caller::process_of(stream)?;
            Ok(Connection {
                caller,
                process: Some(Arc::new(process)),
            })
        }
    }
}

/// How many connections each user has. Clones share one state.
#[derive(Clone, Default)]
struct Places(Arc<Mutex<HashMap<u32, usize>>>);

/// Given back when it is dropped.
struct Place(Places, u32);

impl Places {
    fn take(&self, uid: u32) -> Option<Place> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_user = taken.entry(uid).or_default();
        if *of_user >= MAX_CONNECTIONS_OF_USER {
            return None;
        }
        *of_user += 1;
        Some(Place(self.clone(), uid))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        take_one(&mut self.0.0.lock().unwrap_or_else(PoisonError::into_inner), &self.1);
    }
}

/// A caller's connection.
struct Accepted {
    stream: UnixStream,
    connection: Connection,
    authority: Authority,
    _place: Place,
}

impl Connected for Accepted {
    type ConnectInfo = Connection;

    fn connect_info(&self) -> Connection {
        self.connection.clone()
    }
}

impl AsyncRead for Accepted {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        this.authority
            .mend(buffer.filled_mut().get_mut(before..).unwrap_or_default());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[path = "workload_socket_tests.rs"]
mod tests;
