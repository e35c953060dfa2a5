//! A TLS end towards a server outside of the mesh, such as Vault: it goes by
//! host name, not by SPIFFE ID.
//!
//! Invariants: only the pinned certificates vouch for the server, never those
//! of the system; TLS 1.3 only, no resumption, no early data.

use std::fmt;
use std::sync::Arc;

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::generation::provider;
use crate::handshake::{HANDSHAKE_DEADLINE, HandshakeError};
use crate::stream::TlsStream;

const HTTP1_ALPN: &[u8] = b"http/1.1";

/// Why there is no such client.
#[derive(Debug, Error)]
pub enum OutsideError {
    /// The pinned certificates.
    #[error("no certificates of authorities in PEM: {0}")]
    Authorities(String),
    /// Our certificate.
    #[error("no certificate in PEM to show: {0}")]
    Certificate(String),
    /// Our key. The reason is left out where it could quote the key.
    #[error("no private key in PEM that goes with the certificate")]
    Key,
    /// rustls refuses them.
    #[error("TLS can't be configured: {0}")]
    Tls(#[from] rustls::Error),
    /// Neither a DNS name nor an address.
    #[error("`{0}` is neither a DNS name nor an IP address")]
    Host(String),
}

/// A certificate that the client shows, with its key, both in PEM.
pub struct ShownCertificate<'a> {
    /// Leaf first.
    pub chain: &'a [u8],
    /// PKCS#8, SEC1 or PKCS#1.
    pub key: &'a [u8],
}

impl fmt::Debug for ShownCertificate<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ShownCertificate(..)")
    }
}

/// Calls servers that pinned authorities vouch for.
#[derive(Clone, Debug)]
pub struct OutsideClient(Arc<ClientConfig>);

impl OutsideClient {
    /// `authorities` is PEM, one certificate at least: nobody else vouches.
    ///
    /// # Errors
    /// See [`OutsideError`].
    pub fn new(authorities: &[u8], shown: Option<&ShownCertificate<'_>>) -> Result<Self, OutsideError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(authorities).map_err(OutsideError::Authorities)? {
            roots
                .add(certificate)
                .map_err(|error| OutsideError::Authorities(error.to_string()))?;
        }
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|error| OutsideError::Authorities(error.to_string()))?;
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_webpki_verifier(verifier);
        let mut config = match shown {
            None => builder.with_no_client_auth(),
            Some(shown) => {
                let chain = certificates(shown.chain).map_err(OutsideError::Certificate)?;
                let key = PrivateKeyDer::from_pem_slice(shown.key).map_err(|_| OutsideError::Key)?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|_| OutsideError::Key)?
            }
        };
        config.alpn_protocols = vec![HTTP1_ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Self(Arc::new(config)))
    }

    /// Shakes hands over `io` with the server whose certificate must be for
    /// `host`: a DNS name, or an IP address without brackets.
    ///
    /// # Errors
    /// See [`HandshakeError`].
    pub async fn connect<IO>(&self, io: IO, host: &str) -> Result<TlsStream<IO>, HandshakeError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let name = server_name(host)
            .map_err(|error| HandshakeError::Io(std::io::Error::new(std::io::ErrorKind::InvalidInput, error)))?;
        let handshake = Box::pin(TlsConnector::from(Arc::clone(&self.0)).connect(name, io));
        timeout(HANDSHAKE_DEADLINE, handshake)
            .await
            .map_err(|_| HandshakeError::Timeout)?
            .map(|stream| TlsStream::new(stream.into()))
            .map_err(HandshakeError::from_io)
    }
}

/// Whether a server's certificate can be checked against this name.
///
/// # Errors
/// [`OutsideError::Host`].
pub fn check_host(host: &str) -> Result<(), OutsideError> {
    server_name(host).map(|_| ())
}

pub(crate) fn server_name(host: &str) -> Result<ServerName<'static>, OutsideError> {
    ServerName::try_from(host.to_owned()).map_err(|_| OutsideError::Host(host.to_owned()))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        // The parser's reason quotes a broken line, which may be of a key.
        .map_err(|_| "a section of it is broken".to_owned())?;
    if found.is_empty() {
        return Err("there is none".into());
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
