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

/// What is looked at in a mesh that runs.
const STEPS: [Step; 8] = [
    Step {
        name: "allowed-call",
        promised: "web calls orders by TCP, HTTP (IPv4 and IPv6) and gRPC; the programs speak plaintext, and orders is told who calls",
    },
    Step {
        name: "denied-call",
        promised: "the lab's TCP connection to orders is reset before a byte comes, and the rule that did it has a name",
    },
    Step {
        name: "http-denied",
        promised: "web may read an order and not delete it: 403, with the rule's name",
    },
    Step {
        name: "grpc-denied",
        promised: "web may charge and not refund: PERMISSION_DENIED, with the rule's name",
    },
    Step {
        name: "plaintext-refused",
        promised: "who listens in on the network reads nothing of a call, and who calls in plaintext gets nothing",
    },
    Step {
        name: "wrong-peer-refused",
        promised: "billing's address is taken over by the lab: web's sidecar notices, and no byte of the call gets there",
    },
    Step {
        name: "rotation-under-load",
        promised: "certificates are replaced at least three times on both sides, while calls go on and none fails",
    },
    Step {
        name: "long-lived-connection",
        promised: "one TCP connection outlives the certificates that it began with, and every byte comes back",
    },
];

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
        for step in STEPS {
            report.not_tried(step, "the mesh did not start");
        }
        return Ok(());
    };
    let [
        allowed_call,
        denied_call,
        http_denied,
        grpc_denied,
        plaintext_refused,
        wrong_peer_refused,
        rotation_under_load,
        long_lived_connection,
    ] = STEPS;
    // It lives as long as all the others take.
    let connection = over_time::LongLived::begin(&mesh).await;
    report.step(allowed_call, calls::allowed(&mesh)).await;
    report.step(denied_call, calls::denied(&mesh)).await;
    report.step(http_denied, calls::http_denied(&mesh)).await;
    report.step(grpc_denied, calls::grpc_denied(&mesh)).await;
    report.step(plaintext_refused, wire::plaintext_refused(&mesh)).await;
    report.step(wrong_peer_refused, wire::wrong_peer_refused(&mesh)).await;
    report
        .step(rotation_under_load, over_time::rotation_under_load(&mesh))
        .await;
    let end = async { connection?.end(&mesh).await };
    report.step(long_lived_connection, end).await;
    report.progress("taking it down");
    let ended = mesh.stop().await?;
    anyhow::ensure!(ended.success(), "`watchword up` ended with {ended}");
    Ok(())
}
