//! What the control plane last told us, immutable and swapped whole. A
//! connection takes what it needs at its start, and is told of changes.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use tokio::sync::watch;
use watchword_policy::{Mode, PolicySet, Protocol};
use watchword_proto::Policies;

use crate::directory::{DirectoryIndex, Found};
use crate::refusal::{Refusal, Why};

/// The newest valid snapshots. None before the first.
pub(crate) struct Snapshots {
    policies: ArcSwapOption<PolicySet>,
    policy_names: ArcSwapOption<Vec<String>>,
    directory: ArcSwapOption<DirectoryIndex>,
    policies_changed: watch::Sender<u64>,
    directory_changed: watch::Sender<u64>,
}

impl Snapshots {
    pub(crate) fn new() -> Self {
        Self {
            policies: ArcSwapOption::empty(),
            policy_names: ArcSwapOption::empty(),
            directory: ArcSwapOption::empty(),
            policies_changed: watch::Sender::new(0),
            directory_changed: watch::Sender::new(0),
        }
    }

    pub(crate) fn policies(&self) -> Option<Arc<PolicySet>> {
        self.policies.load_full()
    }

    pub(crate) fn directory(&self) -> Option<Arc<DirectoryIndex>> {
        self.directory.load_full()
    }

    /// What a port of this workload speaks. A rule without ports means the
    /// ports that the service declares, not whatever else listens on the
    /// workload's address.
    pub(crate) fn declared(&self, dialled: SocketAddr) -> Result<Protocol, Refusal> {
        let directory = self.directory.load();
        let directory = directory.as_ref().ok_or_else(|| Refusal::of(Why::NotReady))?;
        match directory.find(dialled) {
            Found::Served(served) => {
                let first = served.endpoints.first();
                Ok(first.map_or(Protocol::Tcp, |endpoint| endpoint.protocol))
            }
            Found::PortNotDeclared | Found::Unlisted | Found::Outside => Err(Refusal::of(Why::PortNotDeclared)),
        }
    }

    /// For people; nothing before the first snapshot.
    pub(crate) fn policy_names(&self) -> Option<Arc<Vec<String>>> {
        self.policy_names.load_full()
    }

    /// Whether who calls from there may do so in plaintext: in permissive mode
    /// those who are not of the mesh.
    pub(crate) fn may_be_plaintext(&self, source: IpAddr) -> bool {
        let is_permissive = self
            .policies()
            .is_some_and(|policies| policies.mode() == Mode::Permissive);
        is_permissive && self.directory().is_some_and(|directory| !directory.knows(source))
    }

    pub(crate) fn set_policies(&self, Policies { mode, policies }: Policies) {
        let names = policies.iter().map(|policy| policy.name.to_string()).collect();
        self.policies
            .store(Some(Arc::new(PolicySet::new(policies).in_mode(mode))));
        self.policy_names.store(Some(Arc::new(names)));
        self.policies_changed.send_modify(|count| *count += 1);
    }

    pub(crate) fn set_directory(&self, directory: DirectoryIndex) {
        self.directory.store(Some(Arc::new(directory)));
        self.directory_changed.send_modify(|count| *count += 1);
    }

    /// Sees each change of the directory from now on.
    pub(crate) fn directory_changes(&self) -> watch::Receiver<u64> {
        self.directory_changed.subscribe()
    }

    /// Sees each change of policies from now on.
    pub(crate) fn policy_changes(&self) -> watch::Receiver<u64> {
        self.policies_changed.subscribe()
    }
}
