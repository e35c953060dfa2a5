//! The two ends of the load, each a hidden subcommand that runs in the mesh.
//!
//! A connection begins with a byte: an echo of what follows is asked for, or a
//! stream of bytes.

use std::time::Duration;

use anyhow::Context as _;
use clap::Subcommand;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::own_mesh;

const ECHO: u8 = b'e';
const STREAM: u8 = b's';
/// Of a call and its answer.
const CALL: usize = 64;
const BLOCK: usize = 64 * 1024;
const PATIENCE: Duration = Duration::from_secs(5);
/// That make and close connections.
const CONNECTORS: usize = 8;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Calls and answers, one after another on each connection.
    Calls {
        /// Open all the time.
        connections: usize,
    },
    /// Connections, with a call each.
    Connects,
    /// Bytes on one connection.
    Bytes,
}

impl Kind {
    /// Each of them once.
    pub(super) const ALL: [Self; 4] = [
        Self::Calls { connections: 1 },
        Self::Calls { connections: 64 },
        Self::Connects,
        Self::Bytes,
    ];
}

/// What one load gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Numbers {
    /// Of calls, in microseconds.
    pub(super) p50: f64,
    pub(super) p99: f64,
    /// Calls, connections or bytes.
    pub(super) per_second: f64,
}

/// The ends.
#[derive(Debug, Subcommand)]
pub(crate) enum End {
    /// Answers on a port
    Serve {
        /// The port.
        port: u16,
    },
    /// Calls, and prints what it measured as JSON
    Load {
        /// Whom to call.
        address: String,
        /// A `Kind` in JSON.
        kind: String,
        /// For how long.
        milliseconds: u64,
    },
}

/// Runs one of the ends.
pub(crate) async fn run_end(end: End) -> anyhow::Result<()> {
    match end {
        End::Serve { port } => serve(port).await,
        End::Load {
            address,
            kind,
            milliseconds,
        } => {
            let kind: Kind = serde_json::from_str(&kind)?;
            let numbers = load(&address, kind, Duration::from_millis(milliseconds)).await?;
            crate::say::out(serde_json::to_string(&numbers)?)?;
            Ok(())
        }
    }
}

async fn serve(port: u16) -> anyhow::Result<()> {
    let listener = own_mesh::listen(port).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        // A client that goes away is no trouble.
        tokio::spawn(async move { answer(stream).await.ok() });
    }
}

async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut call = [0; CALL];
    if stream.read_u8().await? == STREAM {
        let block = vec![0; BLOCK];
        loop {
            stream.write_all(&block).await?;
        }
    }
    while stream.read_exact(&mut call).await.is_ok() {
        stream.write_all(&call).await?;
    }
    Ok(())
}

async fn load(address: &str, kind: Kind, long: Duration) -> anyhow::Result<Numbers> {
    match kind {
        Kind::Calls { connections } => calls(address, connections, long).await,
        Kind::Connects => connects(address, long).await,
        Kind::Bytes => bytes(address, long).await,
    }
}

async fn open(address: &str, wish: u8) -> anyhow::Result<TcpStream> {
    let mut stream = tokio::time::timeout(PATIENCE, TcpStream::connect(address))
        .await
        .context("no connection")??;
    stream.set_nodelay(true)?;
    stream.write_all(&[wish]).await?;
    Ok(stream)
}

async fn call(stream: &mut TcpStream) -> anyhow::Result<Duration> {
    let mut buffer = [7; CALL];
    let begun = Instant::now();
    stream.write_all(&buffer).await?;
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut buffer))
        .await
        .context("no answer")??;
    Ok(begun.elapsed())
}

async fn calls(address: &str, connections: usize, long: Duration) -> anyhow::Result<Numbers> {
    let mut open_ones = Vec::new();
    for _ in 0..connections {
        let mut stream = open(address, ECHO).await?;
        call(&mut stream).await?;
        open_ones.push(stream);
    }
    let until = Instant::now() + long;
    let mut tasks = JoinSet::new();
    for mut stream in open_ones {
        tasks.spawn(async move {
            let mut took = Vec::new();
            while Instant::now() < until {
                took.push(call(&mut stream).await?.as_secs_f64() * 1e6);
            }
            anyhow::Ok(took)
        });
    }
    let mut all = Vec::new();
    while let Some(took) = tasks.join_next().await {
        all.extend(took??);
    }
    Ok(numbers(all, long))
}

async fn connects(address: &str, long: Duration) -> anyhow::Result<Numbers> {
    let until = Instant::now() + long;
    let mut tasks = JoinSet::new();
    for _ in 0..CONNECTORS {
        let address = address.to_owned();
        tasks.spawn(async move {
            let mut made = Vec::new();
            while Instant::now() < until {
                let begun = Instant::now();
                call(&mut open(&address, ECHO).await?).await?;
                made.push(begun.elapsed().as_secs_f64() * 1e6);
            }
            anyhow::Ok(made)
        });
    }
    let mut all = Vec::new();
    while let Some(made) = tasks.join_next().await {
        all.extend(made??);
    }
    Ok(numbers(all, long))
}

async fn bytes(address: &str, long: Duration) -> anyhow::Result<Numbers> {
    let mut stream = open(address, STREAM).await?;
    let mut block = vec![0; BLOCK];
    let (begun, mut total) = (Instant::now(), 0.0);
    while begun.elapsed() < long {
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut block)).await??;
        anyhow::ensure!(read > 0, "the stream ended");
        total += f64::from(u32::try_from(read).unwrap_or_default());
    }
    Ok(Numbers {
        per_second: total / begun.elapsed().as_secs_f64(),
        ..Numbers::default()
    })
}

#[allow(clippy::cast_precision_loss, reason = "no load makes 2^52 calls")]
fn numbers(mut took: Vec<f64>, long: Duration) -> Numbers {
    took.sort_by(f64::total_cmp);
    let at = |hundredth: usize| took.get(took.len() * hundredth / 100).copied().unwrap_or_default();
    Numbers {
        p50: at(50),
        p99: at(99),
        per_second: took.len() as f64 / long.as_secs_f64(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn percentiles_are_of_what_was_measured() {
        let took = (1..=200).rev().map(f64::from).collect();
        let found = numbers(took, Duration::from_secs(2));
        assert_eq!((found.p50, found.p99, found.per_second), (101.0, 199.0, 100.0));
        assert_eq!(numbers(Vec::new(), Duration::from_secs(1)), Numbers::default());
    }

    #[tokio::test]
    async fn each_load_runs_against_the_server() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move { answer(stream).await.ok() });
            }
        });
        for kind in Kind::ALL {
            let text = serde_json::to_string(&kind).unwrap();
            assert_eq!(serde_json::from_str::<Kind>(&text).unwrap(), kind);
            let found = load(&address, kind, Duration::from_millis(50)).await.unwrap();
            assert!(found.per_second > 0.0, "{kind:?}");
        }
    }
}
