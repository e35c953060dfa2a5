//! What is to be had on the network between two sidecars.

use std::net::SocketAddr;

use anyhow::{bail, ensure};

use super::calls::told_apart;
use crate::demo::mesh::{DemoMesh, Running};
use crate::demo::parts::HTTP_PORT;
use crate::demo::parts::ask::Answer;
use crate::demo::parts::listen_in::Seen;

/// A call of the mesh and calls in plaintext, with a marker each, while
/// somebody listens in. That the second marker is found shows that the first
/// one would be.
pub(super) async fn plaintext_refused(mesh: &DemoMesh) -> anyhow::Result<String> {
    let (secret, bait) = (marker("secret"), marker("bait"));
    let mut eavesdropper = Running::start(mesh.on_the_switch(&["listen-in", &secret, &bait])?)?;
    eavesdropper.line().await?;
    let url = format!("http://orders:{HTTP_PORT}/orders/{secret}");
    let call = mesh.ask("web", &["http", &url]).await?;
    let mut served = Vec::new();
    for address in &mesh.replica("orders")?.replica.addresses {
        let target = SocketAddr::new(*address, HTTP_PORT);
        let url = format!("http://{target}/orders/{bait}");
        let answer = mesh.ask_without_a_sidecar(&["http", &url]).await?;
        if !matches!(answer, Answer::Broken { .. }) {
            served.push(format!("{target}: {}", told_apart(&answer)));
        }
    }
    let seen: Seen = eavesdropper.finish().await?;
    let [secrets, baits] = seen.marked[..] else {
        bail!("the eavesdropper counted something else");
    };
    let told = format!(
        "of {} bytes on the wire, {secrets} frames showed the marker of web's call, and {baits} that of calls in plaintext",
        seen.bytes
    );
    ensure!(served.is_empty(), "{told}, which were answered: {}", served.join("; "));
    ensure!(secrets == 0, "{told}");
    ensure!(baits > 0, "who listens in misses what is there: {told}");
    match call {
        Answer::Served { path, .. } if path.contains(&secret) => {}
        other => bail!("{told}, but web's call: {}", told_apart(&other)),
    }
    Ok(format!("{told}, none of which was answered"))
}

fn marker(name: &str) -> String {
    format!("watchword-{name}-{:016x}", std::process::id())
}

/// Moves billing's IPv4 address to the lab, as the address of a pod that is
/// gone comes to another one, and back.
pub(super) async fn wrong_peer_refused(mesh: &DemoMesh) -> anyhow::Result<String> {
    let billing = &mesh.replica("billing")?.replica;
    let Some(address) = billing.addresses.iter().find(|address| address.is_ipv4()) else {
        bail!("billing has no IPv4 address");
    };
    let network = format!("{address}/16");
    let url = format!("http://{address}:{HTTP_PORT}/bills");
    mesh.run_in("billing", &["ip", "address", "del", &network, "dev", "eth0"])
        .await?;
    mesh.run_in("lab", &["ip", "address", "add", &network, "dev", "eth0"])
        .await?;
    let answer = mesh.ask("web", &["http", &url]).await?;
    let noticed = mesh
        .line(|line| line.contains("reason=unexpected-peer") && line.contains(&billing.spiffe_id))
        .await;
    mesh.run_in("lab", &["ip", "address", "del", &network, "dev", "eth0"])
        .await?;
    mesh.run_in("billing", &["ip", "address", "add", &network, "dev", "eth0"])
        .await?;
    mesh.run_in("web", &["ip", "neighbour", "flush", "dev", "eth0"]).await?;
    let Answer::Broken { why, .. } = answer else {
        bail!("web's call to {address}: {}", told_apart(&answer));
    };
    ensure!(
        noticed.is_some(),
        "web got `{why}`, but no sidecar says that the peer is another"
    );
    match mesh.ask("web", &["http", &url]).await? {
        Answer::Served { service, .. } if service == "billing" => {}
        other => bail!("with the address moved back: {}", told_apart(&other)),
    }
    let lab = &mesh.replica("lab")?.replica.spiffe_id;
    Ok(format!(
        "web got `{why}`, and its sidecar logged unexpected-peer: {lab} is not {}; with the address moved back billing served it",
        billing.spiffe_id
    ))
}
