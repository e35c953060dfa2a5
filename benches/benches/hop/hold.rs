//! Connections that are open and idle: held by this binary, once more, at the
//! client.
//!
//! Invariants: each has had one answer; whoever started it can count on its
//! end, since it ends with its input.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use watchword_benches::held::{OPEN, in_threads};

use crate::load::PATH;

/// The first argument of such a program.
pub(crate) const COMMAND: &str = "hold";

const PATIENCE: Duration = Duration::from_secs(60);
/// Threads that open connections.
const OPENERS: usize = 16;
/// `COUNT ADDRESS`: so many connections, until our input ends.
pub(crate) fn run(words: &[String]) -> Result<()> {
    watchword_benches::raise_limits();
    let [count, address] = words else {
        bail!("hold takes a number and an address");
    };
    let (count, address): (usize, SocketAddr) = (count.parse()?, address.parse()?);
    let begun = AtomicUsize::new(0);
    let work = || -> Result<Vec<TcpStream>> {
        let mut held = Vec::new();
        while begun.fetch_add(1, Ordering::Relaxed) < count {
            held.push(ask(address)?);
        }
        Ok(held)
    };
    let held = in_threads(OPENERS, work)?;
    let mut out = std::io::stdout();
    writeln!(out, "{OPEN}")?;
    out.flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    drop(held);
    Ok(())
}

/// A connection on which a request was answered.
fn ask(address: SocketAddr) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET {PATH} HTTP/1.1\r\nHost: server\r\n\r\n").as_bytes())?;
    let mut reader = BufReader::new(&stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    ensure!(line.starts_with("HTTP/1.1 200"), "the server said {line:?}");
    let mut length = 0;
    while line.trim() != "" {
        line.clear();
        reader.read_line(&mut line)?;
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
    }
    ensure!(length > 0, "the answer has no length");
    reader.read_exact(&mut vec![0; length])?;
    drop(reader);
    Ok(stream)
}
