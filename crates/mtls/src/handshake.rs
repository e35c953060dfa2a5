//! Handshakes of the tunnel, both ways, each within its deadline.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::server::Acceptor;
use rustls::{CertificateError, ClientConfig, CommonState};
use rustls_pki_types::ServerName;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::{LazyConfigAcceptor, TlsConnector};
use watchword_identity::{SpiffeId, Svid};

use crate::generation::{ForeignProtocol, Generation, SIDECAR_ALPNS};
use crate::leaf::leaf_hash;
use crate::stream::TlsStream;
use crate::verify::VerifyError;

/// From the first byte to the last of a handshake (docs/wire.md).
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);

/// Why a handshake failed. Closed: each has a label.
#[derive(Debug, Error)]
pub enum HandshakeError {
    /// It took too long.
    #[error("no handshake within {} s", HANDSHAKE_DEADLINE.as_secs())]
    Timeout,
    /// The connection broke, or what came is not TLS.
    #[error("the connection ended during the handshake: {0}")]
    Io(io::Error),
    /// We refuse the peer's certificate.
    #[error("the peer's certificate is refused: {0}")]
    Certificate(VerifyError),
    /// The peer sent no certificate.
    #[error("the peer sent no certificate")]
    NoCertificate,
    /// The peer does not speak the tunnel protocol.
    #[error("the peer does not offer watchword/1")]
    NotATunnel,
    /// Authentic, but not whom the directory expects.
    #[error("expected {expected}, but {found} answered")]
    UnexpectedPeer {
        /// As the directory says.
        expected: String,
        /// As the certificate says.
        found: String,
    },
    /// Other TLS trouble, the peer's alerts among it.
    #[error("TLS: {0}")]
    Tls(rustls::Error),
}

impl HandshakeError {
    /// A label for logs and metrics: kebab-case, from a closed set.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Io(_) => "io",
            Self::Certificate(error) => error.label(),
            Self::NoCertificate => "no-certificate",
            Self::NotATunnel => "not-a-tunnel",
            Self::UnexpectedPeer { .. } => "unexpected-peer",
            Self::Tls(rustls::Error::AlertReceived(_)) => "refused-by-peer",
            Self::Tls(_) => "tls",
        }
    }

    pub(crate) fn from_io(error: io::Error) -> Self {
        let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
            return Self::Io(error);
        };
        match tls {
            rustls::Error::NoCertificatesPresented => Self::NoCertificate,
            rustls::Error::InvalidCertificate(CertificateError::Other(other)) => {
                match other.0.downcast_ref::<VerifyError>() {
                    Some(reason) => Self::Certificate(reason.clone()),
                    None => Self::Tls(tls.clone()),
                }
            }
            _ => Self::Tls(tls.clone()),
        }
    }
}

/// The other side of a connection, as its certificate proved it.
#[derive(Clone, Debug)]
pub struct Peer {
    svid: Arc<Svid>,
}

impl Peer {
    /// Its SPIFFE ID.
    pub fn id(&self) -> &SpiffeId {
        self.svid.id()
    }

    /// Its certificate.
    pub fn svid(&self) -> &Svid {
        &self.svid
    }

    /// SHA-256 of its leaf's DER.
    pub fn leaf_hash(&self) -> [u8; 32] {
        leaf_hash(&self.svid)
    }

    pub(crate) fn of(connection: &CommonState) -> Option<Self> {
        let chain = connection.peer_certificates()?;
        let chain = chain
            .iter()
            .map(|certificate| certificate.clone().into_owned())
            .collect();
        // The verifier has read it already, so this can't fail.
        Svid::from_chain(chain).ok().map(|svid| Self { svid: Arc::new(svid) })
    }
}

/// Who has connected.
#[derive(Debug)]
pub enum Accepted<IO> {
    /// A sidecar of ours, which opens a tunnel.
    Tunnel(TlsStream<IO>, Peer),
    /// A program with a SPIFFE identity that does its own TLS.
    Foreign(TlsStream<IO>, Peer),
}

impl<IO> Accepted<IO> {
    /// As its certificate proved it.
    pub fn peer(&self) -> &Peer {
        let (Self::Tunnel(_, peer) | Self::Foreign(_, peer)) = self;
        peer
    }
}

