//! One generation: an SVID, the bundle that came with it, and every TLS
//! configuration that follows from the two, built once.

use std::fmt;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{CipherSuite, ClientConfig, ServerConfig};
use rustls_pki_types::PrivateKeyDer;
use thiserror::Error;
use watchword_identity::{Bundle, Svid};

use crate::leaf::leaf_hash;
use crate::verify::{Now, SpiffeVerifier, VerifyError};

/// The tunnel protocol's name in ALPN (docs/wire.md).
pub const TUNNEL_ALPN: &[u8] = b"watchword/1";
/// That of a connection which carries many tunnels, on lanes.
pub const LANES_ALPN: &[u8] = b"watchword/1+lanes";
/// What sidecars speak to each other, the preferred one first.
pub(crate) const SIDECAR_ALPNS: [&[u8]; 2] = [LANES_ALPN, TUNNEL_ALPN];
const HTTP2_ALPN: &[u8] = b"h2";
const HTTP1_ALPN: &[u8] = b"http/1.1";

/// What is spoken with a peer that has no sidecar of ours, as far as TLS tells
/// it (ALPN, RFC 7301).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForeignProtocol {
    /// Nothing is said of it.
    Any,
    /// HTTP/1.1; a server takes HTTP/2 from clients that speak nothing else.
    Http1,
    /// HTTP/2; a server takes HTTP/1.1 from clients that speak nothing else.
    Http2,
}

