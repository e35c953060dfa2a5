//! Asks a sidecar on its admin socket: HTTP/1.1, JSON.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

const PATIENCE: Duration = Duration::from_secs(2);
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// Why a sidecar gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SidecarError {
    /// Nobody listens there.
    #[error("not running ({0})")]
    Unreachable(std::io::Error),
    /// It hung up, or sent what is no HTTP.
    #[error("broken answer: {0}")]
    Broken(String),
    /// No answer in time.
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Slow,
}

/// `GET /certs`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, serde::Serialize)]
pub(crate) struct Certificate {
    /// Its own SPIFFE ID.
    pub(crate) spiffe_id: String,
    /// Lower-case hexadecimal.
    pub(crate) serial: String,
    /// Unix seconds.
    pub(crate) not_after: u64,
    /// Grows with each renewal.
    pub(crate) generation: u64,
    /// Base64 of DER, leaf first.
    #[serde(default)]
    pub(crate) chain: Vec<String>,
    /// Why there is no newer one, while that was tried in vain.
    #[serde(default)]
    pub(crate) renewal_trouble: Option<String>,
}

/// `GET /canary`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Canary {
    /// What its port 15099 answers with.
    pub(crate) instance: String,
}

/// `GET /connections`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, serde::Serialize)]
pub(crate) struct Connections {
    /// How many are live.
    pub(crate) active: u64,
    /// The last one that a policy refused.
    pub(crate) last_denial: Option<Denial>,
}

/// A refused connection.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, serde::Serialize)]
pub(crate) struct Denial {
    /// When, as the sidecar writes it: Unix seconds, or text.
    pub(crate) time: serde_json::Value,
    /// `inbound` or `outbound`.
    pub(crate) direction: String,
    /// The other side's SPIFFE ID.
    pub(crate) peer: Option<String>,
    /// Its address: of the caller, or as it was dialled.
    #[serde(default)]
    pub(crate) address: Option<std::net::IpAddr>,
    /// The service's port.
    pub(crate) port: u16,
    /// Method and path, where it was a request.
    #[serde(default)]
    pub(crate) request: Option<String>,
    /// The policy that decided.
    pub(crate) policy: Option<String>,
    /// Its rule.
    pub(crate) rule: Option<String>,
    /// Why.
    pub(crate) reason: String,
    /// It passed, since only audit policies would have denied it.
    #[serde(default)]
    pub(crate) audit: bool,
}

/// Gets `path` and reads it as JSON.
pub(crate) async fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T, SidecarError> {
    let (status, body) = fetch(socket, path).await?;
    if status != StatusCode::OK {
        return Err(SidecarError::Broken(format!("{path} has status {status}")));
    }
    serde_json::from_slice(&body).map_err(|error| SidecarError::Broken(format!("{path}: {error}")))
}

/// The sum over all labels of a number among its metrics, where one appears when
/// it is first counted.
pub(crate) async fn metric(socket: &Path, name: &str) -> Result<u64, SidecarError> {
    let (status, body) = fetch(socket, "/metrics").await?;
    if status != StatusCode::OK {
        return Err(SidecarError::Broken(format!("/metrics has status {status}")));
    }
    Ok(sum_of(&String::from_utf8_lossy(&body), name))
}

/// In Prometheus' text format.
fn sum_of(text: &str, name: &str) -> u64 {
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = match rest.split_once('}') {
            Some((labels, value)) if labels.starts_with('{') => value,
            _ => rest.strip_prefix(' ')?,
        };
        value.trim().parse::<u64>().ok()
    });
    values.fold(0, u64::saturating_add)
}

/// `Ok(None)` when the sidecar is ready, `Ok(Some(reason))` when it is not.
pub(crate) async fn unready(socket: &Path) -> Result<Option<String>, SidecarError> {
    let (status, body) = fetch(socket, "/readyz").await?;
    Ok((status != StatusCode::OK).then(|| String::from_utf8_lossy(&body).trim().to_owned()))
}

async fn fetch(socket: &Path, path: &str) -> Result<(StatusCode, Bytes), SidecarError> {
    tokio::time::timeout(PATIENCE, exchange(socket, path))
        .await
        .map_err(|_| SidecarError::Slow)?
}

async fn exchange(socket: &Path, path: &str) -> Result<(StatusCode, Bytes), SidecarError> {
    let broken = |error: &dyn std::fmt::Display| SidecarError::Broken(error.to_string());
    let stream = UnixStream::connect(socket).await.map_err(SidecarError::Unreachable)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broken(&error))?;
    let request = Request::get(path)
        .header(http::header::HOST, "sidecar")
        .body(Empty::<Bytes>::new())
        .map_err(|error| broken(&error))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await
            .map_err(|error| broken(&error))?;
        Ok((status, body.to_bytes()))
    };
    // The connection must be driven while the answer is read, and no longer.
    tokio::pin!(answer, connection);
    tokio::select! {
        biased;
        result = &mut answer => result,
        result = &mut connection => match result {
            Ok(()) => answer.await,
            Err(error) => Err(broken(&error)),
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixListener;

    use super::*;

    async fn answer_once(answer: &'static str) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("proxy-admin.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 512];
            let _ = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        (folder, socket)
    }

    #[tokio::test]
    async fn a_certificate_is_read() {
        let body = r#"{"spiffe_id":"spiffe://a/b","serial":"0f","not_after":5,"generation":2}"#;
        let text = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let (_folder, socket) = answer_once(Box::leak(text.into_boxed_str())).await;
        let found: Certificate = get(&socket, "/certs").await.unwrap();
        assert_eq!((found.generation, found.not_after), (2, 5));
    }

    #[test]
    fn a_metric_is_summed_over_its_labels() {
        let text = "# TYPE a gauge\na{x=\"1\"} 2\na{x=\"2\"} 3\nab 5\nb 7\n";
        assert_eq!([sum_of(text, "a"), sum_of(text, "b"), sum_of(text, "c")], [5, 7, 0]);
    }

    #[tokio::test]
    async fn not_ready_comes_with_its_reason() {
        let (_folder, socket) =
            answer_once("HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\n\r\nno identity yet\n").await;
        assert_eq!(unready(&socket).await.unwrap(), Some("no identity yet".to_owned()));
    }

    #[tokio::test]
    async fn a_sidecar_that_is_gone_or_talks_nonsense_is_an_error() {
        let missing = unready(Path::new("/nonexistent/sock")).await.unwrap_err();
        assert!(matches!(missing, SidecarError::Unreachable(_)));
        let (_folder, socket) = answer_once("SSH-2.0-nonsense\r\n").await;
        assert!(matches!(unready(&socket).await.unwrap_err(), SidecarError::Broken(_)));
    }
}
