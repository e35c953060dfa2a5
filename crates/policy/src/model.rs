//! What a policy says, independent of how it is written down or evaluated.
//!
//! Invariant: names are not empty, `from` is not empty and ports are not 0 in
//! whatever comes from a file; who builds a policy by hand vouches for that.

use crate::pattern::IdPattern;
use crate::requests::Requests;

/// Who may call the workloads that `service` matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Unique within a set of policies.
    pub name: String,
    /// Whom it protects.
    pub service: IdPattern,
    /// Who may call, in the order of the file.
    pub allow: Vec<Rule>,
    /// Who may not, even where an allow rule of any policy matches.
    pub deny: Vec<Rule>,
    /// Record what it would decide, and enforce nothing.
    pub audit: bool,
}

/// One line of a policy: it matches a call whose peer is in `from` and whose
/// port is in `ports`; with `requests`, only those of its requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Unique within its policy; `allow[0]` and so on if the file gives none.
    pub name: String,
    /// The peers it is about.
    pub from: Vec<IdPattern>,
    /// The service's ports it is about; empty means all.
    pub ports: Vec<u16>,
    /// Which requests it is about. Not about all: then it matches only on ports
    /// that speak that protocol.
    pub requests: Requests,
}
