//! The other contenders as pairs of proxies in namespaces of our own, the
//! server behind them, and the way that leaves proxies out.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use watchword_benches::held::Held;
use watchword_tests::{tool, wait_until};

use crate::certificates;
use crate::contenders::Contender;
use crate::hold;
use crate::load::{Load, Log, PATH, Seen};
use crate::network::{Cores, FLOOR_PORT, Network, Program, REDIRECTED_TO, Side};
use crate::server::{self, HTTP_PORT, TCP_PORT};

/// A kind of proxies: a client's and a server's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    EnvoyTcp,
    EnvoyHttp,
    Haproxy,
    Nginx,
    Floor,
    Redirected,
    Least,
    Shared,
    Encrypted,
}

impl Kind {
    fn of(contender: Contender) -> Option<Self> {
        match contender {
            Contender::Envoy => Some(Self::EnvoyTcp),
            Contender::EnvoyHttp1 | Contender::EnvoyHttp2 | Contender::EnvoyHalf => Some(Self::EnvoyHttp),
            Contender::Haproxy => Some(Self::Haproxy),
            Contender::Nginx => Some(Self::Nginx),
            Contender::Floor => Some(Self::Floor),
            Contender::Redirected => Some(Self::Redirected),
            Contender::Least => Some(Self::Least),
            Contender::Shared => Some(Self::Shared),
            Contender::Encrypted => Some(Self::Encrypted),
            Contender::Watchword | Contender::WatchwordHttp | Contender::Plain => None,
        }
    }

    /// The name of its configuration files, and both of them.
    fn configs(self) -> (&'static str, [&'static str; 2]) {
        match self {
            Self::EnvoyTcp => (
                "envoy-tcp.yaml",
                [
                    include_str!("configs/envoy-tcp-client.yaml"),
                    include_str!("configs/envoy-tcp-server.yaml"),
                ],
            ),
            Self::EnvoyHttp => (
                "envoy-http.yaml",
                [
                    include_str!("configs/envoy-http-client.yaml"),
                    include_str!("configs/envoy-http-server.yaml"),
                ],
            ),
            Self::Haproxy => (
                "haproxy.cfg",
                [
                    include_str!("configs/haproxy-client.cfg"),
                    include_str!("configs/haproxy-server.cfg"),
                ],
            ),
            Self::Nginx => (
                "nginx.conf",
                [
                    include_str!("configs/nginx-client.conf"),
                    include_str!("configs/nginx-server.conf"),
                ],
            ),
            Self::Least => (
                "least",
                [
                    "client own 127.0.0.1:15025 198.18.7.2:15036 {folder}",
                    "server own 198.18.7.2:15037 127.0.0.1:8080 {folder}",
                ],
            ),
            Self::Shared => (
                "shared",
                [
                    "client shared 127.0.0.1:15026 198.18.7.2:15038 {folder}",
                    "server shared 198.18.7.2:15039 127.0.0.1:8080 {folder}",
                ],
            ),
            Self::Encrypted => (
                "encrypted",
                [
                    "client encrypted 127.0.0.1:15027 198.18.7.2:15040 {folder}",
                    "server encrypted 198.18.7.2:15041 127.0.0.1:8080 {folder}",
                ],
            ),
            Self::Floor | Self::Redirected => (
                "floor.cfg",
                [
                    include_str!("configs/floor-client.cfg"),
                    include_str!("configs/floor-server.cfg"),
                ],
            ),
        }
    }

    /// What runs a configuration.
    fn command(self, folder: &str, config: &str) -> Result<Vec<String>> {
        let words: Vec<&str> = match self {
            Self::EnvoyTcp | Self::EnvoyHttp => {
                let program = tool("envoy")?.display().to_string();
                let options = [
                    "--config-path",
                    config,
                    "--concurrency",
                    "1",
                    "--use-dynamic-base-id",
                    "--log-level",
                    "warn",
                ];
                let words = [program].into_iter().chain(options.map(str::to_owned));
                return Ok(words.collect());
            }
            Self::Haproxy | Self::Floor | Self::Redirected => vec!["haproxy", "-db", "-f", config],
            Self::Least | Self::Shared | Self::Encrypted => {
                let program = std::env::current_exe()?.display().to_string();
                let text = fs::read_to_string(config)?;
                let words = [program, crate::least::COMMAND.to_owned()].into_iter();
                return Ok(words.chain(text.split(' ').map(str::to_owned)).collect());
            }
            Self::Nginx => vec!["nginx", "-e", "stderr", "-p", folder, "-c", config],
        };
        Ok(words.into_iter().map(str::to_owned).collect())
    }
}

