//! Asks a control plane on its admin socket.

use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::Request;
use tonic::transport::{Channel, Endpoint};
use watchword_proto::admin::{AdminClient, CreateTokenRequest, CreateTokenResponse, StatusRequest, StatusResponse};

const PATIENCE: Duration = Duration::from_secs(5);

/// Why the control plane gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdminError {
    /// Nobody listens there.
    #[error(
        "the control plane does not answer on {socket}: {reason}; look whether it runs (`watchword status` shows the meshes of `up`), or name another with `--admin SOCKET`"
    )]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// Why.
        reason: String,
    },
    /// It refused.
    #[error("the control plane says: {0}")]
    Refused(String),
}

/// A connection to a control plane's admin socket.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    client: AdminClient<Channel>,
    socket: PathBuf,
}

impl Admin {
    /// For the control plane behind `socket`; connects at the first call, and
    /// again whenever it must.
    pub(crate) fn new(socket: &Path) -> Self {
        let path = socket.to_owned();
        let connect = tower::service_fn(move |_: http::Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://admin.invalid")
            .connect_timeout(PATIENCE)
            .timeout(PATIENCE);
        Self {
            client: AdminClient::new(endpoint.connect_with_connector_lazy(connect)),
            socket: socket.to_owned(),
        }
    }

    /// A join token for `spiffe_id`. A secret.
    pub(crate) async fn create_token(&self, spiffe_id: &str) -> Result<CreateTokenResponse, AdminError> {
        let request = Request::new(CreateTokenRequest {
            spiffe_id: spiffe_id.to_owned(),
        });
        let answer = tokio::time::timeout(PATIENCE, self.client.clone().create_token(request)).await;
        self.unpack(answer)
    }

    /// What the control plane knows.
    pub(crate) async fn status(&self) -> Result<StatusResponse, AdminError> {
        let request = Request::new(StatusRequest {});
        let answer = tokio::time::timeout(PATIENCE, self.client.clone().status(request)).await;
        self.unpack(answer)
    }

    fn unpack<T>(
        &self,
        answer: Result<Result<tonic::Response<T>, tonic::Status>, tokio::time::error::Elapsed>,
    ) -> Result<T, AdminError> {
        let unreachable = |reason: String| AdminError::Unreachable {
            socket: self.socket.clone(),
            reason,
        };
        match answer {
            Ok(Ok(response)) => Ok(response.into_inner()),
            // A status that the control plane sent itself has no source.
            Ok(Err(status)) if status.code() == tonic::Code::Unavailable && status.source().is_some() => {
                Err(unreachable(cause(&status)))
            }
            Ok(Err(status)) => Err(AdminError::Refused(status.message().to_owned())),
            Err(_) => Err(unreachable(format!("no answer within {} s", PATIENCE.as_secs()))),
        }
    }
}

/// The innermost error: the outer ones say "transport error".
fn cause(status: &tonic::Status) -> String {
    let mut error: &dyn std::error::Error = status;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
