//! Calls of the control plane's Identity service, and how they fail.

use std::time::Duration;

use thiserror::Error;
use watchword_daemon::explain;
use watchword_identity::{BundleError, SvidError};
use watchword_mtls::{ControlClient, PublishError, VerifyError};
use watchword_proto::InvalidMessage;
use watchword_proto::control::IdentityClient;

use super::channel::ControlPlane;
use super::token::TokenError;

/// For an answer: longer than the control plane gives itself (22 s), which
/// withholds certificates of a new root until proxies know it. To give up
/// before would lose what was signed. A control plane that is gone is noticed
/// sooner, by keepalives.
const ISSUE_DEADLINE: Duration = Duration::from_secs(25);

/// Longest answer: a chain, and the bundle.
const MAX_ANSWER: usize = 1024 * 1024;

/// Why there is no new certificate this time.
#[derive(Debug, Error)]
pub(crate) enum ObtainError {
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("the trust bundle {file} can't be used: {problem}")]
    BundleFile { file: String, problem: String },
    #[error("{0}")]
    Reach(String),
    #[error("the control plane refused ({0:?}): {1}")]
    Refused(tonic::Code, String),
    #[error("the control plane's answer is not usable: {0}")]
    Answer(String),
    #[error("a key or request can't be made: {0}")]
    Key(#[from] rcgen::Error),
    #[error(transparent)]
    Publish(#[from] PublishError),
}

impl From<SvidError> for ObtainError {
    fn from(error: SvidError) -> Self {
        Self::Answer(error.to_string())
    }
}

impl From<InvalidMessage> for ObtainError {
    fn from(error: InvalidMessage) -> Self {
        Self::Answer(error.to_string())
    }
}

impl From<BundleError> for ObtainError {
    fn from(error: BundleError) -> Self {
        Self::Answer(error.to_string())
    }
}

impl From<tonic::Status> for ObtainError {
    fn from(status: tonic::Status) -> Self {
        Self::Refused(status.code(), status.message().to_owned())
    }
}

impl ObtainError {
    /// Whether a call was overtaken by our own renewal: it may be made again at
    /// once.
    pub(crate) fn is_overtaken(&self) -> bool {
        matches!(self, Self::Refused(tonic::Code::Aborted, _))
    }

    /// Whether the control plane has decided against it.
    pub(crate) fn is_denial(&self) -> bool {
        matches!(self, Self::Refused(tonic::Code::PermissionDenied, _))
    }

    /// Whether nothing but another join token can help, once there is no
    /// certificate to renew.
    pub(crate) fn wants_token(&self) -> bool {
        use tonic::Code;
        match self {
            Self::Token(_) => true,
            Self::Refused(code, _) => matches!(code, Code::PermissionDenied | Code::Unauthenticated),
            _ => false,
        }
    }
}

impl From<VerifyError> for ObtainError {
    fn from(error: VerifyError) -> Self {
        Self::Answer(error.to_string())
    }
}

impl ControlPlane {
    /// A new connection for one call.
    pub(crate) async fn identity_client(
        &self,
        client: ControlClient,
    ) -> Result<IdentityClient<tonic::transport::Channel>, ObtainError> {
        let channel = self
            .connect(client, ISSUE_DEADLINE)
            .await
            .map_err(|error| ObtainError::Reach(explain(&error)))?;
        Ok(IdentityClient::new(channel).max_decoding_message_size(MAX_ANSWER))
    }
}
