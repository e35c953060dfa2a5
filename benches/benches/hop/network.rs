//! Two network namespaces of our own, joined by a switch, and programs in them.
//!
//! Invariant: nothing outlives its value, and the kernel ends all programs
//! with us. The namespaces have no names: they go with the last program.

use std::fs;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use watchword_tests::{Output, is_root, run, wait_until};

/// One side or the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// Which cores the programs of a side run on. Where the kernel wakes a program
/// on another core, whoever woke it pays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cores {
    /// One for each side, as if they were two machines.
    Apart,
    /// One for all: nobody is ever woken on another one.
    One,
    /// As the kernel likes.
    Free,
}

impl Cores {
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        [Self::Apart, Self::One, Self::Free]
            .into_iter()
            .find(|cores| cores.name() == name)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Apart => "apart",
            Self::One => "one",
            Self::Free => "free",
        }
    }

    /// The command that starts others on a side's cores.
    pub(crate) fn command(self, side: Side) -> [&'static str; 3] {
        ["taskset", "--cpu-list", self.list(side)]
    }

    /// As taskset wants it.
    pub(crate) fn list(self, side: Side) -> &'static str {
        match (self, side) {
            (Self::Apart, Side::Client) => "0",
            (Self::Apart, Side::Server) | (Self::One, _) => "1",
            // It takes those that there are.
            (Self::Free, _) => "0-1023",
        }
    }
}

/// Makes room in a network of ours for the ports of many short connections: a
/// machine that makes so many would have it as well. And nobody paces what goes
/// through memory, be it a contender or a service of `watchword up`.
pub(crate) const SYSCTLS: [&str; 5] = [
    "sysctl",
    "--quiet",
    "net.ipv4.ip_local_port_range=16384 65535",
    "net.ipv4.tcp_tw_reuse=1",
    "net.ipv4.tcp_congestion_control=reno",
];

/// The switch of `watchword up` has these where the machine knows them.
const SWITCH_SYSCTLS: [&str; 3] = [
    "net.bridge.bridge-nf-call-iptables=0",
    "net.bridge.bridge-nf-call-ip6tables=0",
    "net.bridge.bridge-nf-call-arptables=0",
];

/// What the floor's client dials, and where that goes with [`Network::redirect`].
pub(crate) const FLOOR_PORT: &str = "15034";
pub(crate) const REDIRECTED_TO: &str = "15035";

/// A program. Dropped, it is ended.
pub(crate) struct Program {
    child: Child,
    output: Output,
}

