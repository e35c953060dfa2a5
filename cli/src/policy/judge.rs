//! Policies as they were read, and what they answer to a question.

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;
use watchword_control_plane::mesh_file::{MeshFile, load_policy_files};
use watchword_policy::path::{PathError, normalise};
use watchword_policy::{
    Call, Decision, Denial, Diagnostic, Gate, MeshContext, Mode, PolicySet, Protocol, Reason, Request,
};

use super::Files;
use super::question::{Question, Sent};

/// Policies that are ready to be asked.
pub(super) struct Judge {
    policies: PolicySet,
    mesh: Option<MeshContext>,
    pub(super) warnings: Vec<Diagnostic>,
}

/// What is decided.
#[derive(Debug, PartialEq)]
pub(super) struct Answer {
    pub(super) protocol: Protocol,
    /// The path that was judged, where that is not the one that was asked for.
    pub(super) normal_path: Option<String>,
    pub(super) outcome: Outcome,
}

#[derive(Debug, PartialEq)]
pub(super) enum Outcome {
    /// On a connection or on a request.
    Decided(Decision),
    /// The connection is opened, and each request judged.
    Open,
    /// The connection is opened, and each request denied.
    Futile(Reason),
    /// The request is refused before policies are asked.
    Refused(PathError),
}

/// What programs are told.
#[derive(Debug, Serialize)]
pub(super) struct Told {
    allowed: bool,
    reason: &'static str,
    policy: Option<String>,
    rule: Option<String>,
    would_deny: Option<ToldDenial>,
    protocol: &'static str,
    /// Whether it was the connection that was asked about, on a port on which
    /// requests are judged one by one.
    requests_follow: bool,
    normalised_path: Option<String>,
}

#[derive(Debug, Serialize)]
struct ToldDenial {
    reason: &'static str,
    policy: Option<String>,
    rule: Option<String>,
}

impl Judge {
    /// Reads policies and mesh file.
    ///
    /// # Errors
    /// Everything that is wrong in them.
    pub(super) fn load(files: &Files) -> Result<Self, Vec<Diagnostic>> {
        let mesh = files.mesh_file.as_deref().map(MeshFile::load).transpose()?;
        let mesh = mesh.map(|mesh| mesh.policy_context());
        let loaded = load_policy_files(&files.paths, mesh.as_ref())?;
        Ok(Self {
            // Who asks without a mesh file means one that has such callers.
            policies: PolicySet::new(loaded.policies).in_mode(mesh.as_ref().map_or(Mode::Permissive, |mesh| mesh.mode)),
            mesh,
            warnings: loaded.warnings,
        })
    }

    /// What is decided on `question`.
    ///
    /// # Errors
    /// A text for people, where the question can't be meant.
    pub(super) fn answer(&self, question: &Question) -> Result<Answer, String> {
        let protocol = self.protocol(question)?;
        let call = Call {
            service: &question.to,
            peer: &question.from,
            port: question.port,
            protocol,
        };
        let (normal_path, outcome) = match (&question.sent, protocol) {
            (Some(_), Protocol::Tcp) => {
                return Err(format!(
                    "port {} speaks tcp, so there is no request to judge: leave out the flags about it, or give \
                     another protocol",
                    question.port
                ));
            }
            (Some(sent), Protocol::Http | Protocol::Grpc) => self.answer_request(&call, sent),
            (None, Protocol::Tcp) => (None, Outcome::Decided(self.policies.decide(&call))),
            (None, Protocol::Http | Protocol::Grpc) => (None, self.answer_gate(&call)),
        };
        Ok(Answer {
            protocol,
            normal_path,
            outcome,
        })
    }

    fn answer_request(&self, call: &Call<'_>, sent: &Sent) -> (Option<String>, Outcome) {
        let path = match normalise(&sent.path) {
            Ok(path) => path,
            Err(error) => return (None, Outcome::Refused(error)),
        };
        let request = Request {
            method: &sent.method,
            path: &path,
            host: sent.host.as_deref(),
            headers: &sent.headers,
        };
        let decision = self.policies.decide_request(call, &request);
        let changed = path != sent.path;
        (changed.then(|| path.into_owned()), Outcome::Decided(decision))
    }

    fn answer_gate(&self, call: &Call<'_>) -> Outcome {
        match self.policies.gate(call) {
            Gate::Closed(decision) => Outcome::Decided(decision),
            Gate::Open => Outcome::Open,
            Gate::Futile(reason) => Outcome::Futile(reason),
        }
    }

