//! Watchword as `watchword up` runs it: a service that calls, one that is
//! called, and a sidecar for each, with interception and policies.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use watchword_benches::held::Held;
use watchword_benches::kernel::sidecar;
use watchword_tests::{Mesh, MeshFile, run};

use crate::contenders::Contender;
use crate::hold;
use crate::load::{Load, Log, PATH, Seen};
use crate::network::{Cores, SYSCTLS, Side};
use crate::server::{self, CURL, HTTP_PORT, TCP_PORT};

/// Connections on the one port, requests on the other.
const POLICY: &str = "\
name: server
service: spiffe://example.org/server
allow:
  - name: the client calls
    from: [spiffe://example.org/client]
    ports: [8080]
  - name: the client reads orders
    from: [spiffe://example.org/client]
    ports: [8081]
    http: [{methods: [GET], paths: [/orders/*]}]
";

/// The mesh, running.
pub(crate) struct Sidecars {
    mesh: Mesh,
    cores: Cores,
    log: Log,
    /// A copy of ours, which programs that run as somebody else may run.
    program: PathBuf,
    /// The client's and the server's.
    pids: [i64; 2],
    /// The server's address, as the client's programs see it.
    address: String,
}

impl Sidecars {
    /// With so many rules for the server, two of which matter.
    pub(crate) fn start(cores: Cores, rules: usize) -> Result<Self> {
        let server = cores.list(Side::Server);
        let services = format!(
            "client: {{run: [sleep, infinity]}}\n\
             server: {{run: [taskset, --cpu-list, '{server}', nginx, -e, stderr, -p, nginx, -c, nginx.conf], \
             ports: {{{TCP_PORT}: tcp, {HTTP_PORT}: http}}, healthy: {{port: {TCP_PORT}}}}}"
        );
        let file = MeshFile::new(&services, &policies(rules))?.log("warn");
        server::folder(file.folder())?;
        let log = Log::new(file.folder())?;
        let program = file.folder().join("hop");
        fs::copy(std::env::current_exe()?, &program)?;
        let mesh = file.up()?;
        let pids = [sidecar(&mesh, "client")?, sidecar(&mesh, "server")?];
        for (pid, side) in pids.iter().zip([Side::Client, Side::Server]) {
            let mut move_to = Command::new("taskset");
            move_to.args(["--all-tasks", "--cpu-list", "--pid", cores.list(side), &pid.to_string()]);
            run(&mut move_to)?;
            run(&mut mesh.in_network_of(*pid, &SYSCTLS))?;
        }
        let hosts = mesh.exec_ok("client", &["getent", "ahostsv4", "server"])?;
        let address = hosts
            .split_whitespace()
            .next()
            .context("the server has an IPv4 address")?;
        Ok(Self {
            address: address.to_owned(),
            mesh,
            cores,
            log,
            program,
            pids,
        })
    }

    /// A load of the client, to its end.
    pub(crate) fn load(&self, contender: Contender, load: Load) -> Result<Seen> {
        let port = if contender == Contender::WatchwordHttp {
            HTTP_PORT
        } else {
            TCP_PORT
        };
        self.log.make(load, &format!("{}:{port}", self.address), |words| {
            let mut command = self.cores.command(Side::Client).to_vec();
            command.extend(words.iter().map(String::as_str));
            self.mesh.exec_ok("client", &command)
        })
    }

    /// Opens so many connections, which stay open.
    pub(crate) fn hold(&self, count: usize) -> Result<Held> {
        let (program, count) = (self.program.display().to_string(), count.to_string());
        let dials = format!("{}:{TCP_PORT}", self.address);
        let mut words = self.cores.command(Side::Client).to_vec();
        words.extend([&program, hold::COMMAND, &count, &dials]);
        Held::open(&mut self.mesh.exec_command("client", &words)?).with_context(|| self.mesh.output().text())
    }

    /// Processes of the client's and the server's sidecar.
    pub(crate) fn pids(&self) -> [i64; 2] {
        self.pids
    }

    /// Whether the rules deny what they do not allow.
    pub(crate) fn check(&self) -> Result<()> {
        let status = |method: &str, port: u16, path: &str| {
            let url = format!("http://server:{port}{path}");
            let asks = ["--request", method, &url];
            self.mesh.exec_ok("client", &[&CURL[..], &asks].concat())
        };
        ensure!(status("GET", TCP_PORT, PATH)? == "200", "the client may not connect");
        ensure!(status("GET", HTTP_PORT, PATH)? == "200", "GET is not allowed");
        ensure!(status("POST", HTTP_PORT, PATH)? == "403", "POST is not denied");
        ensure!(
            status("GET", HTTP_PORT, "/others/1")? == "403",
            "another path is not denied"
        );
        Ok(())
    }
}

/// So many rules, of which those that matter come last.
fn policies(rules: usize) -> String {
    let mut text = String::new();
    for number in 2..rules {
        let _ = writeln!(
            text,
            "  - {{name: 'other {number}', from: [spiffe://example.org/other/{number}], ports: [{TCP_PORT}]}}"
        );
    }
    if text.is_empty() {
        return POLICY.to_owned();
    }
    format!("name: others\nservice: spiffe://example.org/server\nallow:\n{text}---\n{POLICY}")
}
