//! Where sidecars send the spans of requests, as the mesh file says it.

use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};
use watchword_daemon::MAX_SOCKET_PATH;
use watchword_policy::diagnostic::Report;
use watchword_policy::document::Node;

use super::read::optional;

const KEYS: &[&str] = &["address", "sampleRatio"];

/// For the sidecars of `watchword up`; the control plane takes no notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracing {
    /// The collector.
    pub address: CollectorAddress,
    /// The share of traces that begin in the mesh and are recorded; the
    /// sidecar's default where it is missing.
    pub sample_ratio: Option<SampleRatio>,
}

/// Where a collector takes OTLP by gRPC, in plaintext.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CollectorAddress {
    /// HOST:PORT.
    Tcp(String),
    /// A Unix socket.
    Unix(PathBuf),
}

/// From 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampleRatio(f64);

/// It is never NaN.
impl Eq for SampleRatio {}

impl Tracing {
    /// As a sidecar's configuration has it.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let address = match &self.address {
            CollectorAddress::Tcp(address) => address.clone(),
            CollectorAddress::Unix(path) => format!("unix:{}", path.display()),
        };
        match self.sample_ratio {
            Some(SampleRatio(ratio)) => json!({"address": address, "sampleRatio": ratio}),
            None => json!({"address": address}),
        }
    }
}

pub(super) fn read(node: &Node, base: &Path, report: &mut Report) -> Option<Tracing> {
    let fields = node.fields("`tracing`", KEYS, report)?;
    let address = fields
        .required(
            "address",
            "the OpenTelemetry collector's, such as unix:otel.sock",
            report,
        )
        .and_then(|node| read_address(node, base, report));
    let sample_ratio = optional(&fields, "sampleRatio", report, read_ratio);
    Some(Tracing {
        address: address?,
        sample_ratio: sample_ratio?,
    })
}

fn read_address(node: &Node, base: &Path, report: &mut Report) -> Option<CollectorAddress> {
    let expected = "unix:PATH or HOST:PORT, where a collector takes OTLP by gRPC";
    let text = node.text(expected, report)?;
    let Some(path) = text.strip_prefix("unix:") else {
        let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
        let complete = text
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && !host.contains('/') && is_port(port));
        if !complete {
            node.mismatch(expected, report);
        }
        return complete.then(|| CollectorAddress::Tcp(text.to_owned()));
    };
    if path.is_empty() || path.contains('\0') {
        node.mismatch(expected, report);
        return None;
    }
    let path: PathBuf = base.join(path).components().collect();
    let length = path.as_os_str().len();
    if length > MAX_SOCKET_PATH {
        let message = format!(
            "the path `{}` has {length} bytes, and a Unix socket's may have {MAX_SOCKET_PATH}",
            path.display()
        );
        report.error(node.at, message);
        return None;
    }
    Some(CollectorAddress::Unix(path))
}

fn read_ratio(node: &Node, report: &mut Report) -> Option<SampleRatio> {
    let expected = "a number from 0 to 1, such as 0.01";
    let text = node.scalar(expected, report)?;
    let ratio = text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    if ratio.is_none() {
        node.mismatch(expected, report);
    }
    ratio.map(SampleRatio)
}
