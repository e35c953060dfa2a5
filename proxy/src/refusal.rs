//! Why a call is refused, and what is said of it: to the peer on the wire, in
//! the log, in the metrics.

use std::sync::Arc;

use watchword_policy::{Decision, Reason as PolicyReason};
use watchword_proto::tunnel::Reason;

/// Why a call was refused, and the rule that did it.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) reason: &'static str,
    pub(crate) why: Why,
    pub(crate) policy: Option<Arc<str>>,
    pub(crate) rule: Option<Arc<str>>,
}

impl Refusal {
    /// For a reason that no policy gives.
    pub(crate) fn of(why: Why) -> Self {
        Self {
            reason: why.label(),
            why,
            policy: None,
            rule: None,
        }
    }

    /// By a policy.
    pub(crate) fn by(decision: Decision) -> Self {
        let why = match decision.reason {
            PolicyReason::DenyRule => Why::DenyRule,
            PolicyReason::NoPolicy => Why::NoPolicy,
            PolicyReason::StrictMode => Why::StrictMode,
            _ => Why::NoAllowRule,
        };
        Self {
            reason: why.label(),
            why,
            policy: decision.policy,
            rule: decision.rule,
        }
    }

    /// Policy and rule, as a caller may know them: those of another trust
    /// domain learn only the reason.
    pub(crate) fn named_to(&self, same_domain: bool) -> (Option<&str>, Option<&str>) {
        if !same_domain {
            return (None, None);
        }
        (self.policy.as_deref(), self.rule.as_deref())
    }
}

/// Why a call is refused, beside a rule of a policy. Closed: each has a label
/// and a word on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    DenyRule,
    NoAllowRule,
    NoPolicy,
    StrictMode,
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
            Self::StrictMode => "strict-mode",
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
            Self::StrictMode | Self::NotCaptured | Self::NotLocal | Self::UnlistedMeshAddress | Self::Egress => {
                Reason::Unspecified
            }
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
            Reason::Rotated => "rotated",
        }
    }
}
