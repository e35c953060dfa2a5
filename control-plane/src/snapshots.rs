//! What proxies are told: the bundle, the policies and the directory, each
//! with a version that grows when its content changes.
//!
//! Invariants: a view is immutable; versions never go back within a process.
//! Each subscriber is told only of the policies that protect it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::sync::watch;
use watchword_identity::{Bundle, SpiffeId};
use watchword_policy::Policy;
use watchword_proto::directory::{Directory, Endpoint, Service};
use watchword_proto::{bundle_to_proto, control, policy_set_to_proto};

use crate::mesh_file;
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

/// Everything that is to be told, at one moment.
#[derive(Debug, Clone)]
pub struct View {
    bundle: Numbered<control::Bundle>,
    policies: Numbered<Vec<Policy>>,
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

    /// What one subscriber is told of one kind.
    pub fn resource(&self, kind: Kind, subscriber: &SpiffeId) -> control::snapshot_update::Resource {
        use control::snapshot_update::Resource;
        match kind {
            Kind::Bundle => Resource::Bundle(self.bundle.content.as_ref().clone()),
            Kind::Policies => {
                let of_subscriber = self
                    .policies
                    .content
                    .iter()
                    .filter(|policy| policy.service.matches(subscriber));
                Resource::Policies(policy_set_to_proto(of_subscriber))
            }
            Kind::Directory => Resource::Directory(self.directory.content.as_ref().clone()),
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
    /// With a first view.
    pub fn new(bundle: &Bundle, policies: Vec<Policy>, directory: &Directory, metrics: ControlMetrics) -> Self {
        let view = View {
            bundle: Numbered::first(bundle_to_proto(bundle)),
            policies: Numbered::first(policies),
            directory: Numbered::first(directory.into()),
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

    /// Publishes policies and directory, where they have changed.
    pub fn publish_mesh(&self, policies: Vec<Policy>, directory: &Directory) {
        self.change(|view| {
            view.policies = view.policies.followed_by(policies);
            view.directory = view.directory.followed_by(directory.into());
        });
    }

    /// Publishes a bundle, where it has changed. Returns its version.
    pub fn publish_bundle(&self, bundle: &Bundle) -> u64 {
        self.change(|view| view.bundle = view.bundle.followed_by(bundle_to_proto(bundle)));
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
pub fn directory(mesh: &mesh_file::MeshFile) -> Directory {
    let services = mesh.services.values().map(service).collect();
    Directory {
        services,
        mesh_ranges: mesh.mesh_ranges.clone(),
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
