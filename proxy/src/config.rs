//! The proxy's configuration file: YAML, unknown keys refused, read once.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::Deserialize;
use thiserror::Error;
use watchword_identity::SpiffeId;

pub use crate::address::Address;

/// A daemon's sockets on a machine and in a pod.
const DEFAULT_RUN_DIR: &str = "/run/watchword";
/// `/livez`, `/readyz` and `/metrics`.
const DEFAULT_HEALTH_PORT: u16 = 15020;
/// The uid that the sidecar runs under where it has one of its own.
pub const PROXY_UID: u32 = 1337;
/// The mark on the sidecar's own packets: "WW" and a number.
pub const PROXY_MARK: u32 = 0x5757_0001;
/// The mark on what goes to the app from its caller's address, and on the
/// app's answers. Neither this nor [`LOCAL_MARK`] lets anything leave the
/// namespace: an accepted socket has its caller's mark, and is the app's.
pub const APP_MARK: u32 = 0x5757_0002;
/// The mark on what goes to the app from an address of this namespace.
pub const LOCAL_MARK: u32 = 0x5757_0003;

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

/// The socket of the SPIFFE Workload API and Envoy's SDS.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadApi {
    /// By default `workload.sock` in `runDir`.
    pub socket: Option<PathBuf>,
    /// Who gets what.
    pub callers: Vec<WorkloadCaller>,
}

/// A user that may have an identity.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadCaller {
    /// Who it must be when it connects.
    pub uid: User,
    /// By default the proxy's own. For another one, the control plane's
    /// registry must name this proxy as its agent.
    pub id: Option<SpiffeIdText>,
}

/// Users of this machine, as the kernel tells them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// Whoever can open the socket: in a pod, whose containers it is shown to.
    Any,
    /// This one.
    Uid(u32),
}

impl<'de> Deserialize<'de> for User {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "any" => Ok(Self::Any),
            number => number
                .parse()
                .map(Self::Uid)
                .map_err(|_| serde::de::Error::custom(format!("{text:?} is neither a uid nor `any`"))),
        }
    }
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

impl WorkloadApi {
    fn check(&self) -> Result<(), String> {
        if self.callers.is_empty() {
            return Err("workloadApi: `callers` is empty: nobody could use the socket".into());
        }
        let is_again = |(index, caller): (usize, &WorkloadCaller)| self.callers.iter().take(index).any(|c| c == caller);
        if let Some((_, twice)) = self.callers.iter().enumerate().find(|entry| is_again(*entry)) {
            return Err(format!("workloadApi: `callers` names {twice:?} twice"));
        }
        Ok(())
    }
}

/// What to capture.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Interception {
    /// Which of a network namespace's connections are captured.
    pub scope: Option<Scope>,
    /// How the sidecar's own connections are told from the app's.
    #[serde(default)]
    pub loop_protection: LoopProtection,
    /// The app's ports that stay as they are.
    #[serde(default)]
    pub exclude_inbound_ports: Vec<u16>,
    /// Remote ports that are reached directly.
    #[serde(default)]
    pub exclude_outbound_ports: Vec<u16>,
    /// Remote addresses that are reached directly.
    #[serde(default)]
    pub exclude_outbound_ranges: Vec<IpNet>,
    /// Where the app sees calls come from; by default what `loop_protection`
    /// can have.
    pub dial_from: Option<DialFrom>,
    /// By which families somebody outside dials port 15099 each minute: while
    /// nobody does, the sidecar is not ready.
    #[serde(default)]
    pub canary: Vec<Family>,
}

impl Interception {
    /// Where the app sees calls come from.
    pub fn dial_from(&self) -> DialFrom {
        self.dial_from.unwrap_or(match self.loop_protection {
            LoopProtection::Mark => DialFrom::Client,
            LoopProtection::Uid => DialFrom::Reserved,
        })
    }
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Family {
    /// That of an address.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        })
    }
}

/// Where the app sees calls come from (docs/decisions/0007-dialling-the-app.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DialFrom {
    /// The caller's address, as without us: needs CAP_NET_ADMIN at run time.
    Client,
    /// Addresses that nobody has: neither loopback nor the workload's own.
    Reserved,
    /// The workload's own address.
    Own,
}

/// Which of a network namespace's connections are captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Scope {
    /// All: the namespace is the workload's alone, as in a pod.
    Namespace,
}

