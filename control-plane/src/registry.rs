//! The registry: which SPIFFE IDs workloads may have.
//!
//! It also says which agents hand out which IDs to workloads that they attest.
//!
//! Invariants: IDs come from the mesh file alone. `/watchword` and what lies
//! below it are our own parts' and never a workload's; nor is an ID of
//! another trust domain. One of our own is given for a join token where the
//! mesh file names it, and for nothing else: [`PUBLISHER`].

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;
use watchword_identity::{SpiffeId, TrustDomain};

/// The path below which our own parts have their IDs.
const RESERVED: &str = "/watchword";

/// The path of who carries calls in from outside of the mesh, for `publish`.
pub const PUBLISHER: &str = "/watchword/publish";

/// Why an ID is given to nobody. Closed: each has a label.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unregistered {
    /// Not in the mesh file.
    #[error("{0} is not registered: name it in the mesh file, under `services` or `registry`")]
    Unknown(String),
    /// Another trust domain's.
    #[error("{id} is not of the trust domain {domain}")]
    OtherDomain {
        /// What was asked for.
        id: String,
        /// Ours.
        domain: String,
    },
    /// Ours alone.
    #[error("{0} is reserved: IDs below /watchword belong to Watchword's own parts")]
    Reserved(String),
    /// Somebody else's workload.
    #[error(
        "{agent} may not hand out {id}: name it in the mesh file, under `registry`, as `{{id: {id}, agents: [{agent}]}}`"
    )]
    NotItsAgent {
        /// Who asks.
        agent: String,
        /// For whom.
        id: String,
    },
}

impl Unregistered {
    /// A label for logs and metrics: kebab-case, from a closed set.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Unknown(_) => "id-not-registered",
            Self::OtherDomain { .. } => "id-of-other-trust-domain",
            Self::Reserved(_) => "id-reserved",
            Self::NotItsAgent { .. } => "not-its-agent",
        }
    }
}

/// The IDs that may be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registry {
    domain: TrustDomain,
    ids: BTreeSet<String>,
    /// What each agent hands out.
    handed_out: BTreeMap<String, BTreeSet<String>>,
}

impl Registry {
    /// Of one trust domain.
    pub fn new<'a>(domain: &TrustDomain, ids: impl IntoIterator<Item = &'a SpiffeId>) -> Self {
        Self {
            domain: domain.clone(),
            ids: ids.into_iter().map(SpiffeId::to_string).collect(),
            handed_out: BTreeMap::new(),
        }
    }

    /// The same, in which `agents` may hand out `id`.
    #[must_use]
    pub fn handing_out<'a>(mut self, id: &SpiffeId, agents: impl IntoIterator<Item = &'a SpiffeId>) -> Self {
        for agent in agents {
            let ids = self.handed_out.entry(agent.to_string()).or_default();
            ids.insert(id.to_string());
        }
        self
    }

    /// Whether `speaker` may ask for an SVID of `id` for a workload: its own
    /// ID, or one that it is an agent of.
    ///
    /// # Errors
    /// See [`Unregistered`].
    pub fn admit_workload(&self, speaker: &SpiffeId, id: &SpiffeId) -> Result<(), Unregistered> {
        // Nobody has workloads of that name.
        if is_reserved(id) {
            return Err(Unregistered::Reserved(id.to_string()));
        }
        self.admit(id)?;
        let ids = self.handed_out.get(&speaker.to_string());
        if speaker == id || ids.is_some_and(|ids| ids.contains(&id.to_string())) {
            return Ok(());
        }
        Err(Unregistered::NotItsAgent {
            agent: speaker.to_string(),
            id: id.to_string(),
        })
    }

    /// Whether a workload may have this ID.
    ///
    /// # Errors
    /// See [`Unregistered`].
    pub fn admit(&self, id: &SpiffeId) -> Result<(), Unregistered> {
        if id.trust_domain() != &self.domain {
            return Err(Unregistered::OtherDomain {
                id: id.to_string(),
                domain: self.domain.to_string(),
            });
        }
        // Asked first: a mesh file can't give these away.
        if is_reserved(id) && id.path() != PUBLISHER {
            return Err(Unregistered::Reserved(id.to_string()));
        }
        if self.ids.contains(&id.to_string()) {
            Ok(())
        } else {
            Err(Unregistered::Unknown(id.to_string()))
        }
    }
}

fn is_reserved(id: &SpiffeId) -> bool {
    id.path()
        .strip_prefix(RESERVED)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn registry(listed: &[SpiffeId]) -> Registry {
        Registry::new(&TrustDomain::new("example.org").unwrap(), listed)
    }

    #[test]
    fn an_agent_hands_out_its_own_id_and_what_the_registry_says() {
        let id = |path: &str| SpiffeId::new(format!("spiffe://example.org{path}")).unwrap();
        let (host, other) = (id("/hosts/a"), id("/hosts/b"));
        let listed = [
            host.clone(),
            other.clone(),
            id("/web"),
            id("/db"),
            id("/watchword/x"),
            id(PUBLISHER),
        ];
        let registry = registry(&listed)
            .handing_out(&id(PUBLISHER), [&host])
            .handing_out(&id("/web"), [&host])
            .handing_out(&id("/watchword/x"), [&host])
            .handing_out(&id("/unlisted"), [&host]);
        let publisher = id(PUBLISHER);
        let table = [
            (&host, "/web", None),
            (&host, "/hosts/a", None),
            (&host, "/hosts/b", Some("not-its-agent")),
            (&host, "/db", Some("not-its-agent")),
            (&host, "/unlisted", Some("id-not-registered")),
            (&host, "/watchword/x", Some("id-reserved")),
            (&host, PUBLISHER, Some("id-reserved")),
            (&publisher, PUBLISHER, Some("id-reserved")),
            (&other, "/web", Some("not-its-agent")),
        ];
        for (agent, path, expected) in table {
            let found = registry.admit_workload(agent, &id(path)).err();
            assert_eq!(found.map(|error| error.label()), expected, "{agent} {path}");
        }
    }

    #[test]
    fn only_registered_ids_of_our_domain_are_given_and_never_our_own() {
        let id = |text: &str| SpiffeId::new(text).unwrap();
        let listed = [
            id("spiffe://example.org/web"),
            id("spiffe://example.org/watchword/control-plane"),
            id("spiffe://example.org/watchword"),
            id("spiffe://example.org/watchwords"),
            id("spiffe://other.org/web"),
        ];
        let publisher = id("spiffe://example.org/watchword/publish");
        let found = registry(&listed).admit(&publisher).err().map(|error| error.label());
        assert_eq!(found, Some("id-not-registered"), "only where it is listed");
        assert_eq!(registry(std::slice::from_ref(&publisher)).admit(&publisher), Ok(()));
        let registry = registry(&listed);
        let table = [
            ("spiffe://example.org/web", None),
            ("spiffe://example.org/watchwords", None),
            ("spiffe://example.org/web/1", Some("id-not-registered")),
            ("spiffe://example.org/orders", Some("id-not-registered")),
            ("spiffe://other.org/web", Some("id-of-other-trust-domain")),
            ("spiffe://example.org/watchword", Some("id-reserved")),
            ("spiffe://example.org/watchword/control-plane", Some("id-reserved")),
        ];
        for (text, expected) in table {
            let found = registry.admit(&id(text)).err().map(|error| error.label());
            assert_eq!(found, expected, "{text}");
        }
    }
}
