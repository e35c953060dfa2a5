//! The encrypted connection as the tunnel wants it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use watchword_mtls::TlsStream;
use watchword_tunnel::{AppStream, LARGEST_WRITE, Lane, Transport};

use crate::telemetry::{ActiveTunnel, Telemetry};

/// TLS over TCP, which counts as a tunnel until it is dropped; or a lane of
/// such a connection.
pub(crate) enum TunnelIo {
    Own(Own),
    Lane(Lane<Own>),
}

/// TLS has a box of its own: what holds a tunnel is moved from future to
/// future, and each of them would have room for all of it.
pub(crate) struct Own {
    tls: Box<TlsStream<TcpStream>>,
    _active: ActiveTunnel,
    _counted: Option<Arc<()>>,
}

impl Own {
    pub(crate) fn new(mut tls: TlsStream<TcpStream>, telemetry: &Telemetry) -> Self {
        tls.take_at_once(LARGEST_WRITE);
        Self {
            tls: Box::new(tls),
            _active: telemetry.active_tunnel(),
            _counted: None,
        }
    }

    /// Its end is noticed by who holds `counted`, too.
    pub(crate) fn counted(self, counted: Arc<()>) -> Self {
        Self {
            _counted: Some(counted),
            ..self
        }
    }
}

impl Transport for Own {
    fn has_unsent(&self) -> bool {
        self.tls.has_unsent()
    }

    fn has_given_all(&self) -> bool {
        self.tls.has_given_all()
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

impl AsyncRead for Own {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tls).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Own {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().tls).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tls).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tls).poll_shutdown(cx)
    }
}

impl Transport for TunnelIo {
    fn has_unsent(&self) -> bool {
        match self {
            Self::Own(own) => own.has_unsent(),
            Self::Lane(lane) => lane.has_unsent(),
        }
    }

    fn has_given_all(&self) -> bool {
        match self {
            Self::Own(own) => own.has_given_all(),
            Self::Lane(lane) => lane.has_given_all(),
        }
    }

    fn abort(&mut self) {
        match self {
            Self::Own(own) => own.abort(),
            Self::Lane(lane) => lane.abort(),
        }
    }

    fn failure(&self) -> Option<io::Error> {
        match self {
            Self::Own(own) => own.failure(),
            Self::Lane(lane) => lane.failure(),
        }
    }

    fn limit_silence(&self, limit: Option<Duration>) {
        match self {
            Self::Own(own) => own.limit_silence(limit),
            Self::Lane(lane) => lane.limit_silence(limit),
        }
    }
}

impl AsyncRead for TunnelIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Own(own) => Pin::new(own).poll_read(cx, buffer),
            Self::Lane(lane) => Pin::new(lane).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for TunnelIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Own(own) => Pin::new(own).poll_write(cx, bytes),
            Self::Lane(lane) => Pin::new(lane).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Own(own) => Pin::new(own).poll_flush(cx),
            Self::Lane(lane) => Pin::new(lane).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Own(own) => Pin::new(own).poll_shutdown(cx),
            Self::Lane(lane) => Pin::new(lane).poll_shutdown(cx),
        }
    }
}