/// Where the client's side takes calls, or the server itself.
fn dials(contender: Contender) -> &'static str {
    match contender {
        Contender::EnvoyHttp1 => "127.0.0.1:15011",
        Contender::EnvoyHttp2 => "127.0.0.1:15012",
        Contender::EnvoyHalf => "127.0.0.1:15013",
        Contender::Envoy => "127.0.0.1:15021",
        Contender::Haproxy => "127.0.0.1:15022",
        Contender::Nginx => "127.0.0.1:15023",
        Contender::Floor => "127.0.0.1:15024",
        Contender::Redirected => "198.18.8.2:8080",
        Contender::Least => "198.18.8.2:8082",
        Contender::Shared => "198.18.8.2:8083",
        Contender::Encrypted => "198.18.8.2:8084",
        Contender::Watchword | Contender::WatchwordHttp | Contender::Plain => "198.18.7.2:8080",
    }
}

/// All of them, running. Fields end in their order.
pub(crate) struct Pairs {
    contenders: Vec<Contender>,
    programs: BTreeMap<Kind, [Program; 2]>,
    server: Program,
    network: Network,
    log: Log,
    folder: TempDir,
}

impl Pairs {
    pub(crate) fn start(cores: Cores, contenders: &[Contender]) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("watchword-hop-").tempdir()?;
        certificates::write(folder.path(), ["client", "server"])?;
        let network = Network::new(cores)?;
        if contenders.iter().any(|contender| contender.is_redirected()) {
            network.redirect()?;
        }
        let own = server::folder(folder.path())?.display().to_string();
        let server = network.start(Side::Server, &["nginx", "-e", "stderr", "-p", &own, "-c", "nginx.conf"])?;
        let mut programs = BTreeMap::new();
        for kind in contenders.iter().filter_map(|contender| Kind::of(*contender)) {
            if let Entry::Vacant(entry) = programs.entry(kind) {
                entry.insert(start_pair(&network, kind, folder.path())?);
            }
        }
        let pairs = Self {
            contenders: contenders.to_vec(),
            programs,
            server,
            network,
            log: Log::new(folder.path())?,
            folder,
        };
        pairs.wait().with_context(|| pairs.said())?;
        Ok(pairs)
    }

    /// What all programs said.
    fn said(&self) -> String {
        let programs = self.programs.values().flatten();
        let said: Vec<_> = programs.chain([&self.server]).map(Program::said).collect();
        said.join("\n")
    }

    fn wait(&self) -> Result<()> {
        wait_until("the server to answer", || {
            self.status(Contender::Plain, "GET", PATH)
                .is_ok_and(|status| status == "200")
        })?;
        for contender in &self.contenders {
            wait_until(&format!("{} to be ready", contender.name()), || {
                self.status(*contender, "GET", PATH).is_ok_and(|status| status == "200")
            })?;
        }
        Ok(())
    }

    pub(crate) fn load(&self, contender: Contender, load: Load) -> Result<Seen> {
        let made = self.log.make(load, dials(contender), |words| {
            let words: Vec<_> = words.iter().map(String::as_str).collect();
            self.network.run(Side::Client, &words)
        });
        made.with_context(|| self.said())
    }

    /// Opens so many connections, which stay open.
    pub(crate) fn hold(&self, contender: Contender, count: usize) -> Result<Held> {
        let (program, count) = (std::env::current_exe()?.display().to_string(), count.to_string());
        let words = [&program, hold::COMMAND, &count, dials(contender)];
        Held::open(&mut self.network.command(Side::Client, &words)).with_context(|| self.said())
    }

    /// Processes of the client's and the server's side.
    pub(crate) fn pids(&self, contender: Contender) -> Result<Option<[i64; 2]>> {
        let Some(kind) = Kind::of(contender) else {
            return Ok(None);
        };
        let [client, server] = self.programs.get(&kind).context("it was not started")?;
        Ok(Some([client.pid(), server.pid()]))
    }

    /// Whether they are what they say: rules deny what they do not allow, TLS
    /// is 1.3 alone, and the forms are what their names are.
    pub(crate) fn check(&self) -> Result<()> {
        for contender in &self.contenders {
            let status = |method: &str, path: &str| self.status(*contender, method, path);
            ensure!(
                status("GET", PATH)? == "200",
                "{}: GET is not allowed",
                contender.name()
            );
            if Kind::of(*contender) == Some(Kind::EnvoyHttp) {
                self.check_http(*contender)?;
            }
        }
        self.check_envoy_tcp()?;
        self.check_strangers()
    }

    fn check_http(&self, contender: Contender) -> Result<()> {
        let status = |method: &str, path: &str| self.status(contender, method, path);
        ensure!(status("POST", PATH)? == "403", "{contender:?}: POST is not denied");
        ensure!(
            status("GET", "/others/1")? == "403",
            "{contender:?}: another path is not denied"
        );
        let cluster = match contender {
            Contender::EnvoyHttp1 => "http1",
            Contender::EnvoyHttp2 => "http2",
            _ => "tcp",
        };
        let all = self.check_tls(9901, cluster)?;
        let http2 = self.count(
            Side::Client,
            9901,
            &format!("cluster.{cluster}.upstream_cx_http2_total"),
        )?;
        let expected = if contender == Contender::EnvoyHttp2 { all } else { 0 };
        ensure!(http2 == expected, "{contender:?}: {http2} of {all} are HTTP/2");
        Ok(())
    }

    fn check_envoy_tcp(&self) -> Result<()> {
        if self.programs.contains_key(&Kind::EnvoyTcp) {
            self.check_tls(9902, "server")?;
        }
        Ok(())
    }

    /// How many connections Envoy made, all of them TLS 1.3; but for those that
    /// it tried before the other side listened.
    fn check_tls(&self, admin: u16, cluster: &str) -> Result<u64> {
        let count = |name: &str| self.count(Side::Client, admin, &format!("cluster.{cluster}.{name}"));
        let all = count("upstream_cx_total")?.saturating_sub(count("upstream_cx_connect_fail")?);
        let new = count("ssl.versions.TLSv1.3")?;
        ensure!(
            all > 0 && all == new,
            "{cluster}: {new} of {all} connections are TLS 1.3"
        );
        Ok(all)
    }

    /// Who has no certificate, or speaks TLS 1.2, is not served by any; who has
    /// another's, by none that can tell.
    fn check_strangers(&self) -> Result<()> {
        let file = |name: &str| self.folder.path().join(name).display().to_string();
        let (certificate, key) = (file("client.pem"), file("client-key.pem"));
        let (other, other_key) = (file("server.pem"), file("server-key.pem"));
        for (kind, port) in [
            (Kind::EnvoyHttp, 15006),
            (Kind::EnvoyTcp, 15031),
            (Kind::Haproxy, 15032),
            (Kind::Nginx, 15033),
        ] {
            if !self.programs.contains_key(&kind) {
                continue;
            }
            let url = format!("https://198.18.7.2:{port}{PATH}");
            let asks = |options: &[&str]| {
                let words = [options, &["--insecure", "--http1.1", &url]].concat();
                self.curl(&words).is_ok_and(|status| status == "200")
            };
            let ours = ["--cert", &certificate, "--key", &key];
            ensure!(asks(&ours), "{kind:?}: the client's certificate is not served");
            ensure!(!asks(&[]), "{kind:?}: a caller without a certificate is served");
            let is_other_served = asks(&["--cert", &other, "--key", &other_key]);
            ensure!(
                kind == Kind::Nginx || !is_other_served,
                "{kind:?}: another caller is served"
            );
            let old = [&ours[..], &["--tls-max", "1.2"]].concat();
            ensure!(!asks(&old), "{kind:?}: TLS 1.2 is served");
        }
        Ok(())
    }

    /// A counter of Envoy's; 0 when it does not have it yet.
    fn count(&self, side: Side, admin: u16, name: &str) -> Result<u64> {
        let url = format!("http://127.0.0.1:{admin}/stats?filter=^{name}$");
        let command = ["curl", "--silent", "--fail", "--max-time", "20", "--noproxy", "*", &url];
        let page = self.network.run(side, &command)?;
        let value = page
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        Ok(value.unwrap_or("0").trim().parse()?)
    }

    /// The status of an answer to a call from the client's side.
    fn status(&self, contender: Contender, method: &str, path: &str) -> Result<String> {
        let url = format!("http://{}{path}", dials(contender));
        self.curl(&["--request", method, &url])
    }

    fn curl(&self, words: &[&str]) -> Result<String> {
        let mut command = server::CURL.to_vec();
        command.extend(words);
        self.network.run(Side::Client, &command)
    }
}

