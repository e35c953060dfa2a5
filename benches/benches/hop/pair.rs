//! Envoy as a pair of proxies in namespaces of our own, the server behind it,
//! and the way that leaves both proxies out.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use watchword_benches::kernel::cpu_of;
use watchword_tests::{tool, wait_until};

use crate::certificates;
use crate::load::{Load, Log, Seen, URL};
use crate::network::{Cores, Network, Program, Side};

const NGINX: &str = include_str!("nginx.conf");
const CLIENT: &str = include_str!("envoy-client.yaml");
const SERVER: &str = include_str!("envoy-server.yaml");
/// The server itself, with nothing between.
const PLAIN: &str = "198.18.7.2:8080";

/// What is said between both Envoys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Http1,
    Http2,
    /// HTTP/1.1, which the client's side does not look into.
    Tcp,
}

impl Form {
    /// Where the client's side takes calls for it.
    fn listener(self) -> &'static str {
        match self {
            Self::Http1 => "127.0.0.1:15011",
            Self::Http2 => "127.0.0.1:15012",
            Self::Tcp => "127.0.0.1:15013",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Tcp => "tcp",
        }
    }
}

/// All of it, running. Fields end in their order.
pub(crate) struct Pair {
    client: Program,
    server: Program,
    nginx: Program,
    network: Network,
    log: Log,
    _folder: TempDir,
}

impl Pair {
    pub(crate) fn start(cores: Cores) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("watchword-hop-").tempdir()?;
        certificates::write(folder.path(), ["client", "server"])?;
        let network = Network::new(cores)?;
        let nginx = start_nginx(&network, folder.path())?;
        let server = start_envoy(&network, Side::Server, folder.path())?;
        let client = start_envoy(&network, Side::Client, folder.path())?;
        let pair = Self {
            client,
            server,
            nginx,
            network,
            log: Log::new(folder.path())?,
            _folder: folder,
        };
        pair.wait().with_context(|| {
            let said = [&pair.nginx, &pair.server, &pair.client].map(Program::said);
            said.join("\n")
        })?;
        Ok(pair)
    }

    fn wait(&self) -> Result<()> {
        wait_until("nginx to answer", || {
            self.curl(&["--connect-to", &format!("::{PLAIN}"), URL])
                .is_ok_and(|status| status == "200")
        })?;
        for side in [Side::Server, Side::Client] {
            wait_until("Envoy to be ready", || {
                self.ask(side, "/ready").is_ok_and(|text| text.trim() == "LIVE")
            })?;
        }
        Ok(())
    }

    /// A load on a form of Envoy, or on the server itself.
    pub(crate) fn load(&self, form: Option<Form>, load: Load) -> Result<Seen> {
        let command = self.log.command(load, form.map_or(PLAIN, Form::listener));
        let words: Vec<_> = command.iter().map(String::as_str).collect();
        let said = self.network.run(Side::Client, &words)?;
        self.log.seen(load, &said)
    }

    /// Seconds of CPU of the client's and the server's side.
    pub(crate) fn cpu(&self) -> Result<[f64; 2]> {
        Ok([cpu_of(self.client.pid())?, cpu_of(self.server.pid())?])
    }

    /// Whether it is what it says: the rule denies what it does not allow,
    /// TLS is 1.3 alone, and the forms are what their names are.
    pub(crate) fn check(&self) -> Result<()> {
        for form in [Form::Http1, Form::Http2, Form::Tcp] {
            let to = format!("::{}", form.listener());
            let status = |method: &str, url: &str| self.curl(&["--request", method, "--connect-to", &to, url]);
            ensure!(status("GET", URL)? == "200", "{form:?}: GET is not allowed");
            ensure!(status("POST", URL)? == "403", "{form:?}: POST is not denied");
            let elsewhere = URL.replace("/orders/", "/others/");
            ensure!(
                status("GET", &elsewhere)? == "403",
                "{form:?}: another path is not denied"
            );
            let count = |name: &str| self.count(Side::Client, &format!("cluster.{}.{name}", form.name()));
            let (all, new) = (count("upstream_cx_total")?, count("ssl.versions.TLSv1.3")?);
            ensure!(
                all > 0 && all == new,
                "{form:?}: {new} of {all} connections are TLS 1.3"
            );
            let http2 = count("upstream_cx_http2_total")?;
            ensure!(
                http2 == if form == Form::Http2 { all } else { 0 },
                "{form:?}: {http2} of {all} are HTTP/2"
            );
        }
        let plain = self.count(Side::Server, "listener.198.18.7.2_15006.no_certificate")?;
        ensure!(plain == 0, "{plain} callers had no certificate");
        Ok(())
    }

    /// A counter of Envoy's; 0 when it does not have it yet.
    fn count(&self, side: Side, name: &str) -> Result<u64> {
        let page = self.ask(side, &format!("/stats?filter=^{name}$"))?;
        let value = page
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        Ok(value.unwrap_or("0").trim().parse()?)
    }

    fn ask(&self, side: Side, path: &str) -> Result<String> {
        let url = format!("http://127.0.0.1:9901{path}");
        self.network.run(
            side,
            &["curl", "--silent", "--fail", "--max-time", "20", "--noproxy", "*", &url],
        )
    }

    /// The status of an answer to a call from the client's side.
    fn curl(&self, words: &[&str]) -> Result<String> {
        let mut command = vec!["curl", "--silent", "--show-error", "--max-time", "20", "--noproxy", "*"];
        command.extend(["--output", "/dev/null", "--write-out", "%{http_code}"]);
        command.extend(words);
        self.network.run(Side::Client, &command)
    }
}

/// The folder that nginx works in, with its configuration.
pub(crate) fn nginx_folder(folder: &Path) -> Result<std::path::PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let own = folder.join("nginx");
    fs::create_dir(&own)?;
    // In a mesh it runs as somebody else.
    fs::set_permissions(&own, fs::Permissions::from_mode(0o777))?;
    fs::write(own.join("nginx.conf"), NGINX)?;
    Ok(own)
}

fn start_nginx(network: &Network, folder: &Path) -> Result<Program> {
    let own = nginx_folder(folder)?.display().to_string();
    network.start(Side::Server, &["nginx", "-e", "stderr", "-p", &own, "-c", "nginx.conf"])
}

fn start_envoy(network: &Network, side: Side, folder: &Path) -> Result<Program> {
    let (name, template) = match side {
        Side::Client => ("envoy-client.yaml", CLIENT),
        Side::Server => ("envoy-server.yaml", SERVER),
    };
    let file = folder.join(name);
    fs::write(&file, template.replace("{folder}", &folder.display().to_string()))?;
    let (program, file) = (tool("envoy")?.display().to_string(), file.display().to_string());
    let command = [
        &program,
        "--config-path",
        &file,
        "--concurrency",
        "1",
        "--use-dynamic-base-id",
        "--log-level",
        "warn",
    ];
    network.start(side, &command)
}
