//! Tunnels with mutual TLS, as sidecars have them. Nothing else is done during
//! a handshake: they are kept, and what they cost is not asked here.

use std::cell::Cell;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Polling, Poll};

use anyhow::{Context as _, Result};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use watchword_benches::mesh::{DOMAIN, id};
use watchword_daemon::{Clock as _, SystemClock};
use watchword_identity::{Bundle, Svid, TrustDomain};
use watchword_mtls::{Credentials, Generation, Now, accept_tunnel, connect_tunnel};

use super::socket::Socket;

/// A side's certificate, and what it trusts.
pub(super) struct Encrypted {
    generation: Arc<Generation>,
}

impl Encrypted {
    /// From the files of [`crate::certificates`].
    pub(super) fn read(folder: &Path, side: &str) -> Result<Self> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(folder.join(format!("{side}.pem")))?.collect();
        let key = PrivateKeyDer::from_pem_file(folder.join(format!("{side}-key.pem")))?;
        let root = CertificateDer::from_pem_file(folder.join("root.pem"))?;
        let credentials = Credentials::new(Now::new(|| SystemClock.now()));
        let bundle = Bundle::new(TrustDomain::new(DOMAIN)?, vec![root])?;
        credentials.publish(&Svid::from_chain(chain?)?, &key, bundle)?;
        let generation = credentials.current().context("it was published")?;
        Ok(Self { generation })
    }

    pub(super) fn connect(&self, to: SocketAddr) -> Result<Socket> {
        let raw = Raw::new(TcpStream::connect(to)?)?;
        let expected = id(&format!("spiffe://{DOMAIN}/server"));
        let shaken = connect_tunnel(&self.generation, raw, &expected);
        let (tls, _) = watchword_benches::runtime().block_on(shaken)?;
        Ok(Socket::kept(tls))
    }

    pub(super) fn accept(&self, socket: mio::net::TcpStream) -> Result<Socket> {
        let raw = Raw::new(OwnedFd::from(socket).into())?;
        let shaken = accept_tunnel(&self.generation, raw);
        let (tls, _) = watchword_benches::runtime().block_on(shaken)?;
        Ok(Socket::kept(tls))
    }
}

/// A socket under TLS.
pub(super) struct Raw {
    pub(super) socket: TcpStream,
    /// It was read to its end since the kernel said that there was something:
    /// another read would be in vain.
    pub(super) is_drained: Cell<bool>,
    /// Nobody but us looks whether it can go on.
    pub(super) is_shaking: Cell<bool>,
}

impl Raw {
    fn new(socket: TcpStream) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            is_drained: Cell::new(false),
            is_shaking: Cell::new(true),
        })
    }
}

impl AsyncRead for Raw {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Polling<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.is_drained.get() {
            return Poll::Pending;
        }
        let unfilled = room.initialize_unfilled();
        let most = unfilled.len();
        match self.socket.read(unfilled) {
            Ok(count) => {
                room.advance(count);
                self.is_drained.set(count > 0 && count < most && !self.is_shaking.get());
                Poll::Ready(Ok(()))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if self.is_shaking.get() {
                    cx.waker().wake_by_ref();
                }
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl AsyncWrite for Raw {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Polling<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.socket.write(bytes) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Poll::Pending,
            written => Poll::Ready(written),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Polling<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Polling<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
