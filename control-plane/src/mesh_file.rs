//! The mesh file: what a person writes about a mesh, for `watchword up` and,
//! with endpoints instead of programs, for the control plane.
//!
//! Invariants: a [`MeshFile`] is valid as a whole, its paths are absolute as
//! far as the folder they are relative to is, and every key of the file was
//! either understood or reported with its place; what this version does not
//! support is an error, never ignored. It does not know how a mesh is run, and
//! reads no file but the mesh file, its policies and its trust bundles.

mod agreement;
mod authority;
mod egress;
mod policy_files;
mod publish;
mod read;
mod service;
mod text_file;
mod tracing;
mod trust_bundles;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use spiffe::{SpiffeId, TrustDomain};
use watchword_identity::Bundle;
use watchword_policy::diagnostic::Position;
use watchword_policy::{Diagnostic, MeshContext, Mode};

pub use authority::{AuthorityChoice, CertificateFiles, VaultAddress, VaultAuth, VaultSettings};
pub(crate) use policy_files::watched_files;
pub use policy_files::{LoadedPolicies, load_policy_files};
pub use text_file::read as read_text_file;
pub use tracing::{CollectorAddress, SampleRatio, Tracing};
pub use watchword_policy::Protocol;
pub use watchword_proto::directory::{Egress, EgressEntry, EgressMode, PeerKind};

/// A whole mesh file, valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshFile {
    /// Names the mesh and its folder: `[a-z0-9][a-z0-9-]*`, at most 32
    /// characters. By default made from the file's name.
    pub name: String,
    /// Where all SPIFFE IDs of the mesh lie.
    pub trust_domain: TrustDomain,
    /// Whether callers without an identity are judged, or refused.
    pub mode: Mode,
    /// How long an SVID is valid: 2 s to 24 h, by default 1 h.
    pub certificate_ttl: Duration,
    /// What signs.
    pub authority: AuthorityChoice,
    /// Other trust domains, each with the PEM file of its roots.
    pub trust_bundles: BTreeMap<TrustDomain, PathBuf>,
    /// Policy files, and folders of them.
    pub policies: Vec<PathBuf>,
    /// Where sidecars send spans.
    pub tracing: Option<Tracing>,
    /// What lies outside of the mesh and may be called.
    pub egress: Egress,
    /// By name.
    pub services: BTreeMap<String, Service>,
    /// Where the control plane keeps keys and tokens.
    pub state_dir: Option<PathBuf>,
    /// The folder for `control.sock` and `admin.sock`.
    pub run_dir: Option<PathBuf>,
    /// Where the control plane serves gRPC by TCP.
    pub listen: Option<SocketAddr>,
    /// Where the control plane serves health and metrics.
    pub health_listen: Option<SocketAddr>,
    /// An address in one of these that nobody has is denied, and never taken
    /// for something outside of the mesh.
    pub mesh_ranges: Vec<IpNet>,
    /// IDs that may get a join token, beyond those of the services.
    pub registry: Vec<RegistryEntry>,
}

/// One service. It has either `run` (this machine starts it) or endpoints
/// (it runs elsewhere; there may be none yet).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// A DNS label; the others call it by this name.
    pub name: String,
    /// By default `spiffe://<trust domain>/<name>`.
    pub id: SpiffeId,
    /// The program and its arguments; not empty.
    pub run: Option<Vec<String>>,
    /// What is added to the program's environment.
    pub env: BTreeMap<String, String>,
    /// The program's working directory; by default the mesh file's folder.
    pub directory: PathBuf,
    /// The ports that can be called.
    pub ports: BTreeMap<u16, Protocol>,
    /// How often it runs: 1 to 64.
    pub replicas: u16,
    /// The user that the program runs as.
    pub user: Option<String>,
    /// Its ports that can be called from outside of the mesh, each with the
    /// address where.
    pub publish: BTreeMap<u16, SocketAddr>,
    /// It is healthy once this port accepts connections.
    pub healthy: Option<u16>,
    /// Where it runs, address by address and port by port. No two services
    /// share one.
    pub endpoints: Vec<SocketAddr>,
    /// Where it runs and serves no port.
    pub addresses: Vec<IpAddr>,
    /// Addresses that stand for all endpoints. No two services share one.
    pub virtual_addresses: Vec<IpAddr>,
    /// What answers there.
    pub peer: PeerKind,
}

