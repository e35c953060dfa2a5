//! Watchword as `watchword up` runs it: a service that calls, one that is
//! called, and a sidecar for each, with interception.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use watchword_benches::kernel::{cpu_of, sidecar};
use watchword_tests::{Mesh, MeshFile, run};

use crate::load::{Load, Log, Seen, URL};
use crate::network::{Cores, Side};
use crate::pair::nginx_folder;

/// What the rule says of HTTP, as the end of the policy file. Envoy's rule says
/// the same.
pub(crate) const HTTP_RULE: &str = "    http: [{methods: [GET], paths: [/orders/*]}]\n";

const POLICY: &str = "\
name: server
service: spiffe://example.org/server
allow:
  - name: the client reads orders
    from: [spiffe://example.org/client]
    ports: [8080]
";

/// The mesh, running.
pub(crate) struct Sidecars {
    mesh: Mesh,
    cores: Cores,
    log: Log,
    /// The client's and the server's.
    pids: [i64; 2],
    /// The server's address, as the client's programs see it.
    dials: String,
}

impl Sidecars {
    pub(crate) fn start(cores: Cores) -> Result<Self> {
        let server = cores.list(Side::Server);
        let services = format!(
            "client: {{run: [sleep, infinity]}}\n\
             server: {{run: [taskset, --cpu-list, '{server}', nginx, -e, stderr, -p, nginx, -c, nginx.conf], \
             ports: {{8080: http}}, healthy: {{port: 8080}}}}"
        );
        let file = MeshFile::new(&services, &format!("{POLICY}{HTTP_RULE}"))?.log("warn");
        nginx_folder(file.folder())?;
        let log = Log::new(file.folder())?;
        let mesh = file.up()?;
        let pids = [sidecar(&mesh, "client")?, sidecar(&mesh, "server")?];
        for (pid, side) in pids.iter().zip([Side::Client, Side::Server]) {
            let mut move_to = Command::new("taskset");
            move_to.args(["--all-tasks", "--cpu-list", "--pid", cores.list(side), &pid.to_string()]);
            run(&mut move_to)?;
        }
        let hosts = mesh.exec_ok("client", &["getent", "ahostsv4", "server"])?;
        let address = hosts
            .split_whitespace()
            .next()
            .context("the server has an IPv4 address")?;
        let dials = format!("{address}:8080");
        Ok(Self {
            mesh,
            cores,
            log,
            pids,
            dials,
        })
    }

    /// A load of the client, to its end.
    pub(crate) fn load(&self, load: Load) -> Result<Seen> {
        let command = self.log.command(load, &self.dials);
        let mut words = self.cores.command(Side::Client).to_vec();
        words.extend(command.iter().map(String::as_str));
        let said = self.mesh.exec_ok("client", &words)?;
        self.log.seen(load, &said)
    }

    /// Seconds of CPU of the client's and the server's sidecar.
    pub(crate) fn cpu(&self) -> Result<[f64; 2]> {
        let [client, server] = self.pids;
        Ok([cpu_of(client)?, cpu_of(server)?])
    }

    /// Whether the rule denies what it does not allow.
    pub(crate) fn check(&self) -> Result<()> {
        let status = |method: &str, url: &str| {
            let command = ["curl", "--silent", "--show-error", "--max-time", "20", "--noproxy", "*"];
            let asks = [
                "--output",
                "/dev/null",
                "--write-out",
                "%{http_code}",
                "--request",
                method,
                url,
            ];
            self.mesh.exec_ok("client", &[&command[..], &asks].concat())
        };
        ensure!(status("GET", URL)? == "200", "GET is not allowed");
        ensure!(status("POST", URL)? == "403", "POST is not denied");
        let elsewhere = URL.replace("/orders/", "/others/");
        ensure!(status("GET", &elsewhere)? == "403", "another path is not denied");
        Ok(())
    }
}
