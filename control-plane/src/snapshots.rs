//! What proxies are told: the bundle, the policies and the directory, each
//! with a version that grows when its content changes.
//!
//! Invariants: a view is immutable; versions never go back within a process.
//! Each subscriber is told only of the policies that protect it. The bundle is
//! composed here alone, of the authority's roots and of those of other trust
//! domains: who changes one of the two never undoes the other.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::sync::watch;
use watchword_identity::{Bundle, SpiffeId};
use watchword_proto::directory::{Directory, Endpoint, Service};
use watchword_proto::{Policies, bundle_to_proto, control, policy_set_to_proto};

use crate::mesh_file;
use crate::mesh_watch::LoadedMesh;
use crate::metrics::ControlMetrics;

/// The kinds of snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Whom to trust.
    Bundle,
    /// Who may call.
    Policies,
    /// Who lives where.
    Directory,
}

impl Kind {
    /// In the order in which a new subscriber gets them.
    pub const ALL: [Self; 3] = [Self::Bundle, Self::Policies, Self::Directory];

    /// A label for logs, metrics and people.
    pub fn label(self) -> &'static str {
        match self {
            Self::Bundle => "bundle",
            Self::Policies => "policies",
            Self::Directory => "directory",
        }
    }
}

/// A content with its version.
#[derive(Debug, Clone)]
struct Numbered<T> {
    version: u64,
    content: Arc<T>,
}

impl<T: PartialEq> Numbered<T> {
    fn first(content: T) -> Self {
        Self {
            version: 1,
            content: Arc::new(content),
        }
    }

    /// The next version, or the same one when nothing changed.
    fn followed_by(&self, content: T) -> Self {
        if *self.content == content {
            return Self {
                version: self.version,
                content: Arc::clone(&self.content),
            };
        }
        Self {
            version: self.version + 1,
            content: Arc::new(content),
        }
    }
}

/// What the bundle is made of. The parts change by different ways, at any time.
#[derive(Debug, Clone)]
struct Roots {
    /// The authority's: the mesh's own trust domain.
    own: Arc<Bundle>,
    /// The mesh file's: other trust domains.
    partners: Arc<Bundle>,
}

impl Roots {
    /// Nobody but the authority says whom the mesh's own trust domain trusts.
    fn composed(&self) -> control::Bundle {
        bundle_to_proto(&self.own.as_ref().clone().with_others(&self.partners))
    }
}

/// Everything that is to be told, at one moment.
#[derive(Debug, Clone)]
pub struct View {
    roots: Roots,
    bundle: Numbered<control::Bundle>,
    policies: Numbered<Policies>,
    directory: Numbered<control::Directory>,
}

impl View {
    /// The version of one kind.
    pub fn version(&self, kind: Kind) -> u64 {
        match kind {
            Kind::Bundle => self.bundle.version,
            Kind::Policies => self.policies.version,
            Kind::Directory => self.directory.version,
        }
    }

    /// The bundle as it goes over the wire, with its version.
    pub fn bundle(&self) -> (&control::Bundle, u64) {
        (&self.bundle.content, self.bundle.version)
    }

    /// The roots of other trust domains that are a part of the bundle.
    pub fn partners(&self) -> &Bundle {
        &self.roots.partners
    }

    fn change_roots(&mut self, change: impl FnOnce(&mut Roots)) {
        change(&mut self.roots);
        self.bundle = self.bundle.followed_by(self.roots.composed());
    }

    /// What one subscriber is told of one kind.
    pub fn resource(&self, kind: Kind, subscriber: &SpiffeId) -> control::snapshot_update::Resource {
        use control::snapshot_update::Resource;
        match kind {
            Kind::Bundle => Resource::Bundle(self.bundle.content.as_ref().clone()),
            Kind::Policies => {
                let Policies { mode, policies } = self.policies.content.as_ref();
                let of_subscriber = policies.iter().filter(|policy| policy.service.matches(subscriber));
                Resource::Policies(policy_set_to_proto(*mode, of_subscriber))
            }
            Kind::Directory => Resource::Directory(self.directory.content.as_ref().clone()),
        }
    }
}

