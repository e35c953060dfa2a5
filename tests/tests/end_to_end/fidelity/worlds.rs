//! Where a conversation takes place: two network namespaces joined by a wire,
//! or a mesh.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use watchword_tests::{Mesh, MeshFile, binary, is_root, run, wait_until};

use crate::strangers::replica;

/// Each has a server of its own.
pub(crate) const PORTS: [u16; 8] = [7000, 7001, 7002, 7003, 7004, 7005, 7006, 7007];
/// Nobody listens there.
pub(crate) const CLOSED_PORT: u16 = 7008;

/// The two sides of a conversation; `pair` counts from 0.
pub(crate) trait World: Sync {
    /// The program on the caller's side.
    fn caller(&self, pair: usize, arguments: &[&str]) -> Command;
    /// The program on the server's side.
    fn server(&self, pair: usize, arguments: &[&str]) -> Command;
    /// The server's address for the caller.
    fn address(&self, pair: usize) -> String;
    /// A command with every right in the server's network.
    fn in_servers_network(&self, pair: usize, command: &[&str]) -> Command;
}

fn peer() -> PathBuf {
    binary("watchword-peer").unwrap()
}

/// No mesh: a namespace each for callers and servers.
pub(crate) struct Plain {
    callers: Child,
    servers: Child,
}

const SERVER: &str = "192.0.2.2";

impl Plain {
    pub(crate) fn new() -> Self {
        let callers = if is_root() {
            hold(Command::new("unshare").arg("--net"))
        } else {
            hold(Command::new("unshare").args(["--user", "--map-root-user", "--net"]))
        };
        // In the same user namespace, so that a wire may lead from one to the other.
        let servers = hold(enter(callers.id(), is_root()).args(["unshare", "--net"]));
        let plain = Self { callers, servers };
        let wire = format!(
            "link add wire type veth peer name wire netns {}\naddr add 192.0.2.1/24 dev wire\nlink set wire up\nlink set lo up\n",
            plain.servers.id()
        );
        plain.ip(plain.callers.id(), &wire);
        plain.ip(
            plain.servers.id(),
            &format!("addr add {SERVER}/24 dev wire\nlink set wire up\nlink set lo up\n"),
        );
        plain
    }

    fn ip(&self, pid: u32, batch: &str) {
        for line in batch.lines() {
            let mut command = self.enter(pid);
            run(command.arg("ip").args(line.split(' '))).unwrap();
        }
    }

    fn enter(&self, pid: u32) -> Command {
        let mut command = enter(pid, is_root());
        command.stdin(Stdio::null());
        command
    }
}

/// nsenter into a holder's namespaces.
fn enter(pid: u32, as_root: bool) -> Command {
    let mut command = Command::new("nsenter");
    if !as_root {
        command.args(["--user", "--preserve-credentials"]);
    }
    command.args(["--net", "--target", &pid.to_string(), "--"]);
    command
}

/// A process that keeps its new namespaces alive, once it is in them.
fn hold(command: &mut Command) -> Child {
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let ours = namespace("self");
    let child = command
        .args(["sleep", "infinity"])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("the namespace of a plain network", || {
        let name = std::fs::read_to_string(format!("/proc/{}/comm", child.id()));
        name.is_ok_and(|name| name == "sleep\n") && namespace(&child.id().to_string()) != ours
    })
    .unwrap();
    child
}

impl Drop for Plain {
    fn drop(&mut self) {
        for holder in [&mut self.callers, &mut self.servers] {
            let _ = holder.kill();
            let _ = holder.wait();
        }
    }
}

impl World for Plain {
    fn caller(&self, _: usize, arguments: &[&str]) -> Command {
        let mut command = self.enter(self.callers.id());
        command.arg(peer()).args(arguments);
        command
    }

    fn server(&self, _: usize, arguments: &[&str]) -> Command {
        let mut command = self.enter(self.servers.id());
        command.arg(peer()).args(arguments);
        command
    }

    fn address(&self, _: usize) -> String {
        SERVER.to_owned()
    }

    fn in_servers_network(&self, _: usize, command: &[&str]) -> Command {
        let mut enter = self.enter(self.servers.id());
        enter.args(command);
        enter
    }
}

/// A mesh with so many replicas of `web`, which calls, and of `orders`, which
/// is called.
pub(crate) fn mesh(pairs: usize) -> Mesh {
    let ports: String = (PORTS[0]..=CLOSED_PORT).map(|port| format!("{port}: tcp, ")).collect();
    let services = format!(
        "web: {{run: [sleep, infinity], replicas: {pairs}}}\n\
         orders: {{run: [sleep, infinity], replicas: {pairs}, ports: {{{ports}}}}}\n"
    );
    let policies = "name: orders\nservice: spiffe://example.org/orders\nallow:\n  - from: [spiffe://example.org/web]\n";
    let file = MeshFile::new(&services, policies).unwrap();
    // Apps run as somebody else, who may not see the folder that we were built into.
    std::fs::copy(peer(), file.folder().join("watchword-peer")).unwrap();
    file.up().unwrap()
}

fn in_replica(mesh: &Mesh, name: &str, arguments: &[&str]) -> Command {
    let program = mesh.file().folder().join("watchword-peer");
    let mut command = vec![program.to_str().unwrap()];
    command.extend(arguments);
    mesh.exec_command(name, &command).unwrap()
}

impl World for Mesh {
    fn caller(&self, pair: usize, arguments: &[&str]) -> Command {
        in_replica(self, &format!("web-{}", pair + 1), arguments)
    }

    fn server(&self, pair: usize, arguments: &[&str]) -> Command {
        in_replica(self, &format!("orders-{}", pair + 1), arguments)
    }

    fn address(&self, pair: usize) -> String {
        let replica = replica(self, &format!("orders-{}", pair + 1));
        replica["addresses"][0].as_str().unwrap().to_owned()
    }

    fn in_servers_network(&self, pair: usize, command: &[&str]) -> Command {
        let replica = replica(self, &format!("orders-{}", pair + 1));
        self.in_network_of(replica["holderPid"].as_i64().unwrap(), command)
    }
}

fn filter(world: &dyn World, pair: usize, rules: &str) {
    run(&mut world.in_servers_network(pair, &["nft", rules])).unwrap();
}

/// Nothing reaches the server's machine any more, and nothing leaves it.
pub(crate) fn fall_silent(world: &dyn World, pair: usize) {
    let rules = "add table inet gone; add chain inet gone in { type filter hook input priority -300; }; \
        add chain inet gone out { type filter hook postrouting priority 300; }; \
        add rule inet gone in iifname != lo drop; add rule inet gone out oifname != lo drop";
    filter(world, pair, rules);
}

/// The server's machine can't be reached, and says so.
pub(crate) fn refuse(world: &dyn World, pair: usize) {
    let rules = "add table inet gone; add chain inet gone in { type filter hook input priority -300; }; \
        add rule inet gone in iifname != lo reject with icmpx type host-unreachable";
    filter(world, pair, rules);
}

/// As before [`fall_silent`].
pub(crate) fn recover(world: &dyn World, pair: usize) {
    filter(world, pair, "delete table inet gone");
}