    /// What is said, or what the mesh declares, or what the flags suggest.
    fn protocol(&self, question: &Question) -> Result<Protocol, String> {
        let (to, port) = (&question.to, question.port);
        let Some(mesh) = self.mesh.as_ref().filter(|_| question.protocol.is_none()) else {
            return Ok(question.protocol.unwrap_or(question.suggested));
        };
        let ports = mesh.services.get(to);
        let ports = ports.ok_or_else(|| format!("no service of the mesh has the ID {to}"))?;
        let spoken: Vec<Protocol> = ports.get(&port).into_iter().flatten().copied().collect();
        match spoken.as_slice() {
            [protocol] => Ok(*protocol),
            [] => {
                let declared: BTreeSet<String> = ports.keys().map(u16::to_string).collect();
                let declared = declared.into_iter().collect::<Vec<_>>().join(", ");
                Err(format!("{to} does not declare port {port}: it declares {declared}"))
            }
            _ => Err(format!(
                "services with the ID {to} speak different protocols on port {port}: give the protocol"
            )),
        }
    }
}

impl Answer {
    pub(super) fn told(&self) -> Told {
        let decision = self.outcome.decision();
        let name = |name: Option<&std::sync::Arc<str>>| name.map(ToString::to_string);
        let would_deny = decision.and_then(|decision| decision.would_deny.as_ref());
        Told {
            allowed: self.outcome.is_allowed(),
            reason: self.outcome.reason(),
            policy: name(decision.and_then(|decision| decision.policy.as_ref())),
            rule: name(decision.and_then(|decision| decision.rule.as_ref())),
            would_deny: would_deny.map(|denial| ToldDenial {
                reason: denial.reason.as_str(),
                policy: name(denial.policy.as_ref()),
                rule: name(denial.rule.as_ref()),
            }),
            protocol: self.protocol.as_str(),
            requests_follow: matches!(self.outcome, Outcome::Open | Outcome::Futile(_)),
            normalised_path: self.normal_path.clone(),
        }
    }
}

impl Outcome {
    pub(super) fn is_allowed(&self) -> bool {
        match self {
            Self::Decided(decision) => decision.is_allowed(),
            Self::Open => true,
            Self::Futile(_) | Self::Refused(_) => false,
        }
    }

    /// Whether `rule`, as RULE or POLICY/RULE, made the decision.
    pub(super) fn is_by(&self, rule: &str) -> bool {
        let decision = self.decision();
        let names = decision.and_then(|decision| decision.policy.as_deref().zip(decision.rule.as_deref()));
        names.is_some_and(|(policy, own)| own == rule || rule == format!("{policy}/{own}"))
    }

    pub(super) fn would_deny(&self) -> Option<&Denial> {
        self.decision()?.would_deny.as_ref()
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Decided(decision) => decision.reason.as_str(),
            Self::Open => "open",
            Self::Futile(reason) => reason.as_str(),
            Self::Refused(error) => error.label(),
        }
    }

    fn decision(&self) -> Option<&Decision> {
        match self {
            Self::Decided(decision) => Some(decision),
            Self::Open | Self::Futile(_) | Self::Refused(_) => None,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decided(decision) => {
                let verb = if decision.is_allowed() { "allowed" } else { "denied" };
                let (policy, rule) = (decision.policy.as_deref(), decision.rule.as_deref());
                write!(f, "{verb} {}", because(decision.reason, policy, rule))
            }
            Self::Open => f.write_str("allowed: the connection is opened, and its requests are judged one by one"),
            Self::Futile(reason) => write!(
                f,
                "denied {}; the connection is opened, and each request on it is answered with a denial",
                because(*reason, None, None)
            ),
            Self::Refused(error) => write!(f, "refused before policies are asked: {error}"),
        }
    }
}

/// Why something is allowed or denied, or would be.
pub(super) fn because(reason: Reason, policy: Option<&str>, rule: Option<&str>) -> String {
    let by = match (policy, rule) {
        (Some(policy), Some(rule)) => format!("rule `{rule}` of policy `{policy}`"),
        (Some(policy), None) => format!("policy `{policy}`"),
        (None, _) => "the policies of the service".to_owned(),
    };
    match reason {
        Reason::AllowRule | Reason::DenyRule => format!("by {by}"),
        Reason::NoAllowRule => format!("by {by}: no allow rule matches"),
        Reason::NoPolicy => "because no policy protects the service".to_owned(),
        Reason::StrictMode => "because the mesh is in strict mode, where who has no SPIFFE ID is refused".to_owned(),
        Reason::AuditOnly => format!("because all policies of the service are audit policies: {by}"),
    }
}