/// Accepts a connection: reads the ClientHello, and goes on as the tunnel's
/// server when it offers watchword/1, else as that of a foreign peer, with
/// whom `foreign` is spoken. (With one list of protocols for both, rustls
/// would refuse who offers neither.)
///
/// # Errors
/// See [`HandshakeError`]; the peer has been sent an alert where TLS has one.
pub async fn accept<IO>(
    generation: &Generation,
    io: IO,
    foreign: ForeignProtocol,
) -> Result<Accepted<IO>, HandshakeError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = async {
        let start = LazyConfigAcceptor::new(Acceptor::default(), io)
            .await
            .map_err(HandshakeError::from_io)?;
        let is_tunnel = start
            .client_hello()
            .alpn()
            .is_some_and(|mut names| names.any(|name| SIDECAR_ALPNS.contains(&name)));
        let config = match is_tunnel {
            true => &generation.tunnel_server,
            false => generation.foreign_server(foreign),
        };
        let stream = start.into_stream(Arc::clone(config)).await;
        Ok((is_tunnel, stream.map_err(HandshakeError::from_io)?))
    };
    let (is_tunnel, stream) = timeout(HANDSHAKE_DEADLINE, Box::pin(handshake))
        .await
        .map_err(|_| HandshakeError::Timeout)??;
    let stream = TlsStream::new(stream.into());
    let peer = stream.peer().ok_or(HandshakeError::NoCertificate)?;
    Ok(match is_tunnel {
        true => Accepted::Tunnel(stream, peer),
        false => Accepted::Foreign(stream, peer),
    })
}

/// As [`accept`], for a place where nothing but tunnels may come.
///
/// # Errors
/// [`HandshakeError::NotATunnel`] for a foreign peer.
pub async fn accept_tunnel<IO>(generation: &Generation, io: IO) -> Result<(TlsStream<IO>, Peer), HandshakeError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    match accept(generation, io, ForeignProtocol::Any).await? {
        Accepted::Tunnel(stream, peer) => Ok((stream, peer)),
        Accepted::Foreign(..) => Err(HandshakeError::NotATunnel),
    }
}

/// Connects to a program that does its own TLS, and must be `expected`. No byte
/// of ours goes to it otherwise.
///
/// # Errors
/// See [`HandshakeError`].
pub async fn connect_foreign<IO>(
    generation: &Generation,
    io: IO,
    (expected, protocol): (&SpiffeId, ForeignProtocol),
) -> Result<(TlsStream<IO>, Peer), HandshakeError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let connector = TlsConnector::from(Arc::clone(generation.foreign_client(protocol)));
    let stream = connect(connector, io).await?;
    let peer = expect_peer(&stream, expected)?;
    Ok((stream, peer))
}

/// Opens a tunnel to the peer that must be `expected`. No byte of ours goes
/// into it otherwise.
///
/// # Errors
/// See [`HandshakeError`].
pub async fn connect_tunnel<IO>(
    generation: &Generation,
    io: IO,
    expected: &SpiffeId,
) -> Result<(TlsStream<IO>, Peer), HandshakeError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    connect_sidecar(&generation.tunnel_client, io, expected).await
}

/// As [`connect_tunnel`], for a connection that carries many tunnels where the
/// peer knows that ([`TlsStream::has_lanes`]), and one where it does not.
///
/// # Errors
/// See [`HandshakeError`].
pub async fn connect_lanes<IO>(
    generation: &Generation,
    io: IO,
    expected: &SpiffeId,
) -> Result<(TlsStream<IO>, Peer), HandshakeError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    connect_sidecar(&generation.lanes_client, io, expected).await
}

async fn connect_sidecar<IO>(
    config: &Arc<ClientConfig>,
    io: IO,
    expected: &SpiffeId,
) -> Result<(TlsStream<IO>, Peer), HandshakeError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let stream = connect(TlsConnector::from(Arc::clone(config)), io).await?;
    if !stream.alpn().is_some_and(|name| SIDECAR_ALPNS.contains(&name)) {
        return Err(HandshakeError::NotATunnel);
    }
    let peer = expect_peer(&stream, expected)?;
    Ok((stream, peer))
}

pub(crate) async fn connect<IO>(connector: TlsConnector, io: IO) -> Result<TlsStream<IO>, HandshakeError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    // The verifier goes by SPIFFE ID, and no SNI is sent: the name says nothing.
    let unused_name = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
    let handshake = Box::pin(connector.connect(unused_name, io));
    let stream = timeout(HANDSHAKE_DEADLINE, handshake)
        .await
        .map_err(|_| HandshakeError::Timeout)?;
    stream
        .map(|stream| TlsStream::new(stream.into()))
        .map_err(HandshakeError::from_io)
}

pub(crate) fn expect_peer<IO>(stream: &TlsStream<IO>, expected: &SpiffeId) -> Result<Peer, HandshakeError> {
    let peer = stream.peer().ok_or(HandshakeError::NoCertificate)?;
    if peer.id() == expected {
        return Ok(peer);
    }
    Err(HandshakeError::UnexpectedPeer {
        expected: expected.to_string(),
        found: peer.id().to_string(),
    })
}
