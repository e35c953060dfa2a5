//! A thread on the mesh's bridge, which sees replicas as the network does.
//!
//! Invariants: the thread has joined the switch's network namespace for good,
//! and no process is ever started from it; it reads what strangers may have
//! written, within a bound and a deadline.

use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use nix::sched::{CloneFlags, setns};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// The port that only interception makes answer.
const CANARY_PORT: u16 = 15099;
const PATIENCE: Duration = Duration::from_secs(5);
const MAX_ANSWER: u64 = 512;

/// The way to the thread. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Bridge {
    runtime: Handle,
}

/// Why a canary is not that of the sidecar.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CanaryError {
    /// Nobody, or not in time.
    #[error("port {CANARY_PORT} does not answer ({0})")]
    Silent(#[from] io::Error),
    /// Whatever it is.
    #[error("something else than the sidecar answers on port {CANARY_PORT}")]
    Foreign,
}

impl Bridge {
    /// Starts the thread in the network namespace of process `switch`.
    pub(crate) async fn join(switch: u32) -> anyhow::Result<Self> {
        let (tell, told) = oneshot::channel();
        std::thread::Builder::new().name("bridge".to_owned()).spawn(move || {
            let start = || -> anyhow::Result<_> {
                let path = format!("/proc/{switch}/ns/net");
                let namespace = File::open(&path).with_context(|| format!("cannot open {path}"))?;
                setns(namespace, CloneFlags::CLONE_NEWNET).context("cannot join the switch's network")?;
                Ok(Builder::new_current_thread().enable_all().build()?)
            };
            match start() {
                Ok(runtime) => {
                    let _ = tell.send(Ok(runtime.handle().clone()));
                    runtime.block_on(std::future::pending::<()>());
                }
                Err(error) => drop(tell.send(Err(error))),
            }
        })?;
        let runtime = told.await.context("the bridge's thread is gone")??;
        Ok(Self { runtime })
    }

    /// Dials the canary at `address`, and returns the instance id that it
    /// answers with.
    pub(crate) async fn instance_at(&self, address: IpAddr) -> Result<String, CanaryError> {
        // The socket belongs to the namespace of the thread that makes it.
        let asked = self.runtime.spawn(async move {
            tokio::time::timeout(PATIENCE, ask(SocketAddr::new(address, CANARY_PORT)))
                .await
                .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)))
        });
        let answer = asked.await.map_err(io::Error::other)??;
        read_instance(&answer).ok_or(CanaryError::Foreign)
    }
}

async fn ask(canary: SocketAddr) -> io::Result<Vec<u8>> {
    let stream = TcpStream::connect(canary).await?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
    Ok(answer)
}

fn read_instance(answer: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(answer).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.1 200 ").then(|| body.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::read_instance;

    #[test]
    fn an_instance_is_read_and_nonsense_is_none() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\n0f\n";
        assert_eq!(read_instance(answer).as_deref(), Some("0f"));
        for nonsense in [
            &b"HTTP/1.1 404 Not Found\r\n\r\n0f\n"[..],
            b"SSH-2.0-x\r\n",
            b"",
            b"\xff\xfe",
        ] {
            assert_eq!(read_instance(nonsense), None);
        }
    }
}
