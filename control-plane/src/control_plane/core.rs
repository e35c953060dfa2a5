//! What the control plane answers with: everything between its folders and its
//! listeners.

use std::sync::Arc;

use arc_swap::ArcSwap;
use watchword_identity::{Bundle, SpiffeId, TrustDomain};
use watchword_mtls::{Credentials, Now};

use super::{Process, RunError, partners};
use crate::authority::{Authority, EmbeddedAuthority, VaultAuthority};
use crate::enrolment::Enrolment;
use crate::issuer::{Issuer, NewRoots};
use crate::mesh_file::{AuthorityChoice, MeshFile};
use crate::mesh_watch::LoadedMesh;
use crate::metrics::ControlMetrics;
use crate::own_identity::{OwnIdentity, control_plane_id};
use crate::registry::Registry;
use crate::snapshots::Snapshots;
use crate::store::{FileStore, Records};
use crate::subscribers::Subscribers;

const DEFAULT_STATE_FOLDER: &str = "/var/lib/watchword";

/// Everything between the folders and the listeners.
pub(super) struct Core {
    pub(super) domain: TrustDomain,
    pub(super) epoch: u64,
    pub(super) enrolment: Arc<Enrolment>,
    pub(super) snapshots: Snapshots,
    pub(super) subscribers: Subscribers,
    pub(super) own: OwnIdentity,
    pub(super) new_roots: Arc<NewRoots>,
    pub(super) metrics: ControlMetrics,
}

impl Core {
    /// # Errors
    /// See [`RunError`].
    pub(super) async fn build(loaded: &LoadedMesh, process: &Process) -> Result<Self, RunError> {
        let mesh = &loaded.mesh;
        let domain = mesh.trust_domain.clone();
        let clock = Arc::clone(&process.clock);
        let metrics = ControlMetrics::new(&process.metrics);
        let state_folder = mesh.state_dir.clone().unwrap_or_else(|| DEFAULT_STATE_FOLDER.into());
        // First, since it locks the folder.
        let records = Records::new(Arc::new(FileStore::open(&state_folder)?)).await?;
        let authority: Arc<dyn Authority> = match &mesh.authority {
            AuthorityChoice::Embedded => Arc::new(EmbeddedAuthority::open(&state_folder, &domain, clock.now())?),
            AuthorityChoice::Vault(settings) => Arc::new(VaultAuthority::open(settings, &domain)?),
        };
        let now = clock.now();
        let epoch = records
            .update(move |state| {
                state.sweep(now);
                state.epoch += 1;
                state.epoch
            })
            .await?;
        let subscribers = Subscribers::new(metrics.clone());
        let new_roots = Arc::new(NewRoots::new(subscribers.clone()));
        let issuer = Issuer::new(authority, mesh.certificate_ttl, Arc::clone(&clock), metrics.clone());
        let issuer = Arc::new(issuer.withholding(Arc::clone(&new_roots)));
        let read_clock = Arc::clone(&clock);
        let own = OwnIdentity {
            id: control_plane_id(&domain)?,
            credentials: Credentials::new(Now::new(move || read_clock.now())),
            issuer: Arc::clone(&issuer),
            clock: Arc::clone(&clock),
        };
        partners::tell(&Bundle::default(), &loaded.partners, clock.now());
        let snapshots = Snapshots::new(&issuer.bundle(), loaded.into(), metrics.clone());
        let enrolment = Enrolment {
            registry: ArcSwap::from_pointee(registry(mesh)),
            issuer,
            records,
            clock,
            metrics: metrics.clone(),
        };
        Ok(Self {
            domain,
            epoch,
            enrolment: Arc::new(enrolment),
            snapshots,
            subscribers,
            own,
            new_roots,
            metrics,
        })
    }
}

/// The IDs that the mesh file names.
pub(super) fn registry(mesh: &MeshFile) -> Registry {
    let services = mesh.services.values().map(|service| &service.id);
    let others: Vec<&SpiffeId> = mesh.registry.iter().map(|entry| &entry.id).collect();
    let registry = Registry::new(&mesh.trust_domain, services.chain(others));
    mesh.registry.iter().fold(registry, |registry, entry| {
        registry.handing_out(&entry.id, &entry.agents)
    })
}
