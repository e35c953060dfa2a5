//! gRPC to the control plane over TLS, by TCP and by Unix socket alike; who
//! answers must prove to be the control plane.

use std::io;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use thiserror::Error;
use tonic::transport::{Channel, Endpoint, Uri};
use watchword_identity::{SpiffeId, TrustDomain};
use watchword_mtls::{ControlClient, HandshakeError, TlsStream};

use crate::address::{Address, Io};
use crate::dial::Dialler;

/// For connecting, and for a call's answer to begin where nothing is signed.
pub(crate) const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// A silent control plane is noticed after two of these.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// Snapshots of large meshes.
pub(crate) const MAX_MESSAGE: usize = 32 * 1024 * 1024;

/// Why the control plane can't be reached.
#[derive(Debug, Error)]
pub(crate) enum ReachError {
    #[error("the control plane at {address} can't be reached: {problem}")]
    Dial { address: String, problem: io::Error },
    #[error("the control plane at {address} is not accepted: {problem}")]
    Handshake { address: String, problem: HandshakeError },
}

/// Where the control plane is, and who it must be.
#[derive(Clone, Debug)]
pub(crate) struct ControlPlane {
    address: Address,
    id: SpiffeId,
    dialler: Dialler,
}

impl ControlPlane {
    pub(crate) fn new(address: Address, id: SpiffeId, dialler: Dialler) -> Self {
        Self { address, id, dialler }
    }

    /// The trust domain that it belongs to, and we with it.
    pub(crate) fn trust_domain(&self) -> TrustDomain {
        self.id.trust_domain().clone()
    }

    /// A new connection, authenticated as `client`, on which calls are answered
    /// within so long.
    pub(crate) async fn connect(
        &self,
        client: ControlClient,
        answers_within: Duration,
    ) -> Result<Channel, tonic::transport::Error> {
        let this = self.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let (this, client) = (this.clone(), client.clone());
            async move { this.shake_hands(&client).await.map(TokioIo::new) }
        });
        // The address is the connector's business; this only fills :authority.
        Endpoint::from_static("http://control-plane")
            .connect_timeout(CALL_DEADLINE)
            .timeout(answers_within)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(true)
            .connect_with_connector(connector)
            .await
    }

    async fn shake_hands(&self, client: &ControlClient) -> Result<TlsStream<Box<dyn Io>>, ReachError> {
        let io = self
            .address
            .dial(&self.dialler)
            .await
            .map_err(|problem| ReachError::Dial {
                address: self.address.to_string(),
                problem,
            })?;
        client
            .connect(io, &self.id)
            .await
            .map_err(|problem| ReachError::Handshake {
                address: self.address.to_string(),
                problem,
            })
    }
}