/// An ID that may get a join token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryEntry {
    /// In the mesh's trust domain, and not reserved, but for that of who
    /// carries calls in from outside.
    pub id: SpiffeId,
    /// Who may hand it out to workloads that they attest.
    pub agents: Vec<SpiffeId>,
}

impl MeshFile {
    /// Reads and checks a mesh file. Paths in it are relative to its folder.
    ///
    /// # Errors
    /// Everything that is wrong in it, with its place; a file that can't be
    /// read, policies, trust bundles or working directories that are not there.
    pub fn load(path: &Path) -> Result<Self, Vec<Diagnostic>> {
        let (mesh, missing) = Self::load_even_if_missing(path)?;
        if missing.is_empty() { Ok(mesh) } else { Err(missing) }
    }

    /// As [`Self::load`], with what says that paths are not there apart: who
    /// waits for them has to know which they are.
    ///
    /// # Errors
    /// Everything that is wrong in the file itself.
    pub(crate) fn load_even_if_missing(path: &Path) -> Result<(Self, Vec<Diagnostic>), Vec<Diagnostic>> {
        let file = path.display().to_string();
        let text = text_file::read(path).map_err(|error| vec![error])?;
        let absolute = std::path::absolute(path).map_err(|error| {
            let message = format!("its folder can't be found: {error}");
            vec![Diagnostic::error(&file, Position::START, message)]
        })?;
        let base = absolute.parent().unwrap_or(Path::new("/"));
        let (mesh, paths) = read::read(&file, &text, base)?;
        let missing = paths.iter().filter_map(|path| path.missing(&file)).collect();
        Ok((mesh, missing))
    }

    /// Checks the text of a mesh file without touching the file system. `file`
    /// names it in diagnostics, and the mesh unless `name` does; `base` is the
    /// folder that paths are relative to.
    ///
    /// # Errors
    /// Everything that is wrong in it, with its place.
    pub fn parse(file: &str, text: &str, base: &Path) -> Result<Self, Vec<Diagnostic>> {
        read::read(file, text, base).map(|(mesh, _)| mesh)
    }

    /// Reads the policies, and checks them together and against this mesh.
    ///
    /// # Errors
    /// Everything that is wrong in them, with file and place.
    pub fn load_policies(&self) -> Result<LoadedPolicies, Vec<Diagnostic>> {
        load_policy_files(&self.policies, Some(&self.policy_context()))
    }

    /// Reads the roots of other trust domains.
    ///
    /// # Errors
    /// Everything that is wrong in their files.
    pub fn load_trust_bundles(&self) -> Result<Bundle, Vec<Diagnostic>> {
        trust_bundles::load(&self.trust_bundles)
    }

    /// What policies are checked against.
    #[must_use]
    pub fn policy_context(&self) -> MeshContext {
        let mut services: BTreeMap<SpiffeId, BTreeMap<u16, BTreeSet<Protocol>>> = BTreeMap::new();
        for service in self.services.values() {
            let ports = services.entry(service.id.clone()).or_default();
            for (port, protocol) in &service.ports {
                ports.entry(*port).or_default().insert(*protocol);
            }
        }
        let partners: BTreeSet<TrustDomain> = self.trust_bundles.keys().cloned().collect();
        let own = std::iter::once(self.trust_domain.clone());
        MeshContext {
            trust_domains: own.chain(partners.iter().cloned()).collect(),
            partners,
            services,
            registry: self.registry.iter().map(|entry| entry.id.clone()).collect(),
            mode: self.mode,
        }
    }
}

#[cfg(test)]
mod tests;
