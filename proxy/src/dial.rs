//! Connections that the sidecar itself opens: told apart from the app's, so
//! that interception does not send them back to us.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::config::{LoopProtection, PROXY_MARK};

/// For a TCP connection to be made (docs/wire.md).
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// Silence after which the peer's kernel is asked whether it is there, how
/// often, and how many unanswered questions end the connection (docs/wire.md).
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_RETRIES: u32 = 4;

/// Without Nagle's delay, and so that a peer that vanished is found although
/// nothing is sent to it.
pub(crate) fn watch_peer(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_RETRIES);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// How to dial without being captured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dialler {
    loop_protection: LoopProtection,
}

impl Dialler {
    pub(crate) fn new(loop_protection: LoopProtection) -> Self {
        Self { loop_protection }
    }

    /// Whether this process may mark its packets, where it must.
    pub(crate) fn check(&self) -> io::Result<()> {
        self.socket(([127, 0, 0, 1], 0).into()).map(|_| ())
    }

    /// Connects within the deadline, without Nagle's delay.
    pub(crate) async fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let stream = timeout(CONNECT_DEADLINE, self.socket(to)?.connect(to))
            .await
            .map_err(|_| io::Error::from_raw_os_error(nix::libc::ETIMEDOUT))??;
        watch_peer(&stream)?;
        Ok(stream)
    }

    fn socket(&self, to: SocketAddr) -> io::Result<TcpSocket> {
        let socket = if to.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }?;
        if self.loop_protection == LoopProtection::Mark {
            SockRef::from(&socket).set_mark(PROXY_MARK)?;
        }
        Ok(socket)
    }
}
