//! Who is who, who may call, and who may not.

use std::collections::BTreeSet;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{bail, ensure};
use watchword_daemon::{Clock as _, SystemClock};

use crate::demo::mesh::DemoMesh;
use crate::demo::parts::ask::Answer;
use crate::demo::parts::{GRPC_PORT, HTTP_PORT, TCP_PORT};
use crate::demo::vault::Vault;
use crate::sidecar_client::{self, Connections, Denial};

const LONGEST_LIFE: u64 = 3_600;

/// Since the Unix epoch.
pub(super) fn now() -> Duration {
    SystemClock.now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Every sidecar's own word for its certificate, against what was planned, and
/// against what Vault has signed.
pub(super) async fn identities(mesh: &DemoMesh, vault: Option<&Vault>) -> anyhow::Result<String> {
    let now = now().as_secs();
    let (mut seen, mut serials, mut left) = (Vec::new(), BTreeSet::new(), 0);
    for running in &mesh.record.replicas {
        let replica = &running.replica;
        let certificate = mesh.certificate(&replica.service).await?;
        ensure!(
            certificate.spiffe_id == replica.spiffe_id,
            "{} is {}, not {}",
            replica.name,
            certificate.spiffe_id,
            replica.spiffe_id
        );
        let lives = certificate.not_after.saturating_sub(now);
        ensure!(
            lives <= LONGEST_LIFE,
            "the certificate of {} has {lives} s left",
            replica.name
        );
        if let Some(vault) = vault {
            ensure!(
                vault.has_signed(&certificate.serial)?,
                "Vault's audit log does not have the certificate of {}, {}",
                replica.name,
                certificate.serial
            );
        }
        ensure!(
            serials.insert(certificate.serial),
            "{} has the certificate of another",
            replica.name
        );
        left = left.max(lives);
        seen.push(replica.spiffe_id.clone());
    }
    let signed = match vault {
        Some(_) => "; Vault's audit log has every serial",
        None => "",
    };
    Ok(format!("{}; each has {left} s left at most{signed}", seen.join(", ")))
}

/// What orders answers to web, in every protocol.
pub(super) async fn allowed(mesh: &DemoMesh) -> anyhow::Result<String> {
    let web = &mesh.replica("web")?.replica.spiffe_id;
    let served = |how: &str, answer: Answer, told: bool| match answer {
        Answer::Served { service, caller, .. } if !told || (service == "orders" && caller == *web) => Ok(()),
        other => bail!("{how}: {}", told_apart(&other)),
    };
    let url = format!("http://orders:{TCP_PORT}");
    served("TCP", mesh.ask("web", &["tcp", &url]).await?, false)?;
    let url = format!("http://orders:{GRPC_PORT}");
    served(
        "gRPC",
        mesh.ask("web", &["grpc", &url, "--method", "Charge"]).await?,
        true,
    )?;
    let addresses = &mesh.replica("orders")?.replica.addresses;
    for address in addresses {
        let host = std::net::SocketAddr::new(*address, HTTP_PORT);
        let answer = mesh.ask("web", &["http", &format!("http://{host}/orders/1")]).await?;
        served(&format!("HTTP to {host}"), answer, true)?;
    }
    let families = match addresses.len() {
        1 => "IPv4 (this machine has no IPv6)",
        _ => "IPv4 and IPv6",
    };
    Ok(format!(
        "TCP, gRPC and HTTP by {families} were answered; orders saw {web}"
    ))
}

/// A connection that a deny rule forbids.
pub(super) async fn denied(mesh: &DemoMesh) -> anyhow::Result<String> {
    let url = format!("http://orders:{TCP_PORT}");
    let why = match mesh.ask("lab", &["tcp", &url]).await? {
        Answer::Broken { why, bytes: 0 } => why,
        other => bail!("the lab's connection: {}", told_apart(&other)),
    };
    let rule = last_denial(mesh, "lab", TCP_PORT).await?;
    Ok(format!("the lab got `{why}`; {rule}"))
}

/// A request that a deny rule forbids, beside one that is allowed.
pub(super) async fn http_denied(mesh: &DemoMesh) -> anyhow::Result<String> {
    let url = format!("http://orders:{HTTP_PORT}/orders/1");
    refused(mesh, ("http", &url), ("GET", "DELETE"), "403").await
}

/// A gRPC call that a deny rule forbids, beside one that is allowed.
pub(super) async fn grpc_denied(mesh: &DemoMesh) -> anyhow::Result<String> {
    let url = format!("http://orders:{GRPC_PORT}");
    refused(mesh, ("grpc", &url), ("Charge", "Refund"), "PERMISSION_DENIED").await
}

async fn refused(
    mesh: &DemoMesh,
    (how, url): (&str, &str),
    (may, may_not): (&str, &str),
    expected: &str,
) -> anyhow::Result<String> {
    match mesh.ask("web", &[how, url, "--method", may]).await? {
        Answer::Served { .. } => {}
        other => bail!("{may}: {}", told_apart(&other)),
    }
    match mesh.ask("web", &[how, url, "--method", may_not]).await? {
        Answer::Denied { status, by } => {
            ensure!(
                status == expected,
                "{may_not}: denied with {status}, not with {expected}"
            );
            ensure!(
                by.contains('/'),
                "{may_not}: {status}, but by `{by}`, which names no rule"
            );
            Ok(format!("{may} was served; {may_not}: {status}, watchword-denied: {by}"))
        }
        other => bail!("{may_not}: {}", told_apart(&other)),
    }
}

/// The last denial that a service's sidecar knows of, once it is about `port`.
async fn last_denial(mesh: &DemoMesh, service: &str, port: u16) -> anyhow::Result<String> {
    let socket = &mesh.replica(service)?.admin_socket;
    let about = |denial: &Denial| denial.port == port;
    let look = async {
        loop {
            let found: Connections = sidecar_client::get(socket, "/connections").await?;
            match found.last_denial.filter(about) {
                Some(denial) => return anyhow::Ok(denial),
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    let Ok(denial) = tokio::time::timeout(Duration::from_secs(5), look).await else {
        bail!("its sidecar knows of no denial");
    };
    let denial = denial?;
    match (denial.policy, denial.rule) {
        (Some(policy), Some(rule)) if !rule.is_empty() => Ok(format!("denied by {policy}/{rule}")),
        _ => bail!("denied, but by no rule: {}", denial.reason),
    }
}

/// An answer in words.
pub(super) fn told_apart(answer: &Answer) -> String {
    match answer {
        Answer::Served { service, caller, .. } if caller.is_empty() => format!("{service} served it"),
        Answer::Served { service, caller, .. } => format!("{service} served it, and was told that {caller} calls"),
        Answer::Denied { status, by } => format!("denied with {status} by {by}"),
        Answer::Other { said } => format!("answered with {said}"),
        Answer::Broken { why, bytes } => format!("came to nothing after {bytes} bytes: {why}"),
    }
}