/// How the sidecar's own connections are told from the app's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LoopProtection {
    /// By the uid that it runs under.
    #[default]
    Uid,
    /// By a mark on its packets: where there is only one uid, or where the
    /// app might run under any.
    Mark,
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
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SMALLEST: &str = "controlPlane: {address: 'unix:/run/watchword/control.sock', \
        id: 'spiffe://example.org/watchword/control-plane', bundleFile: /run/watchword/bundle.pem}\n\
        attestation: {tokenFile: '-'}\n";

    #[test]
    fn the_smallest_file_is_enough() {
        let config = Config::parse("proxy.yaml", SMALLEST).unwrap();
        assert_eq!(config.workers, 1);
        assert_eq!(config.health_listen().port(), 15020);
        assert_eq!(config.interception.loop_protection, LoopProtection::Uid);
    }

    #[test]
    fn the_app_is_dialled_from_where_the_right_is_there() {
        let dial_from = |keys: &str| {
            let text = format!("{SMALLEST}interception: {{{keys}}}\n");
            Config::parse("proxy.yaml", &text).unwrap().interception.dial_from()
        };
        assert_eq!(dial_from(""), DialFrom::Reserved);
        assert_eq!(dial_from("loopProtection: mark"), DialFrom::Client);
        assert_eq!(dial_from("loopProtection: mark, dialFrom: own"), DialFrom::Own);
    }

    #[test]
    fn the_example_in_deploy_is_valid() {
        let text = include_str!("../../deploy/proxy.yaml");
        let config = Config::parse("deploy/proxy.yaml", text).unwrap();
        assert!(config.tracing.is_some());
        assert_eq!(
            config.workload_socket(),
            Some("/run/watchword/workload.sock".into()),
            "it shows every section"
        );
        assert_eq!(config.workload_api.unwrap().callers.len(), 2);
    }

    fn with(lines: &str) -> Config {
        Config::parse("proxy.yaml", &format!("{SMALLEST}{lines}")).unwrap()
    }

    #[test]
    fn there_is_a_workload_socket_only_for_somebody_and_in_the_run_folder_unless_told_otherwise() {
        let table = [
            ("", None),
            ("runDir: /tmp/x\n", None),
            (
                "workloadApi: {callers: [{uid: 7}]}\n",
                Some("/run/watchword/workload.sock"),
            ),
            (
                "workloadApi: {callers: [{uid: 7}]}\nrunDir: /tmp/x\n",
                Some("/tmp/x/workload.sock"),
            ),
            (
                "workloadApi: {callers: [{uid: 7}], socket: /run/w/api.sock}\nrunDir: /tmp/x\n",
                Some("/run/w/api.sock"),
            ),
        ];
        for (lines, expected) in table {
            assert_eq!(with(lines).workload_socket(), expected.map(PathBuf::from), "{lines}");
        }
    }

    #[test]
    fn callers_are_any_user_or_one_with_the_proxys_id_or_another() {
        let caller = |uid, id: Option<&str>| WorkloadCaller {
            uid,
            id: id.map(|id| SpiffeIdText(SpiffeId::new(id).unwrap())),
        };
        let web = "spiffe://example.org/web";
        let table = [
            ("uid: any", caller(User::Any, None)),
            ("uid: 0", caller(User::Uid(0), None)),
            ("uid: 4294967294", caller(User::Uid(u32::MAX - 1), None)),
            ("uid: '1000'", caller(User::Uid(1000), None)),
            (
                "uid: 1000, id: 'spiffe://example.org/web'",
                caller(User::Uid(1000), Some(web)),
            ),
        ];
        for (keys, expected) in table {
            let config = with(&format!("workloadApi: {{callers: [{{{keys}}}]}}\n"));
            assert_eq!(config.workload_api.unwrap().callers, [expected], "{keys}");
        }
        // One user may have several.
        let several = "workloadApi: {callers: [{uid: 7}, {uid: 7, id: 'spiffe://td/a'}, {uid: any}]}\n";
        assert_eq!(with(several).workload_api.unwrap().callers.len(), 3);
    }

    #[test]
    fn an_agent_needs_callers_and_nothing_to_capture() {
        assert_eq!(with("").role, Role::Sidecar);
        assert_eq!(
            with("role: sidecar\ninterception: {scope: namespace}\n").role,
            Role::Sidecar
        );
        let agent = with("role: agent\nworkloadApi: {callers: [{uid: any}]}\n");
        assert_eq!(agent.role, Role::Agent);
    }

    #[test]
    fn the_agent_in_deploy_is_valid() {
        let text = include_str!("../../deploy/agent.yaml");
        let config = Config::parse("deploy/agent.yaml", text).unwrap();
        assert_eq!(config.role, Role::Agent);
        assert_eq!(config.workload_socket(), Some("/run/watchword/workload.sock".into()));
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        let table = [
            ("wrkers: 2\n", "proxy.yaml:3:1: "),
            ("workers: 0\n", "proxy.yaml: workers: 0 is not between 1 and 64"),
            ("workers: many\n", "proxy.yaml:3:10: "),
            (
                "role: agent\n",
                "proxy.yaml: role: agent serves the workload socket alone",
            ),
            (
                "role: agent\nworkloadApi: {callers: [{uid: 7}]}\ninterception: {scope: namespace}\n",
                "proxy.yaml: role: agent captures nothing",
            ),
            (
                "workloadApi: {callers: []}\n",
                "proxy.yaml: workloadApi: `callers` is empty",
            ),
            ("workloadApi: {}\n", "proxy.yaml:3:"),
            ("workloadApi: {callers: [{}]}\n", "proxy.yaml:3:"),
            ("workloadApi: {callers: [{id: 'spiffe://td/a'}]}\n", "proxy.yaml:3:"),
            ("workloadApi: {callers: [{uid: 7, gid: 7}]}\n", "proxy.yaml:3:34: "),
            ("workloadApi: {callers: [{uid: 7}], path: /x}\n", "proxy.yaml:3:36: "),
            ("workloadApi: {callers: [{uid: 4294967296}]}\n", "proxy.yaml:3:31: "),
            ("workloadApi: {callers: [{uid: Any}]}\n", "proxy.yaml:3:31: "),
            ("role: gateway\n", "proxy.yaml:3:7: "),
            ("workloadApi: {callers: [{uid: nobody}]}\n", "proxy.yaml:3:31: "),
            ("workloadApi: {callers: [{uid: -1}]}\n", "proxy.yaml:3:31: "),
            ("workloadApi: {callers: [{uid: 7, id: web}]}\n", "proxy.yaml:3:38: "),
            (
                "workloadApi: {callers: [{uid: 7}, {uid: 7}]}\n",
                "proxy.yaml: workloadApi: `callers` names",
            ),
            ("interception: {excludeOutboundRanges: [10/99]}\n", "proxy.yaml:3:"),
            ("interception: {dialFrom: 127.0.0.6}\n", "proxy.yaml:3:"),
            ("tracing: {}\n", "proxy.yaml:3:"),
            ("tracing: {address: 'unix:otel.sock'}\n", "proxy.yaml:3:20: "),
            ("tracing: {address: 'otel:4317', ratio: 1}\n", "proxy.yaml:3:33: "),
            (
                "tracing: {address: 'otel:4317', sampleRatio: 1.01}\n",
                "proxy.yaml: tracing: sampleRatio: 1.01 is not between 0 and 1",
            ),
            (
                "tracing: {address: 'otel:4317', sampleRatio: .nan}\n",
                "proxy.yaml: tracing: sampleRatio: NaN is not between 0 and 1",
            ),
        ];
        for (line, expected) in table {
            let error = Config::parse("proxy.yaml", &format!("{SMALLEST}{line}"))
                .unwrap_err()
                .to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn one_trace_in_a_hundred_is_recorded_unless_somebody_says_otherwise() {
        let tracing = |keys: &str| {
            let text = format!("{SMALLEST}tracing: {{address: 'unix:/run/otel.sock'{keys}}}\n");
            Config::parse("proxy.yaml", &text).unwrap().tracing.unwrap()
        };
        assert_eq!(tracing("").address, Address::Unix("/run/otel.sock".into()));
        let ratios =
            ["", ", sampleRatio: 0", ", sampleRatio: 1", ", sampleRatio: 0.5"].map(|keys| tracing(keys).sample_ratio);
        assert_eq!(ratios, [0.01, 0.0, 1.0, 0.5]);
        assert!(Config::parse("proxy.yaml", SMALLEST).unwrap().tracing.is_none());
    }
}
