//! The encrypted connection as the tunnel wants it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use watchword_mtls::TlsStream;
use watchword_tunnel::{AppStream, LARGEST_WRITE, Transport};

use crate::telemetry::{ActiveTunnel, Telemetry};

/// TLS over TCP, under a tunnel that counts as active until it is dropped.
///
/// TLS has a box of its own: what holds a tunnel is moved from future to
/// future, and each of them would have room for all of it.
pub(crate) struct TunnelIo {
    tls: Box<TlsStream<TcpStream>>,
    _active: ActiveTunnel,
}

impl TunnelIo {
    pub(crate) fn new(mut tls: TlsStream<TcpStream>, telemetry: &Telemetry) -> Self {
        tls.take_at_once(LARGEST_WRITE);
        Self {
            tls: Box::new(tls),
            _active: telemetry.active_tunnel(),
        }
    }
}

impl Transport for TunnelIo {
    fn has_unsent(&self) -> bool {
        self.tls.has_unsent()
    }

    fn abort(&mut self) {
        // It fails only on what is no socket; the drop closes it either way.
        let _ = self.tls.get_ref().set_zero_linger();
    }

    fn failure(&self) -> Option<io::Error> {
        AppStream::failure(self.tls.get_ref())
    }

    fn limit_silence(&self, limit: Option<Duration>) {
        // Without it a vanished peer is found later, by other deadlines.
        let _ = SockRef::from(self.tls.get_ref()).set_tcp_user_timeout(limit);
    }
}

impl AsyncRead for TunnelIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tls).poll_read(cx, buffer)
    }
}

impl AsyncWrite for TunnelIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().tls).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tls).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tls).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().tls).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }
}
