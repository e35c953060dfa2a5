//! From a policy's decision to what is said of it: to the peer on the wire,
//! in the log, in the metrics.

use tokio::sync::watch::Receiver;
use watchword_identity::SpiffeId;
use watchword_policy::{Call, Decision};
use watchword_proto::tunnel::Reason;

use crate::connection::Refusal;
use crate::worker::Mesh;

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
        }))
    }

    /// Returns when a change of policies denies what was allowed before.
    pub(crate) async fn denied_later(&self, mesh: &Mesh, mut changes: Receiver<u64>) {
        loop {
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
            if self.ask(mesh).is_none_or(|decision| !decision.is_allowed()) {
                return;
            }
        }
    }
}

/// Why a call is refused, beside a rule of a policy. Closed: each has a label
/// and a word on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    DenyRule,
    NoAllowRule,
    NoPolicy,
    NotReady,
    NotCaptured,
    NotLocal,
    PortNotDeclared,
    UnlistedMeshAddress,
    Egress,
    NoIdentity,
}

impl Why {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::DenyRule => "deny-rule",
            Self::NoAllowRule => "no-allow-rule",
            Self::NoPolicy => "no-policy",
            Self::NotReady => "not-ready",
            Self::NotCaptured => "not-captured",
            Self::NotLocal => "not-local",
            Self::PortNotDeclared => "port-not-declared",
            Self::UnlistedMeshAddress => "unlisted-mesh-address",
            Self::Egress => "egress",
            Self::NoIdentity => "no-identity",
        }
    }

    /// The reason that a peer is told.
    pub(crate) fn on_the_wire(self) -> Reason {
        match self {
            Self::DenyRule => Reason::DenyRule,
            Self::NoAllowRule => Reason::NoAllowRule,
            Self::NoPolicy => Reason::NoPolicy,
            Self::NotReady | Self::NoIdentity => Reason::NotReady,
            Self::PortNotDeclared => Reason::PortNotDeclared,
            Self::NotCaptured | Self::NotLocal | Self::UnlistedMeshAddress | Self::Egress => Reason::Unspecified,
        }
    }

    /// What a peer's word for it means here.
    pub(crate) fn label_of(reason: Reason) -> &'static str {
        match reason {
            Reason::Unspecified => "unspecified",
            Reason::AppReset => "app-reset",
            Reason::DenyRule => "deny-rule",
            Reason::NoAllowRule => "no-allow-rule",
            Reason::NoPolicy => "no-policy",
            Reason::PortNotDeclared => "port-not-declared",
            Reason::NotReady => "not-ready",
            Reason::Protocol => "protocol",
            Reason::Timeout => "timeout",
            Reason::PolicyChanged => "policy-changed",
            Reason::Shutdown => "shutdown",
            Reason::Idle => "idle",
            Reason::Limit => "limit",
            Reason::Expired => "expired",
            Reason::Revoked => "revoked",
            Reason::Untrusted => "untrusted",
        }
    }
}
