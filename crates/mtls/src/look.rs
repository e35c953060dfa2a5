//! A look at what a server shows, for people who ask why nobody trusts it.
//!
//! Invariant: nothing is verified, so nothing is carried: the connection is
//! closed here, and only the certificates are handed out.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::generation::provider;
use crate::handshake::{HANDSHAKE_DEADLINE, HandshakeError};
use crate::outside::server_name;

/// The certificates, leaf first, that the server at the other end of `io` shows
/// to who calls it `host`, trusted or not. TLS 1.3 only.
///
/// # Errors
/// See [`HandshakeError`]. A handshake that breaks after the certificates were
/// shown is none.
pub async fn look_at_server<IO>(io: IO, host: &str) -> Result<Vec<CertificateDer<'static>>, HandshakeError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let name = server_name(host)
        .map_err(|error| HandshakeError::Io(std::io::Error::new(std::io::ErrorKind::InvalidInput, error)))?;
    let seen = Arc::new(Looker::default());
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| HandshakeError::Io(std::io::Error::other(error)))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&seen) as Arc<dyn ServerCertVerifier>)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    let handshake = Box::pin(TlsConnector::from(Arc::new(config)).connect(name, io));
    let result = timeout(HANDSHAKE_DEADLINE, handshake).await;
    let chain = std::mem::take(&mut *seen.0.lock().unwrap_or_else(PoisonError::into_inner));
    match result {
        _ if !chain.is_empty() => Ok(chain),
        Ok(Ok(_)) => Ok(Vec::new()),
        Ok(Err(error)) => Err(HandshakeError::from_io(error)),
        Err(_) => Err(HandshakeError::Timeout),
    }
}

/// Remembers what it is shown, and believes it for the moment.
#[derive(Debug, Default)]
struct Looker(Mutex<Vec<CertificateDer<'static>>>);

impl ServerCertVerifier for Looker {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let all = std::iter::once(leaf).chain(intermediates);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = all.map(|it| it.clone().into_owned()).collect();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
