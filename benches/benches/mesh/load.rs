//! The programs at both ends: this binary again, inside the mesh.
//!
//! Invariants: one byte there and the same byte back is all they say; the
//! client closes first; whoever started them can count on their end, since
//! they end with their input or their work.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use watchword_benches::held::{CLOSED, OPEN, in_threads};

/// The first argument of such a program.
pub(crate) const COMMAND: &str = "load";
/// What the service listens on.
pub(crate) const PORT: u16 = 9000;

const PATIENCE: Duration = Duration::from_secs(60);
/// Threads that open connections to be held.
const OPENERS: usize = 32;

/// `serve`, `short COUNT CONCURRENCY`, `hold COUNT` or `metrics`.
pub(crate) fn run(words: &[String]) -> Result<()> {
    watchword_benches::raise_limits();
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["serve"] => Builder::new_current_thread().enable_io().build()?.block_on(serve()),
        ["short", count, concurrency] => short(count.parse()?, concurrency.parse()?),
        ["hold", count] => hold(count.parse()?),
        ["metrics"] => metrics(),
        _ => bail!("{words:?} is no load"),
    }
}

/// Sends back what comes, until the end of it.
async fn serve() -> Result<()> {
    // Both families: a sidecar may use either.
    let listener = TcpListener::bind(("::", PORT)).await?;
    loop {
        let (mut stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            let mut byte = [0];
            while let Ok(1) = stream.read(&mut byte).await {
                if stream.write_all(&byte).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// So many connections, one question each.
fn short(count: usize, concurrency: usize) -> Result<()> {
    let address = orders()?;
    let begun = AtomicUsize::new(0);
    let work = || -> Result<()> {
        while begun.fetch_add(1, Ordering::Relaxed) < count {
            end(ask(address)?)?;
        }
        Ok(())
    };
    in_threads(concurrency, work)?;
    say("done")
}

/// So many connections at once, until our input ends.
fn hold(count: usize) -> Result<()> {
    let address = orders()?;
    let begun = AtomicUsize::new(0);
    let work = || -> Result<Vec<TcpStream>> {
        let mut held = Vec::new();
        while begun.fetch_add(1, Ordering::Relaxed) < count {
            held.push(ask(address).with_context(|| format!("after {} connections", held.len()))?);
        }
        Ok(held)
    };
    let held = in_threads(OPENERS, work)?;
    say(OPEN)?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    for stream in held.into_iter().flatten() {
        end(stream)?;
    }
    say(CLOSED)
}

/// The sidecar's metrics.
fn metrics() -> Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", 15020))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    ensure!(page.starts_with("HTTP/1.1 200"), "{page}");
    say(&page)
}

fn orders() -> Result<SocketAddr> {
    let addresses = ("orders", PORT).to_socket_addrs()?;
    let mut v4 = addresses.filter(SocketAddr::is_ipv4);
    v4.next().context("orders has no IPv4 address")
}

/// A connection on which a byte went there and back.
fn ask(address: SocketAddr) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    stream.write_all(b"?")?;
    stream.read_exact(&mut [0])?;
    Ok(stream)
}

/// Closes it in order, first.
fn end(mut stream: TcpStream) -> Result<()> {
    stream.shutdown(Shutdown::Write)?;
    match stream.read(&mut [0]) {
        Ok(0) => Ok(()),
        Ok(_) => bail!("more than the answer"),
        Err(error) if error.kind() == ErrorKind::WouldBlock => bail!("no end within {PATIENCE:?}"),
        Err(error) => Err(error.into()),
    }
}

fn say(text: &str) -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}