fn start_pair(network: &Network, kind: Kind, folder: &Path) -> Result<[Program; 2]> {
    let start = |side: Side, config: &str, text: &str| -> Result<Program> {
        let file = folder.join(config);
        let mut text = text.replace("{folder}", &folder.display().to_string());
        if (kind, side) == (Kind::Redirected, Side::Server) {
            // Where its client dials, nobody listens.
            text = text.replace(FLOOR_PORT, REDIRECTED_TO);
        }
        if kind == Kind::Nginx {
            text = text.replace("{module}", &stream_module()?.display().to_string());
        }
        fs::write(&file, text)?;
        let command = kind.command(&folder.display().to_string(), &file.display().to_string())?;
        let words: Vec<_> = command.iter().map(String::as_str).collect();
        network.start(side, &words)
    };
    let (name, [client, server]) = kind.configs();
    let server = start(Side::Server, &format!("server-{name}"), server)?;
    let client = start(Side::Client, &format!("client-{name}"), client)?;
    Ok([client, server])
}

/// nginx finds its modules below its prefix, which is ours here.
fn stream_module() -> Result<PathBuf> {
    let folders = [
        "/usr/lib/nginx/modules",
        "/usr/lib64/nginx/modules",
        "/etc/nginx/modules",
    ];
    let files = folders.map(|folder| Path::new(folder).join("ngx_stream_module.so"));
    let found = files.into_iter().find(|file| file.is_file());
    found.context("nginx has no module for streams: install libnginx-mod-stream")
}

const _: () = assert!(TCP_PORT == 8080 && HTTP_PORT == 8081, "as the configurations have it");