/// What the mesh file, its policies and its trust bundles have to tell.
#[derive(Debug, Clone, Default)]
pub struct Told {
    /// Who may call, and in which mode.
    pub policies: Policies,
    /// Who lives where.
    pub directory: Directory,
    /// The roots of other trust domains.
    pub partners: Bundle,
}

impl From<&LoadedMesh> for Told {
    fn from(loaded: &LoadedMesh) -> Self {
        Self {
            policies: Policies {
                mode: loaded.mesh.mode,
                policies: loaded.policies.policies.clone(),
            },
            directory: directory(&loaded.mesh),
            partners: loaded.partners.clone(),
        }
    }
}

/// Where the newest view is published.
#[derive(Debug, Clone)]
pub struct Snapshots {
    view: watch::Sender<Arc<View>>,
    metrics: ControlMetrics,
}

impl Snapshots {
    /// With a first view: the authority's roots, and what the mesh file says.
    pub fn new(own: &Bundle, told: Told, metrics: ControlMetrics) -> Self {
        let roots = Roots {
            own: Arc::new(own.clone()),
            partners: Arc::new(told.partners),
        };
        let view = View {
            bundle: Numbered::first(roots.composed()),
            roots,
            policies: Numbered::first(told.policies),
            directory: Numbered::first((&told.directory).into()),
        };
        let snapshots = Self {
            view: watch::Sender::new(Arc::new(view)),
            metrics,
        };
        snapshots.count();
        snapshots
    }

    /// The newest view.
    pub fn current(&self) -> Arc<View> {
        Arc::clone(&self.view.borrow())
    }

    /// Sees each new view.
    pub fn subscribe(&self) -> watch::Receiver<Arc<View>> {
        self.view.subscribe()
    }

    /// Publishes what the mesh file says, where it has changed. The authority's
    /// roots stay.
    pub fn publish_mesh(&self, told: Told) {
        self.change(|view| {
            view.change_roots(|roots| roots.partners = Arc::new(told.partners));
            view.policies = view.policies.followed_by(told.policies);
            view.directory = view.directory.followed_by((&told.directory).into());
        });
    }

    /// Publishes the authority's roots, where they have changed. Those of other
    /// trust domains stay. Returns the bundle's version.
    pub fn publish_own_roots(&self, own: &Bundle) -> u64 {
        self.change(|view| view.change_roots(|roots| roots.own = Arc::new(own.clone())));
        self.current().version(Kind::Bundle)
    }

    fn change(&self, change: impl FnOnce(&mut View)) {
        self.view.send_if_modified(|current| {
            let mut next = View::clone(current);
            change(&mut next);
            let changed = Kind::ALL
                .iter()
                .any(|kind| next.version(*kind) != current.version(*kind));
            if changed {
                *current = Arc::new(next);
            }
            changed
        });
        self.count();
    }

    fn count(&self) {
        let view = self.view.borrow();
        for kind in Kind::ALL {
            self.metrics.published(kind.label(), view.version(kind));
        }
    }
}

/// The directory that a mesh file describes: its endpoints by address.
fn directory(mesh: &mesh_file::MeshFile) -> Directory {
    let services = mesh.services.values().map(service).collect();
    Directory {
        services,
        mesh_ranges: mesh.mesh_ranges.clone(),
        egress: mesh.egress.clone(),
    }
}

fn service(service: &mesh_file::Service) -> Service {
    let mut by_address: BTreeMap<IpAddr, Vec<u16>> = BTreeMap::new();
    for endpoint in &service.endpoints {
        let endpoint = SocketAddr::new(endpoint.ip().to_canonical(), endpoint.port());
        let ports = by_address.entry(endpoint.ip()).or_default();
        if !ports.contains(&endpoint.port()) {
            ports.push(endpoint.port());
        }
    }
    for address in &service.addresses {
        by_address.entry(address.to_canonical()).or_default();
    }
    let endpoints = by_address.into_iter().map(|(address, ports)| Endpoint {
        address,
        ports,
        id: service.id.clone(),
    });
    Service {
        name: service.name.clone(),
        virtual_addresses: service.virtual_addresses.clone(),
        ports: service.ports.clone(),
        endpoints: endpoints.collect(),
        peer: service.peer,
    }
}

#[cfg(test)]
pub(crate) mod tests;
