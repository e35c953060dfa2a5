//! The plain TLS ends that gRPC between sidecars and the control plane needs.

use std::sync::Arc;

use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use watchword_identity::{Bundle, SpiffeId};

use crate::generation::{Generation, PublishError, anonymous_control_client};
use crate::handshake::{HANDSHAKE_DEADLINE, HandshakeError, Peer, connect, expect_peer};
use crate::stream::TlsStream;
use crate::verify::Now;

/// Calls the control plane, which must prove its SPIFFE ID.
#[derive(Clone, Debug)]
pub struct ControlClient(Arc<ClientConfig>);

impl ControlClient {
    /// Without an identity of our own: for the first attestation.
    ///
    /// # Errors
    /// When no TLS configuration can be built.
    pub fn anonymous(bundle: Bundle, now: Now) -> Result<Self, PublishError> {
        anonymous_control_client(bundle, now).map(Self)
    }

    pub(crate) fn from_config(config: Arc<ClientConfig>) -> Self {
        Self(config)
    }

    /// Shakes hands over `io` with the control plane, which must be `expected`.
    ///
    /// # Errors
    /// See [`HandshakeError`].
    pub async fn connect<IO>(&self, io: IO, expected: &SpiffeId) -> Result<TlsStream<IO>, HandshakeError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let stream = connect(TlsConnector::from(Arc::clone(&self.0)), io).await?;
        expect_peer(&stream, expected)?;
        Ok(stream)
    }
}

/// Accepts a sidecar's connection to the control plane. The peer is nothing
/// when it sent no certificate: only attestation is for such callers.
///
/// # Errors
/// See [`HandshakeError`].
pub async fn accept_control<IO>(
    generation: &Generation,
    io: IO,
) -> Result<(TlsStream<IO>, Option<Peer>), HandshakeError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let accept = TlsAcceptor::from(Arc::clone(&generation.control_server)).accept(io);
    let stream = timeout(HANDSHAKE_DEADLINE, Box::pin(accept))
        .await
        .map_err(|_| HandshakeError::Timeout)?;
    let stream = TlsStream::new(stream.map_err(HandshakeError::from_io)?.into());
    let peer = stream.peer();
    Ok((stream, peer))
}
