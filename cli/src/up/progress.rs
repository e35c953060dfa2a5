//! What of a mesh is ready, and why the rest is not. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::plan::{Plan, Replica};

/// What is ready.
#[derive(Debug)]
pub(crate) struct Progress {
    services: Vec<Service>,
    sidecars: BTreeSet<String>,
    apps: BTreeSet<String>,
    reasons: BTreeMap<String, String>,
    phase: String,
}

#[derive(Debug)]
struct Service {
    name: String,
    spiffe_id: String,
    replicas: BTreeMap<String, Vec<IpAddr>>,
}

impl Progress {
    /// Nothing of `plan` is ready.
    pub(crate) fn new(plan: &Plan) -> Self {
        let services = plan.services.iter().map(|service| Service {
            name: service.name.clone(),
            spiffe_id: service.spiffe_id.clone(),
            replicas: plan
                .replicas
                .iter()
                .filter(|replica| replica.service == service.name)
                .map(|replica| (replica.name.clone(), replica.addresses.clone()))
                .collect(),
        });
        let names = |replica: &Replica| replica.name.clone();
        Self {
            services: services.collect(),
            sidecars: plan.members().map(names).collect(),
            apps: plan.replicas.iter().map(names).collect(),
            reasons: BTreeMap::new(),
            phase: String::new(),
        }
    }

    /// What is being done before there are parts to wait for.
    pub(crate) fn now(&mut self, phase: &str) {
        phase.clone_into(&mut self.phase);
    }

    /// A part, in words, is not ready.
    pub(crate) fn waits(&mut self, part: &str, reason: &str) {
        self.reasons.insert(part.to_owned(), reason.to_owned());
    }

    /// A replica's sidecar is ready.
    pub(crate) fn sidecar_ready(&mut self, replica: &str) {
        self.phase.clear();
        self.sidecars.remove(replica);
        self.reasons.remove(&format!("the sidecar of {replica}"));
    }

    /// A replica's program is ready. The line to print, if with it its whole
    /// service is ready for the first time.
    pub(crate) fn app_ready(&mut self, replica: &str) -> Option<String> {
        self.reasons.remove(replica);
        if !self.apps.remove(replica) {
            return None;
        }
        let service = self
            .services
            .iter()
            .find(|service| service.replicas.contains_key(replica))?;
        if service.replicas.keys().any(|name| self.apps.contains(name)) {
            return None;
        }
        let addresses: Vec<String> = service
            .replicas
            .values()
            .map(|addresses| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
            .collect();
        Some(format!(
            "{} is ready: {} at {}",
            service.name,
            service.spiffe_id,
            addresses.join(", ")
        ))
    }

    /// Whether apps may start.
    pub(crate) fn sidecars_ready(&self) -> bool {
        self.sidecars.is_empty()
    }

    /// Whether the mesh is ready.
    pub(crate) fn all_ready(&self) -> bool {
        self.sidecars.is_empty() && self.apps.is_empty()
    }

    /// What is missing, in words.
    pub(crate) fn missing(&self) -> String {
        if !self.phase.is_empty() && self.reasons.is_empty() {
            return self.phase.clone();
        }
        let part = |name: &String| {
            if self.sidecars.is_empty() {
                name.clone()
            } else {
                format!("the sidecar of {name}")
            }
        };
        let waiting = if self.sidecars.is_empty() {
            &self.apps
        } else {
            &self.sidecars
        };
        let parts = waiting.iter().map(|name| {
            let part = part(name);
            match self.reasons.get(&part) {
                Some(reason) => format!("{part}: {reason}"),
                None => format!("{part} has not answered"),
            }
        });
        parts.collect::<Vec<_>>().join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::super::render_tests::plan;
    use super::*;

    #[test]
    fn a_service_is_ready_with_its_last_replica_and_once() {
        let mut progress = Progress::new(&plan(false));
        for name in ["orders-1", "orders-2", "web-1"] {
            assert!(!progress.sidecars_ready());
            progress.sidecar_ready(name);
        }
        assert!(progress.sidecars_ready());
        assert_eq!(progress.app_ready("orders-2"), None);
        let line = "orders is ready: spiffe://example.org/orders at 10.87.0.2, 10.87.0.3";
        assert_eq!(progress.app_ready("orders-1").as_deref(), Some(line));
        assert_eq!(progress.app_ready("orders-1"), None, "a restart is no news");
        assert!(!progress.all_ready());
        assert!(progress.app_ready("web-1").is_some());
        assert!(progress.all_ready());
    }

    #[test]
    fn what_is_missing_is_told_with_its_reason() {
        let mut progress = Progress::new(&plan(false));
        progress.now("the control plane has not answered");
        assert_eq!(progress.missing(), "the control plane has not answered");
        progress.sidecar_ready("orders-1");
        progress.waits("the sidecar of web-1", "not ready: no identity yet");
        assert_eq!(
            progress.missing(),
            "the sidecar of orders-2 has not answered; the sidecar of web-1: not ready: no identity yet"
        );
        progress.sidecar_ready("orders-2");
        progress.sidecar_ready("web-1");
        progress.app_ready("orders-1");
        progress.app_ready("web-1");
        progress.waits("orders-2", "nothing listens on its port 80 yet");
        assert_eq!(progress.missing(), "orders-2: nothing listens on its port 80 yet");
    }
}
