//! The steps of the demo in their order.

mod calls;
mod over_time;
mod wire;

use super::folder::Folder;
use super::mesh::DemoMesh;
use super::report::{Report, Step};
use super::vault::Vault;

const MESH_READY: Step = Step {
    name: "mesh-ready",
    promised: "every service has a SPIFFE identity of its own, in a certificate that ends in an hour at most",
};

const ALLOWED_CALL: Step = Step {
    name: "allowed-call",
    promised: "web calls orders by TCP, HTTP (IPv4 and IPv6) and gRPC; the programs speak plaintext, and orders is told who calls",
};

const DENIED_CALL: Step = Step {
    name: "denied-call",
    promised: "the lab's TCP connection to orders is reset before a byte comes, and the rule that did it has a name",
};

const HTTP_DENIED: Step = Step {
    name: "http-denied",
    promised: "web may read an order and not delete it: 403, with the rule's name",
};

const GRPC_DENIED: Step = Step {
    name: "grpc-denied",
    promised: "web may charge and not refund: PERMISSION_DENIED, with the rule's name",
};

const PLAINTEXT_REFUSED: Step = Step {
    name: "plaintext-refused",
    promised: "who listens in on the network reads nothing of a call, and who calls in plaintext gets nothing",
};

const WRONG_PEER_REFUSED: Step = Step {
    name: "wrong-peer-refused",
    promised: "billing's address is taken over by the lab: web's sidecar notices, and no byte of the call gets there",
};

const ROTATION_UNDER_LOAD: Step = Step {
    name: "rotation-under-load",
    promised: "certificates are replaced at least three times on both sides, while calls go on and none fails",
};

const LONG_LIVED_CONNECTION: Step = Step {
    name: "long-lived-connection",
    promised: "one TCP connection outlives the certificates that it began with, and every byte comes back",
};

/// Starts the mesh, makes every step, and takes the mesh down. What was seen
/// is in the report; an error is trouble of the demo's own.
pub(super) async fn run(folder: &Folder, vault: Option<&Vault>, report: &mut Report) -> anyhow::Result<()> {
    report.progress(&format!("watchword up {}", folder.mesh_file().display()));
    let mut started = None;
    let start = async {
        let mesh = DemoMesh::start(folder).await?;
        let seen = calls::identities(&mesh, vault).await;
        started = Some(mesh);
        seen
    };
    report.step(MESH_READY, start).await;
    let Some(mesh) = started else {
        for step in [
            ALLOWED_CALL,
            DENIED_CALL,
            HTTP_DENIED,
            GRPC_DENIED,
            PLAINTEXT_REFUSED,
            WRONG_PEER_REFUSED,
            ROTATION_UNDER_LOAD,
            LONG_LIVED_CONNECTION,
        ] {
            report.not_tried(step, "the mesh did not start");
        }
        return Ok(());
    };
    // It lives as long as all the others take.
    let long_lived = over_time::LongLived::begin(&mesh).await;
    report.step(ALLOWED_CALL, calls::allowed(&mesh)).await;
    report.step(DENIED_CALL, calls::denied(&mesh)).await;
    report.step(HTTP_DENIED, calls::http_denied(&mesh)).await;
    report.step(GRPC_DENIED, calls::grpc_denied(&mesh)).await;
    report.step(PLAINTEXT_REFUSED, wire::plaintext_refused(&mesh)).await;
    report.step(WRONG_PEER_REFUSED, wire::wrong_peer_refused(&mesh)).await;
    report
        .step(ROTATION_UNDER_LOAD, over_time::rotation_under_load(&mesh))
        .await;
    let end = async { long_lived?.end(&mesh).await };
    report.step(LONG_LIVED_CONNECTION, end).await;
    report.progress("taking it down");
    let ended = mesh.stop().await?;
    anyhow::ensure!(ended.success(), "`watchword up` ended with {ended}");
    Ok(())
}
