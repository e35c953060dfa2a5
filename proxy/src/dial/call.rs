//! How the app is called for a stream: at once, together with what is there to be
//! sent, and by a socket that has called it before where there is one.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nix::libc::{EAGAIN, ENOTCONN, MSG_NOSIGNAL};
use socket2::Socket;
use watchword_tunnel::{LazyStream, Released};

use super::used::{self, UsedSockets};
use super::{Dialler, First, Source, begin_to_connect, connected_in_time};

impl Dialler {
    /// Connects to the app for a caller as [`connect_app`](Self::connect_app), and
    /// sends what it can of `first`, since an app on this machine is connected to
    /// at once as a rule: how much that is, and the connection. It is guarded
    /// ([`AppStream::guard`]), and made for sure where some was sent.
    ///
    /// [`AppStream::guard`]: watchword_tunnel::AppStream::guard
    pub(crate) fn call_app(
        &self,
        ends: (SocketAddr, IpAddr),
        first: &[u8],
        used: &UsedSockets,
    ) -> (usize, impl Future<Output = io::Result<LazyStream>> + use<>) {
        let begun = self.begin_call(ends, first, used);
        let sent = begun.as_ref().map_or(0, |(_, sent)| *sent);
        let connected = async move {
            let mut stream = begun.map(|(socket, _)| LazyStream::new(socket))?;
            if sent == 0 {
                connected_in_time(stream.register()?).await?;
            }
            Ok(stream)
        };
        (sent, connected)
    }

    /// Takes back a connection of [`call_app`](Self::call_app) with these ends,
    /// whose both directions have ended: another call may use its socket.
    pub(crate) fn take_back(&self, ends: (SocketAddr, IpAddr), ended: Released<LazyStream>, used: &UsedSockets) {
        let source = self.source(ends);
        // Each of those has an address that chance picked, so that all are used.
        let may_be_kept = source != Source::Reserved;
        let over = ended.into_guarded_if(|stream| may_be_kept && used::is_over(stream));
        if let Some(Ok(socket)) = over.map(used::renew) {
            used.keep(source, socket);
        }
    }

    fn begin_call(&self, ends: (SocketAddr, IpAddr), first: &[u8], used: &UsedSockets) -> io::Result<(Socket, usize)> {
        let (source, to) = (self.source(ends), ends.0);
        let connect = |socket: Socket| {
            First::of(first).prepare(&socket);
            begin_to_connect(socket, to)
        };
        let socket = match used.take(source).map(connect) {
            Some(Ok(socket)) => socket,
            // Whatever a used socket can't do is tried with a new one.
            Some(Err(_)) | None => connect(self.guarded_socket(source, to)?)?,
        };
        let sent = send_at_once(&socket, first)?;
        Ok((socket, sent))
    }

    fn guarded_socket(&self, source: Source, to: SocketAddr) -> io::Result<Socket> {
        let socket = self.app_socket(source, to)?;
        socket.set_linger(Some(Duration::ZERO))?;
        socket.set_tcp_nodelay(true)?;
        Ok(socket)
    }
}

/// How much of it has gone.
fn send_at_once(socket: &Socket, bytes: &[u8]) -> io::Result<usize> {
    if bytes.is_empty() {
        return Ok(0);
    }
    match socket.send_with_flags(bytes, MSG_NOSIGNAL) {
        Err(error) if matches!(error.raw_os_error(), Some(EAGAIN | ENOTCONN)) => Ok(0),
        sent => sent,
    }
}
