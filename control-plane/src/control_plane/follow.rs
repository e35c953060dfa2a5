//! Taking over what changes in the mesh file while the control plane runs.
//!
//! Invariant: a file with a mistake changes nothing.

use std::sync::Arc;

use super::core::registry;
use super::partners;
use crate::enrolment::Enrolment;
use crate::mesh_file::MeshFile;
use crate::mesh_watch::{LoadedMesh, MeshWatch};
use crate::snapshots::Snapshots;

/// Mistakes of one file that go to the log.
const MISTAKES_SHOWN: usize = 20;

/// Takes over changes for ever. `first` is what the control plane began with.
pub(super) async fn follow(mut watch: MeshWatch, first: MeshFile, enrolment: Arc<Enrolment>, snapshots: Snapshots) {
    loop {
        match watch.changed().await {
            Ok(loaded) => apply(&enrolment, &snapshots, &first, &loaded),
            Err(mistakes) => {
                for mistake in mistakes.iter().take(MISTAKES_SHOWN) {
                    tracing::error!(%mistake, "the mesh file, its policies or its trust bundles have a mistake; what was good before stays in force");
                }
            }
        }
    }
}

fn apply(enrolment: &Enrolment, snapshots: &Snapshots, first: &MeshFile, loaded: &LoadedMesh) {
    let mesh = &loaded.mesh;
    if mesh.trust_domain != first.trust_domain {
        tracing::error!(
            "the mesh file has another trustDomain: nothing of it is taken over; restart the control plane"
        );
        return;
    }
    let same = mesh.certificate_ttl == first.certificate_ttl
        && mesh.authority == first.authority
        && mesh.listen == first.listen
        && mesh.health_listen == first.health_listen
        && mesh.state_dir == first.state_dir
        && mesh.run_dir == first.run_dir;
    if !same {
        tracing::warn!(
            "authority, certificates, folders and addresses of the mesh file are taken over by a restart only"
        );
    }
    for warning in &loaded.policies.warnings {
        tracing::warn!(%warning, "a policy looks wrong");
    }
    enrolment.registry.store(Arc::new(registry(mesh)));
    partners::tell(snapshots.current().partners(), &loaded.partners, enrolment.clock.now());
    snapshots.publish_mesh(loaded.into());
    tracing::info!("took over the changed mesh file and policies");
}
