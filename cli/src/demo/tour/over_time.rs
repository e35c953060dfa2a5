//! What goes on while certificates come and go.

use std::time::Duration;

use anyhow::ensure;

use super::calls::now;
use crate::demo::mesh::{DemoMesh, Running};
use crate::demo::parts::hold::Held;
use crate::demo::parts::load::Counts;
use crate::demo::parts::{HTTP_PORT, TCP_PORT};

/// So often, at least.
const ROTATIONS: u64 = 3;
/// Both ends of what is called.
const BOTH: [&str; 2] = ["web", "orders"];
const PATIENCE: Duration = Duration::from_secs(25);
const POLL: Duration = Duration::from_millis(100);

/// How often the certificates of both ends were replaced, and which they had
/// at first.
#[derive(Debug)]
struct Rotations {
    serials: [String; 2],
    replaced: [u64; 2],
}

impl Rotations {
    async fn begin(mesh: &DemoMesh) -> anyhow::Result<Self> {
        Ok(Self {
            serials: serials(mesh).await?,
            replaced: [0; 2],
        })
    }

    /// Looks again: a certificate that was there before does not count twice.
    async fn look(&mut self, mesh: &DemoMesh) -> anyhow::Result<()> {
        let now = serials(mesh).await?;
        for ((before, now), replaced) in self.serials.iter_mut().zip(now).zip(&mut self.replaced) {
            if *before != now {
                *before = now;
                *replaced += 1;
            }
        }
        Ok(())
    }

    fn fewest(&self) -> u64 {
        self.replaced.into_iter().min().unwrap_or_default()
    }

    fn told(&self) -> String {
        let each = BOTH.iter().zip(self.replaced);
        let told: Vec<String> = each.map(|(service, count)| format!("{service} {count}")).collect();
        told.join(", ")
    }
}

/// Certificates that live long would be looked at in vain.
async fn check_lifetime(mesh: &DemoMesh) -> anyhow::Result<()> {
    for service in BOTH {
        let left = Duration::from_secs(mesh.certificate(service).await?.not_after).saturating_sub(now());
        ensure!(
            left <= PATIENCE,
            "the certificate of {service} has {} s left, and the demo looks for {} s: set `certificates: {{ttl: 6s}}`",
            left.as_secs(),
            PATIENCE.as_secs()
        );
    }
    Ok(())
}

async fn serials(mesh: &DemoMesh) -> anyhow::Result<[String; 2]> {
    let [first, second] = BOTH;
    Ok([
        mesh.certificate(first).await?.serial,
        mesh.certificate(second).await?.serial,
    ])
}

/// Counts rotations while calls go on.
pub(super) async fn rotation_under_load(mesh: &DemoMesh) -> anyhow::Result<String> {
    check_lifetime(mesh).await?;
    let url = format!("http://orders:{HTTP_PORT}/orders/1");
    let load = Running::start(mesh.as_service("web", &["load", &url])?)?;
    let mut rotations = Rotations::begin(mesh).await?;
    let watch = async {
        while rotations.fewest() < ROTATIONS {
            tokio::time::sleep(POLL).await;
            rotations.look(mesh).await?;
        }
        anyhow::Ok(())
    };
    let watched = tokio::time::timeout(PATIENCE, watch).await;
    let counts: Counts = load.finish().await?;
    if let Ok(result) = watched {
        result?;
    }
    let Counts {
        kept,
        fresh,
        failed,
        first_failure,
    } = counts;
    let seen = format!(
        "certificates replaced: {}; {} calls, half of them on a connection that was kept, {failed} failed",
        rotations.told(),
        kept + fresh
    );
    ensure!(failed == 0, "{seen}, the first: {}", first_failure.unwrap_or_default());
    ensure!(kept > 0 && fresh > 0, "no call was made in time: {seen}");
    ensure!(
        rotations.fewest() >= ROTATIONS,
        "{seen}, within {} s",
        PATIENCE.as_secs()
    );
    Ok(seen)
}

/// A connection that is busy from the mesh's first moment on.
#[derive(Debug)]
pub(super) struct LongLived {
    connection: Running,
    serials: [String; 2],
    ends: u64,
}

impl LongLived {
    pub(super) async fn begin(mesh: &DemoMesh) -> anyhow::Result<Self> {
        let [first, second] = BOTH;
        let target = format!("orders:{TCP_PORT}");
        let serials = serials(mesh).await?;
        let ends = mesh.certificate(first).await?.not_after;
        let ends = ends.max(mesh.certificate(second).await?.not_after);
        let connection = Running::start(mesh.as_service("web", &["hold", &target])?)?;
        Ok(Self {
            connection,
            serials,
            ends,
        })
    }

    /// Waits until the certificates that it began with have ended.
    pub(super) async fn end(self, mesh: &DemoMesh) -> anyhow::Result<String> {
        check_lifetime(mesh).await?;
        let left = Duration::from_secs(self.ends + 1).saturating_sub(now());
        tokio::time::sleep(left.min(PATIENCE)).await;
        let serials = serials(mesh).await?;
        let held: Held = self.connection.finish().await?;
        let seen = format!(
            "{} messages came back in {:.1} s on one connection",
            held.messages,
            Duration::from_millis(held.milliseconds).as_secs_f64()
        );
        if let Some(broken) = held.broken {
            anyhow::bail!("{seen}, then: {broken}");
        }
        ensure!(held.messages > 0, "{seen}");
        ensure!(
            serials.iter().zip(&self.serials).all(|(now, then)| now != then),
            "{seen}, but the certificates that it began with were not replaced"
        );
        Ok(format!("{seen}; the certificates that it began with have ended"))
    }
}
