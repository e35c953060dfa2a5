//! The workload socket: who gets what by it, and what bad callers can't do.

mod bad_calls;
mod callers;
mod many;

use std::process::{Child, Command, Stdio};

use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use watchword_tests::{Agent, Mesh, MeshFile, Output, tool};

const REGISTRY: &str = "\
certificates: {ttl: 6s}
registry:
  - {id: spiffe://example.org/host}
  - {id: spiffe://example.org/batch, agents: [spiffe://example.org/host]}
  - {id: spiffe://example.org/elsewhere}
";
const POLICIES: &str = "name: web\nservice: spiffe://example.org/web\nallow: []\n";

/// A mesh whose control plane agents can come to.
fn mesh() -> Mesh {
    let services = "web: {run: [sleep, infinity]}\n";
    MeshFile::with(REGISTRY, services, POLICIES).unwrap().up().unwrap()
}

/// An agent for whoever runs this test.
fn agent(mesh: &Mesh, ids: &[&str]) -> Agent {
    let uid = nix::unistd::geteuid();
    let callers: Vec<String> = ids.iter().map(|id| format!("{{uid: {uid}, id: '{id}'}}")).collect();
    Agent::start(mesh, "spiffe://example.org/host", &format!("[{}]", callers.join(", "))).unwrap()
}

/// A connection to the socket, as a program of ours.
async fn connect(agent: &Agent) -> Channel {
    let socket = agent.socket();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://localhost")
        .connect_with_connector(connector)
        .await
        .unwrap()
}

/// A go-spiffe program that prints what it is told.
pub(crate) struct Watch(Child, Output);

impl Watch {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let output = Output::of(&mut child);
        Self(child, output)
    }

    fn on(agent: &Agent) -> Self {
        let mut command = Command::new(tool("spiffe-go").unwrap());
        command.arg("watch").env("SPIFFE_ENDPOINT_SOCKET", agent.endpoint());
        Self::start(command)
    }

    /// Each update so far, once there are so many.
    pub(crate) fn updates(&self, count: usize) -> Vec<Value> {
        let read = || -> Vec<Value> {
            let text = self.1.text();
            let lines = text.lines().filter(|line| line.starts_with('{'));
            lines.map(|line| serde_json::from_str(line).unwrap()).collect()
        };
        watchword_tests::wait_until("updates", || read().len() >= count)
            .unwrap_or_else(|error| panic!("{error}: {}", self.1.text()));
        read()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
