//! The mesh file as a whole: from text to [`MeshFile`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use spiffe::TrustDomain;
use watchword_policy::diagnostic::{Position, Report};
use watchword_policy::document::{self, Fields, Node};
use watchword_policy::{Diagnostic, Mode};

use super::agreement::{self, PlacedService};
use super::{MeshFile, RegistryEntry, authority, egress, service, tracing, trust_bundles, values};

const DEFAULT_TTL: Duration = Duration::from_secs(60 * 60);
const KEYS: &[&str] = &[
    "name",
    "trustDomain",
    "mode",
    "certificates",
    "authority",
    "trustBundles",
    "policies",
    "tracing",
    "egressMode",
    "egress",
    "services",
    "stateDir",
    "runDir",
    "listen",
    "healthListen",
    "meshRanges",
    "registry",
];

/// A path that must be there, and where the file names it.
#[derive(Debug)]
pub(super) struct NamedPath {
    pub(super) path: PathBuf,
    pub(super) at: Position,
    pub(super) must_be_folder: bool,
}

impl NamedPath {
    /// Of a file, or of a folder where either will do.
    pub(super) fn read(node: &Node, base: &Path, report: &mut Report) -> Option<Self> {
        Some(Self {
            path: values::path(node, base, report)?,
            at: node.at,
            must_be_folder: false,
        })
    }

    /// The error if it is not there.
    pub(super) fn missing(&self, file: &str) -> Option<Diagnostic> {
        let path = self.path.display();
        let message = match self.path.metadata() {
            Err(error) => format!("`{path}` can't be found: {error}"),
            Ok(found) if self.must_be_folder && !found.is_dir() => format!("`{path}` is not a folder"),
            Ok(_) => return None,
        };
        Some(Diagnostic::error(file, self.at, message))
    }
}

/// Parses and checks; also tells the paths that must be there.
pub(super) fn read(file: &str, text: &str, base: &Path) -> Result<(MeshFile, Vec<NamedPath>), Vec<Diagnostic>> {
    let documents = document::parse(file, text).map_err(|error| vec![error])?;
    let mut report = Report::new(file);
    let mut paths = Vec::new();
    let mesh = match documents.as_slice() {
        [] => {
            report.error(
                Position::START,
                "the file is empty: expected a mesh file with `trustDomain` and `services`",
            );
            None
        }
        [node] => read_mesh(node, base, &mut paths, &mut report),
        [_, second, ..] => {
            report.error(
                second.at,
                "expected one mesh file, found a second document (`---`): give it a file of its own",
            );
            None
        }
    };
    let (mesh, _) = report.finish(mesh)?;
    Ok((mesh, paths))
}

fn read_mesh(node: &Node, base: &Path, paths: &mut Vec<NamedPath>, report: &mut Report) -> Option<MeshFile> {
    let fields = node.fields("a mesh file", KEYS, report)?;
    let name = read_name(&fields, report);
    let trust_domain = fields
        .required("trustDomain", "where the SPIFFE IDs lie, such as example.org", report)
        .and_then(|node| values::trust_domain(node, report));
    let mode = optional(&fields, "mode", report, read_mode);
    let certificate_ttl = read_ttl(&fields, report);
    let authority = authority::read(&fields, base, paths, report);
    let trust_bundles = trust_bundles::read(&fields, trust_domain.as_ref(), base, paths, report);
    let policies = read_policies(&fields, base, paths, report);
    let tracing = optional(&fields, "tracing", report, |node, report| {
        tracing::read(node, base, report)
    });
    let egress = egress::read(&fields, report);
    let services = fields
        .required("services", "what runs in the mesh, by name", report)
        .and_then(|node| read_services(node, trust_domain.as_ref(), base, report));
    let registry = list(&fields, "registry", "entries", report, |node, report| {
        read_registry_entry(node, trust_domain.as_ref(), report)
    });
    let mesh_ranges = list(&fields, "meshRanges", "ranges of addresses", report, values::range);
    let mut folder = |key| optional(&fields, key, report, |node, report| values::path(node, base, report));
    let (state_dir, run_dir) = (folder("stateDir"), folder("runDir"));
    let listen = optional(&fields, "listen", report, values::socket_address);
    let health_listen = optional(&fields, "healthListen", report, values::socket_address);
    Some(MeshFile {
        name: name?,
        trust_domain: trust_domain?,
        mode: mode?.unwrap_or_default(),
        certificate_ttl: certificate_ttl?,
        authority: authority?,
        trust_bundles: trust_bundles?,
        policies: policies?,
        tracing: tracing?,
        egress: egress?,
        services: collect_services(services?, paths),
        state_dir: state_dir?,
        run_dir: run_dir?,
        listen: listen?,
        health_listen: health_listen?,
        mesh_ranges: mesh_ranges?,
        registry: registry?,
    })
}

