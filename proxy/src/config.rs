//! The proxy's configuration file: YAML, unknown keys refused, read once.

mod interception;
mod workload_api;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;
use watchword_identity::SpiffeId;

pub use self::interception::{
    APP_MARK, DialFrom, Family, Interception, LOCAL_MARK, LoopProtection, PROXY_MARK, PROXY_UID, Scope,
};
pub use self::workload_api::{User, WorkloadApi, WorkloadCaller};
pub use crate::address::Address;

/// A daemon's sockets on a machine and in a pod.
const DEFAULT_RUN_DIR: &str = "/run/watchword";
/// `/livez`, `/readyz` and `/metrics`.
const DEFAULT_HEALTH_PORT: u16 = 15020;

/// Why a configuration can't be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("{file}: {problem}")]
    Read {
        /// Which file.
        file: String,
        /// The system's word for it.
        problem: std::io::Error,
    },
    /// The text is not a configuration.
    #[error("{file}:{line}:{column}: {problem}")]
    Parse {
        /// Which file.
        file: String,
        /// From 1.
        line: u64,
        /// From 1.
        column: u64,
        /// What is wrong there.
        problem: String,
    },
    /// Something that this version does not do.
    #[error("{file}: {problem}")]
    Unsupported {
        /// Which file.
        file: String,
        /// What, and what to do instead.
        problem: String,
    },
}

/// The whole file.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// Where certificates and snapshots come from.
    pub control_plane: ControlPlane,
    /// How to show the control plane what we are.
    pub attestation: Attestation,
    /// What to capture.
    #[serde(default)]
    pub interception: Interception,
    /// What this proxy is for.
    #[serde(default)]
    pub role: Role,
    /// Threads that carry traffic.
    #[serde(default = "one")]
    pub workers: u16,
    /// The folder of `proxy-admin.sock`.
    #[serde(default = "default_run_dir")]
    pub run_dir: PathBuf,
    /// Where `/livez`, `/readyz` and `/metrics` are served by TCP; by default
    /// port 15020 of every address.
    pub health_listen: Option<SocketAddr>,
    /// How long open connections may go on after the wish to stop.
    #[serde(default = "default_drain")]
    pub drain_seconds: u16,
    /// Where spans go; nowhere by default.
    pub tracing: Option<Tracing>,
    /// How what is outside of the mesh is reached; by default from here.
    pub egress: Option<Egress>,
    /// Who may have an identity by the workload socket; by default nobody, and
    /// there is no such socket.
    pub workload_api: Option<WorkloadApi>,
}

/// How what is outside of the mesh is reached.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Egress {
    /// unix:/PATH: a helper in a network that has a way there dials.
    pub gateway: Address,
}

/// Where spans go, and how many.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tracing {
    /// HOST:PORT, or unix:/PATH, of an OpenTelemetry collector: OTLP by gRPC,
    /// in plaintext.
    pub address: Address,
    /// The share of traces that begin here and are recorded, 0 to 1.
    #[serde(default = "one_percent")]
    pub sample_ratio: f64,
}

/// Where certificates and snapshots come from.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ControlPlane {
    /// HOST:PORT, or unix:/PATH.
    pub address: Address,
    /// Who must answer there.
    pub id: SpiffeIdText,
    /// PEM: the roots that its certificate must lead to.
    pub bundle_file: PathBuf,
}

/// A SPIFFE ID in a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct SpiffeIdText(pub SpiffeId);

impl TryFrom<String> for SpiffeIdText {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        SpiffeId::new(&text)
            .map(Self)
            .map_err(|error| format!("{text:?} is not a SPIFFE ID: {error}"))
    }
}

/// How to show the control plane what we are.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Attestation {
    /// A join token; `-` reads one line from standard input.
    pub token_file: Option<PathBuf>,
    /// Not yet.
    pub service_account_token_file: Option<PathBuf>,
    /// Not yet.
    pub unix: Option<bool>,
}

/// What this proxy is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// Beside one workload, whose traffic it captures.
    #[default]
    Sidecar,
    /// Beside programs that do their own TLS: it captures nothing, and serves
    /// the workload socket.
    Agent,
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// With file, line and column where there is one.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|problem| ConfigError::Read {
            file: file.clone(),
            problem,
        })?;
        Self::parse(&file, &text)
    }

    /// Checks a text; `file` names it in errors.
    ///
    /// # Errors
    /// With line and column where there is one.
    pub fn parse(file: &str, text: &str) -> Result<Self, ConfigError> {
        let config: Self = serde_saphyr::from_str(text).map_err(|error| {
            let (line, column) = error.location().map_or((1, 1), |at| (at.line(), at.column()));
            ConfigError::Parse {
                file: file.into(),
                line,
                column,
                problem: error.without_snippet().to_string(),
            }
        })?;
        config.check().map_err(|problem| ConfigError::Unsupported {
            file: file.into(),
            problem,
        })?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        if self.role == Role::Agent && self.workload_api.is_none() {
            return Err("role: agent serves the workload socket alone: say who may use it, under `workloadApi`".into());
        }
        if self.role == Role::Agent && self.interception != Interception::default() {
            return Err("role: agent captures nothing: leave `interception` out".into());
        }
        if let Some(Egress {
            gateway: Address::Tcp(address),
        }) = &self.egress
        {
            return Err(format!(
                "egress: gateway: {address}: expected unix:/PATH, where `watchword-proxy gateway` serves"
            ));
        }
        if let Some(api) = &self.workload_api {
            api.check()?;
        }
        if self.attestation.service_account_token_file.is_some() || self.attestation.unix.is_some() {
            return Err("attestation: only `tokenFile` is supported by this version yet".into());
        }
        if self.attestation.token_file.is_none() {
            return Err(
                "attestation: `tokenFile` is missing; make a token with `watchword token create --id ID`".into(),
            );
        }
        if !(1..=64).contains(&self.workers) {
            return Err(format!("workers: {} is not between 1 and 64", self.workers));
        }
        if let Some(ratio) = self.tracing.as_ref().map(|tracing| tracing.sample_ratio)
            && !(0.0..=1.0).contains(&ratio)
        {
            return Err(format!("tracing: sampleRatio: {ratio} is not between 0 and 1"));
        }
        Ok(())
    }

    /// Where the SPIFFE Workload API and SDS are served.
    pub fn workload_socket(&self) -> Option<PathBuf> {
        let api = self.workload_api.as_ref()?;
        let default = || self.run_dir.join("workload.sock");
        Some(api.socket.clone().unwrap_or_else(default))
    }

    /// Where health pages are served by TCP.
    pub fn health_listen(&self) -> SocketAddr {
        self.health_listen
            .unwrap_or_else(|| (std::net::Ipv6Addr::UNSPECIFIED, DEFAULT_HEALTH_PORT).into())
    }
}

fn one() -> u16 {
    1
}

fn one_percent() -> f64 {
    0.01
}

/// Below the 30 s that Kubernetes leaves a pod to end.
fn default_drain() -> u16 {
    25
}

fn default_run_dir() -> PathBuf {
    DEFAULT_RUN_DIR.into()
}

#[cfg(test)]
mod tests;