/// Why material was not published; what was in force stays.
#[derive(Debug, Error)]
pub enum PublishError {
    /// The chain does not prove an identity under the bundle that came with it.
    #[error("the new certificate does not verify: {0}")]
    Verify(#[from] VerifyError),
    /// The key is not the certificate's, or rustls refuses them.
    #[error("the new certificate and key can't be used: {0}")]
    Tls(#[from] rustls::Error),
    /// A bundle came before any certificate.
    #[error("a bundle can't be published before a certificate")]
    NoIdentity,
}

/// An immutable, validated state of identity and trust.
pub struct Generation {
    number: u64,
    svid: Svid,
    bundle: Arc<Bundle>,
    key: Arc<CertifiedKey>,
    pub(crate) tunnel_server: Arc<ServerConfig>,
    pub(crate) tunnel_client: Arc<ClientConfig>,
    pub(crate) lanes_client: Arc<ClientConfig>,
    foreign_server: ByProtocol<ServerConfig>,
    foreign_client: ByProtocol<ClientConfig>,
    pub(crate) control_server: Arc<ServerConfig>,
    pub(crate) control_client: Arc<ClientConfig>,
}

/// One for each [`ForeignProtocol`].
struct ByProtocol<T> {
    any: Arc<T>,
    http1: Arc<T>,
    http2: Arc<T>,
}

impl<T> ByProtocol<T> {
    fn get(&self, protocol: ForeignProtocol) -> &Arc<T> {
        match protocol {
            ForeignProtocol::Any => &self.any,
            ForeignProtocol::Http1 => &self.http1,
            ForeignProtocol::Http2 => &self.http2,
        }
    }
}

impl Generation {
    /// For callers without a sidecar of ours.
    pub(crate) fn foreign_server(&self, protocol: ForeignProtocol) -> &Arc<ServerConfig> {
        self.foreign_server.get(protocol)
    }

    /// For peers without a sidecar of ours.
    pub(crate) fn foreign_client(&self, protocol: ForeignProtocol) -> &Arc<ClientConfig> {
        self.foreign_client.get(protocol)
    }

    /// Grows by one each time a certificate or bundle is published.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Who we are.
    pub fn svid(&self) -> &Svid {
        &self.svid
    }

    /// SHA-256 of our leaf's DER.
    pub fn leaf_hash(&self) -> [u8; 32] {
        leaf_hash(&self.svid)
    }

    /// Whom we trust.
    pub fn bundle(&self) -> &Arc<Bundle> {
        &self.bundle
    }

    pub(crate) fn build(
        number: u64,
        svid: Svid,
        key: &PrivateKeyDer<'static>,
        bundle: Bundle,
        now: &Now,
    ) -> Result<Self, PublishError> {
        let key = CertifiedKey::from_der(svid.chain().to_vec(), key.clone_key(), &provider())?;
        Self::from_parts(number, svid, Arc::new(key), bundle, now)
    }

    /// The same SVID under another bundle.
    pub(crate) fn with_bundle(&self, number: u64, bundle: Bundle, now: &Now) -> Result<Self, PublishError> {
        Self::from_parts(number, self.svid.clone(), Arc::clone(&self.key), bundle, now)
    }

    fn from_parts(
        number: u64,
        svid: Svid,
        key: Arc<CertifiedKey>,
        bundle: Bundle,
        now: &Now,
    ) -> Result<Self, PublishError> {
        let bundle = Arc::new(bundle);
        let resolver = Arc::new(SingleCertAndKey::from(Arc::clone(&key)));
        let verifier = || SpiffeVerifier::new(Arc::clone(&bundle), &provider(), now.clone());
        let mandatory = Arc::new(verifier());
        let optional = Arc::new(verifier().client_certificate_optional());
        let client = |alpn: &[&[u8]]| client_config(Arc::clone(&mandatory), Some(Arc::clone(&resolver)), alpn);
        let server = |alpn: &[&[u8]]| server_config(Arc::clone(&mandatory), Arc::clone(&resolver), alpn);
        Ok(Self {
            number,
            // A server's own order decides.
            tunnel_server: server(&SIDECAR_ALPNS)?,
            control_server: server_config(optional, Arc::clone(&resolver), &[HTTP2_ALPN])?,
            foreign_server: ByProtocol {
                any: server(&[])?,
                http1: server(&[HTTP1_ALPN, HTTP2_ALPN])?,
                http2: server(&[HTTP2_ALPN, HTTP1_ALPN])?,
            },
            tunnel_client: client(&[TUNNEL_ALPN])?,
            lanes_client: client(&SIDECAR_ALPNS)?,
            control_client: client(&[HTTP2_ALPN])?,
            foreign_client: ByProtocol {
                any: client(&[])?,
                http1: client(&[HTTP1_ALPN])?,
                http2: client(&[HTTP2_ALPN])?,
            },
            svid,
            bundle,
            key,
        })
    }
}

#[cfg(test)]
impl Generation {
    /// The same trust, with another certificate shown to the peer, unchecked.
    pub(crate) fn presenting(
        &self,
        chain: Vec<rustls_pki_types::CertificateDer<'static>>,
        key: &PrivateKeyDer<'static>,
    ) -> Self {
        #[allow(clippy::unwrap_used)]
        let signer = provider().key_provider.load_private_key(key.clone_key()).unwrap();
        let key = Arc::new(CertifiedKey::new(chain, signer));
        #[allow(clippy::unwrap_used)]
        Self::from_parts(
            self.number,
            self.svid.clone(),
            key,
            (*self.bundle).clone(),
            &Now::new(self.clock()),
        )
        .unwrap()
    }

    /// A client that shows no certificate, be it of the tunnel or a foreign one.
    pub(crate) fn without_certificate(&self) -> Result<Self, PublishError> {
        let now = Now::new(self.clock());
        let mut same = Self::from_parts(
            self.number,
            self.svid.clone(),
            Arc::clone(&self.key),
            (*self.bundle).clone(),
            &now,
        )?;
        let verifier = SpiffeVerifier::new(Arc::clone(&same.bundle), &provider(), now);
        let verifier = Arc::new(verifier);
        same.tunnel_client = client_config(Arc::clone(&verifier), None, &[TUNNEL_ALPN])?;
        same.lanes_client = client_config(Arc::clone(&verifier), None, &SIDECAR_ALPNS)?;
        same.foreign_client.any = client_config(verifier, None, &[])?;
        Ok(same)
    }

    fn clock(&self) -> impl Fn() -> std::time::SystemTime + Send + Sync + 'static {
        // The middle of the leaf's life.
        let middle = self.svid.not_before()
            + self
                .svid
                .not_after()
                .duration_since(self.svid.not_before())
                .unwrap_or_default()
                / 2;
        move || middle
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generation")
            .field("number", &self.number)
            .field("svid", &self.svid)
            .finish_non_exhaustive()
    }
}

/// For the first call to the control plane: it proves its identity, the
/// caller has none yet.
pub(crate) fn anonymous_control_client(bundle: Bundle, now: Now) -> Result<Arc<ClientConfig>, PublishError> {
    let verifier = SpiffeVerifier::new(Arc::new(bundle), &provider(), now);
    client_config(Arc::new(verifier), None, &[HTTP2_ALPN])
}

/// aws-lc-rs, with X25519MLKEM768 offered first (feature prefer-post-quantum).
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: std::sync::OnceLock<Arc<CryptoProvider>> = std::sync::OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| {
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        // First what takes least work for what certificates of an hour protect;
        // others stay for peers that want them.
        provider
            .cipher_suites
            .sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
        Arc::new(provider)
    }))
}

fn server_config(
    verifier: Arc<SpiffeVerifier>,
    resolver: Arc<SingleCertAndKey>,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, PublishError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(resolver);
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    // A resumed session would skip the verifier: see docs/decisions.
    config.send_tls13_tickets = 0;
    config.max_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

fn client_config(
    verifier: Arc<SpiffeVerifier>,
    resolver: Option<Arc<SingleCertAndKey>>,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, PublishError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match resolver {
        Some(resolver) => builder.with_client_cert_resolver(resolver),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(Arc::new(config))
}
