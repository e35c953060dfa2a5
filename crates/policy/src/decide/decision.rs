//! What is asked of a set of policies, and what it answers.

use std::sync::Arc;

use http::HeaderMap;
use spiffe::SpiffeId;

use crate::principal::Principal;
use crate::protocol::Protocol;

/// What is to be decided: may `peer` reach `port` of `service`, which speaks
/// `protocol`?
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Who is called.
    pub service: &'a SpiffeId,
    /// Who calls.
    pub peer: &'a Principal,
    /// The port of the service.
    pub port: u16,
    /// What is spoken there.
    pub protocol: Protocol,
}

/// A request as policies see it: after [`crate::path::normalise`], and after
/// hop-by-hop headers were removed.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// As it came; methods are case-sensitive.
    pub method: &'a str,
    /// Normalised, without query; `*` for `OPTIONS *`.
    pub path: &'a str,
    /// As it came: it may have a port.
    pub host: Option<&'a str>,
    /// All that are passed on.
    pub headers: &'a HeaderMap,
}

/// Whether a call passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It passes.
    Allow,
    /// It is refused.
    Deny,
}

impl Verdict {
    /// `allow` or `deny`: the label in logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// What made a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// An allow rule matched, and no deny rule.
    AllowRule,
    /// A deny rule matched.
    DenyRule,
    /// The service is protected, and no allow rule matched.
    NoAllowRule,
    /// No policy names the service.
    NoPolicy,
    /// Only audit policies name the service, so everything passes.
    AuditOnly,
    /// The caller has no identity, and the mesh asks everybody for one.
    StrictMode,
}

impl Reason {
    /// The label in logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AllowRule => "allow-rule",
            Self::DenyRule => "deny-rule",
            Self::NoAllowRule => "no-allow-rule",
            Self::NoPolicy => "no-policy",
            Self::AuditOnly => "audit-only",
            Self::StrictMode => "strict-mode",
        }
    }
}

/// The outcome for a call or a request, with the rule that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether it passes.
    pub verdict: Verdict,
    /// What made the decision.
    pub reason: Reason,
    /// The policy of `rule`; without a rule the first one that protects the
    /// service; nothing where none does.
    pub policy: Option<Arc<str>>,
    /// The rule that matched.
    pub rule: Option<Arc<str>>,
    /// The call passes, but would be denied if the audit policies of the
    /// service were enforced: for the record.
    pub would_deny: Option<Denial>,
}

impl Decision {
    /// Whether the call passes.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.verdict == Verdict::Allow
    }
}

/// A denial that is only recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// [`Reason::DenyRule`] or [`Reason::NoAllowRule`].
    pub reason: Reason,
    /// As in [`Decision`].
    pub policy: Option<Arc<str>>,
    /// As in [`Decision`].
    pub rule: Option<Arc<str>>,
}

/// What becomes of a connection whose requests are judged one by one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gate {
    /// A rule for the connection as a whole denies it: a deny rule of an
    /// enforcing policy that has no `http` or `grpc` block.
    Closed(Decision),
    /// Requests are judged one by one, and some may pass.
    Open,
    /// Requests are answered one by one, but none can pass: no allow rule is
    /// about this peer and port, or no policy names the service, as the reason
    /// says. Nothing needs to be dialled.
    Futile(Reason),
}
