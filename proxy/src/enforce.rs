//! What the policies of the moment say of a call, and of one that goes on
//! while they change.

use tokio::sync::watch::Receiver;
use watchword_identity::SpiffeId;
use watchword_policy::{Call, Decision, Protocol};
use watchword_proto::tunnel::Reason;

use crate::mesh::Mesh;
use crate::refusal::{Refusal, Why};

/// One call, as policies see it.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) service: SpiffeId,
    pub(crate) peer: SpiffeId,
    pub(crate) port: u16,
}

impl Question {
    /// Asks the policies of this moment, and counts what they say. Without any
    /// yet, nobody may call.
    pub(crate) fn decide(&self, mesh: &Mesh) -> Result<Decision, Refusal> {
        let decision = self.ask(mesh).ok_or_else(|| Refusal::of(Why::NotReady))?;
        let telemetry = mesh.connections.telemetry();
        telemetry.decided(
            decision.policy.as_ref(),
            decision.rule.as_ref(),
            decision.verdict.as_str(),
        );
        if let Some(denial) = &decision.would_deny {
            telemetry.decided(denial.policy.as_ref(), denial.rule.as_ref(), "would-deny");
        }
        if decision.is_allowed() {
            Ok(decision)
        } else {
            Err(Refusal::by(decision))
        }
    }

    fn ask(&self, mesh: &Mesh) -> Option<Decision> {
        let policies = mesh.snapshots.policies()?;
        Some(policies.decide(&Call {
            service: &self.service,
            peer: &self.peer,
            port: self.port,
            protocol: Protocol::Tcp,
        }))
    }

    /// Returns when a change of policies denies what was allowed before.
    async fn denied_later(&self, mesh: &Mesh, mut changes: Receiver<u64>) {
        loop {
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
            if self.ask(mesh).is_none_or(|decision| !decision.is_allowed()) {
                return;
            }
        }
    }

    /// Resolves when policies have changed so that this call would be denied.
    pub(crate) async fn cut_when_denied(&self, mesh: &Mesh, changes: Receiver<u64>) -> Reason {
        self.denied_later(mesh, changes).await;
        Reason::PolicyChanged
    }
}