impl Program {
    /// The command runs as a process of its own, which ends with us.
    fn start(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("{command:?}"))?;
        let output = Output::of(&mut child);
        Ok(Self { child, output })
    }

    /// Its process.
    pub(crate) fn pid(&self) -> i64 {
        i64::from(self.child.id())
    }

    /// What it said.
    pub(crate) fn said(&self) -> String {
        self.output.text()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The namespaces, each held by a program that sleeps. Between them is a bridge
/// in a namespace of its own, as `watchword up` has it: what the network costs
/// is the same for all.
pub(crate) struct Network {
    cores: Cores,
    client: Program,
    server: Program,
    _switch: Program,
}

impl Network {
    /// The client's side has 198.18.7.1, the server's 198.18.7.2 (RFC 2544:
    /// addresses for benchmarks).
    pub(crate) fn new(cores: Cores) -> Result<Self> {
        let client = hold(None)?;
        let server = hold(Some(&client))?;
        let switch = hold(Some(&client))?;
        run(enter(&switch)
            .args(["sysctl", "--quiet", "--ignore"])
            .args(SWITCH_SYSCTLS))?;
        ip_in(&switch, "link add switch type bridge mcast_snooping 0")?;
        ip_in(&switch, "link set switch up")?;
        let sides = [
            ("client", &client, "198.18.7.1/30"),
            ("server", &server, "198.18.7.2/30"),
        ];
        for (name, holder, address) in sides {
            ip_in(holder, "link set lo up")?;
            ip_in(
                holder,
                &format!("link add hop type veth peer name {name} netns {}", switch.pid()),
            )?;
            ip_in(&switch, &format!("link set {name} master switch up"))?;
            ip_in(holder, "link set hop up")?;
            ip_in(holder, &format!("address add {address} dev hop"))?;
            run(enter(holder).args(SYSCTLS))?;
        }
        Ok(Self {
            cores,
            client,
            server,
            _switch: switch,
        })
    }

    /// Sends what the client calls at 198.18.8.2 to the floor there, and what the
    /// floor's client calls to the one at the server, by the rules that a sidecar
    /// has for it: but for those that keep other traffic in.
    pub(crate) fn redirect(&self) -> Result<()> {
        self.run(Side::Client, &["ip", "route", "add", "198.18.8.2", "dev", "hop"])?;
        let outbound = "add table inet hop; \
            add chain inet hop outbound { type nat hook output priority -100; }; \
            add rule inet hop outbound ip daddr 198.18.8.2 tcp dport 8080 redirect to :15024; \
            add rule inet hop outbound ip daddr 198.18.8.2 tcp dport 8082 redirect to :15025; \
            add rule inet hop outbound ip daddr 198.18.8.2 tcp dport 8083 redirect to :15026; \
            add rule inet hop outbound ip daddr 198.18.8.2 tcp dport 8084 redirect to :15027";
        let inbound = format!(
            "add table inet hop; \
            add chain inet hop to_the_app {{ type filter hook output priority raw; }}; \
            add rule inet hop to_the_app oif lo notrack; \
            add chain inet hop inbound {{ type nat hook prerouting priority dstnat; }}; \
            add rule inet hop inbound tcp dport {FLOOR_PORT} redirect to :{REDIRECTED_TO}; \
            add rule inet hop inbound tcp dport 15036 redirect to :15037; \
            add rule inet hop inbound tcp dport 15038 redirect to :15039; \
            add rule inet hop inbound tcp dport 15040 redirect to :15041"
        );
        self.run(Side::Client, &["nft", outbound])?;
        self.run(Side::Server, &["nft", &inbound])?;
        Ok(())
    }

    /// Starts a program on a side.
    pub(crate) fn start(&self, side: Side, command: &[&str]) -> Result<Program> {
        Program::start(
            self.command(side, &["setpriv", "--pdeathsig", "KILL", "--"])
                .args(command),
        )
    }

    /// Runs a command on a side to its end.
    pub(crate) fn run(&self, side: Side, command: &[&str]) -> Result<String> {
        run(&mut self.command(side, command))
    }

    /// A command on a side, to be run by the caller. In a session of its own, as
    /// `watchword up` and `exec` have it: the scheduler treats each as a group
    /// (sched(7), autogroups), as it does services of systemd and containers.
    pub(crate) fn command(&self, side: Side, words: &[&str]) -> Command {
        let mut command = enter(match side {
            Side::Client => &self.client,
            Side::Server => &self.server,
        });
        command.args(self.cores.command(side)).arg("setsid").args(words);
        command
    }
}

/// The beginning of a command in a holder's namespace.
fn enter(holder: &Program) -> Command {
    let mut enter = Command::new("nsenter");
    enter
        .args(enter_user())
        .args(["--net", "--target", &holder.pid().to_string(), "--"]);
    enter
}

fn ip_in(holder: &Program, words: &str) -> Result<()> {
    run(enter(holder).arg("ip").args(words.split(' '))).map(|_| ())
}

/// A new namespace, as long as the program runs. An ordinary user gets the
/// rights that it takes by a user namespace, which the second one shares.
fn hold(first: Option<&Program>) -> Result<Program> {
    let mut unshare = Command::new("setpriv");
    unshare.args(["--pdeathsig", "KILL", "--"]);
    if let Some(first) = first.filter(|_| !is_root()) {
        unshare.arg("nsenter").args(enter_user());
        unshare.args(["--target", &first.pid().to_string(), "--"]);
    }
    unshare.args(["unshare", "--net"]);
    if first.is_none() && !is_root() {
        unshare.args(["--user", "--map-root-user"]);
    }
    unshare.args(["sleep", "infinity"]);
    let holder = Program::start(&mut unshare)?;
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net"));
    let ours = namespace("self")?;
    let pid = holder.pid().to_string();
    wait_until("a network namespace", || {
        namespace(&pid).is_ok_and(|theirs| theirs != ours)
    })?;
    Ok(holder)
}

fn enter_user() -> &'static [&'static str] {
    if is_root() {
        &[]
    } else {
        &["--user", "--preserve-credentials"]
    }
}