fn read_registry_entry(node: &Node, domain: Option<&TrustDomain>, report: &mut Report) -> Option<RegistryEntry> {
    let entry = node.fields("an entry of the registry", &["id", "agents"], report)?;
    let id = entry
        .required("id", "a SPIFFE ID that somebody may get", report)
        .and_then(|id| values::registered_id(id, domain, report));
    let agents = list(&entry, "agents", "SPIFFE IDs of agents", report, |node, report| {
        values::workload_id(node, domain, report)
    });
    let (id, agents) = (id?, agents?);
    if let Some(at) = entry
        .place_of("agents")
        .filter(|_| values::is_publisher(&id) && !agents.is_empty())
    {
        report.error(at, format!("no agent hands out `{id}`: leave `agents` out"));
        return None;
    }
    Some(RegistryEntry { id, agents })
}

fn read_name(fields: &Fields<'_>, report: &mut Report) -> Option<String> {
    if let Some(node) = fields.optional("name") {
        return values::mesh_name(node, report);
    }
    let name = values::mesh_name_from(report.file());
    if name.is_none() {
        report.error(
            fields.at(),
            "the file's name is no name for a mesh: add `name:`, such as `name: shop`",
        );
    }
    name
}

fn read_mode(node: &Node, report: &mut Report) -> Option<Mode> {
    let expected = "`strict` or `permissive`";
    let text = node.text(expected, report)?;
    let mode = Mode::ALL.into_iter().find(|mode| mode.as_str() == text);
    if mode.is_none() {
        node.mismatch(expected, report);
    }
    mode
}

fn read_ttl(fields: &Fields<'_>, report: &mut Report) -> Option<Duration> {
    let Some(node) = fields.optional("certificates") else {
        return Some(DEFAULT_TTL);
    };
    let fields = node.fields("`certificates`", &["ttl"], report)?;
    match fields.optional("ttl") {
        Some(ttl) => values::ttl(ttl, report),
        None => Some(DEFAULT_TTL),
    }
}

fn read_policies(
    fields: &Fields<'_>,
    base: &Path,
    paths: &mut Vec<NamedPath>,
    report: &mut Report,
) -> Option<Vec<PathBuf>> {
    list(fields, "policies", "files and folders", report, |node, report| {
        present(node, base, paths, report)
    })
}

/// All services if all of them are good. Those that are good are also checked
/// against each other where another one is not.
fn read_services(
    node: &Node,
    domain: Option<&TrustDomain>,
    base: &Path,
    report: &mut Report,
) -> Option<Vec<PlacedService>> {
    let entries = node.entries("services by name", report)?;
    let services: Vec<Option<PlacedService>> = entries
        .into_iter()
        .map(|(name, node)| {
            let name_at = name.at;
            // The rest of a service without a proper name is checked too.
            let named = values::service_name(name, report);
            let read = service::read(node, (named.as_deref(), name_at), (domain, base), report);
            named.and(read)
        })
        .collect();
    agreement::check(services.iter().flatten(), report);
    services.into_iter().collect()
}

fn collect_services(services: Vec<PlacedService>, paths: &mut Vec<NamedPath>) -> BTreeMap<String, super::Service> {
    let mut by_name = BTreeMap::new();
    for placed in services {
        if let Some(at) = placed.directory_at {
            paths.push(NamedPath {
                path: placed.service.directory.clone(),
                at,
                must_be_folder: true,
            });
        }
        by_name.insert(placed.service.name.clone(), placed.service);
    }
    by_name
}

/// A path that must be there. Those of secrets may come later.
pub(super) fn present(node: &Node, base: &Path, paths: &mut Vec<NamedPath>, report: &mut Report) -> Option<PathBuf> {
    let named = NamedPath::read(node, base, report)?;
    let path = named.path.clone();
    paths.push(named);
    Some(path)
}

/// The value of a key that may be missing; the outer nothing is a mistake.
pub(super) fn optional<T>(
    fields: &Fields<'_>,
    key: &str,
    report: &mut Report,
    read: impl FnOnce(&Node, &mut Report) -> Option<T>,
) -> Option<Option<T>> {
    match fields.optional(key) {
        Some(node) => read(node, report).map(Some),
        None => Some(None),
    }
}

/// The list of a key that may be missing.
pub(super) fn list<T>(
    fields: &Fields<'_>,
    key: &str,
    expected: &str,
    report: &mut Report,
    read: impl FnMut(&Node, &mut Report) -> Option<T>,
) -> Option<Vec<T>> {
    match fields.optional(key) {
        Some(node) => values::each(node, expected, report, read),
        None => Some(Vec::new()),
    }
}
