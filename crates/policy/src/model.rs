//! What a policy says, independent of how it is written down or evaluated.
//!
//! Invariants of whatever comes from a file or over the wire: names are
//! [`is_name`] and unique, `from` is not empty, ports are not 0, and no rule is
//! above [`MAX_RULE_WEIGHT`]. Who builds a policy by hand vouches for that.

use crate::pattern::IdPattern;
use crate::principal::Callers;
use crate::requests::Requests;

/// The longest name of a policy or a rule, in characters.
pub const MAX_NAME: usize = 128;

/// The largest [`Rule::weight`].
pub const MAX_RULE_WEIGHT: usize = 100_000;

/// The largest sum of weights in a set of policies, which bounds the memory
/// that a set takes.
pub const MAX_SET_WEIGHT: usize = 1_000_000;

/// Whether it can name a policy or a rule: 1 to [`MAX_NAME`] characters,
/// without control characters, and without spaces around it.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let plain = text.trim() == text && !text.chars().any(char::is_control);
    plain && (1..=MAX_NAME).contains(&text.chars().count())
}

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
    pub from: Vec<Callers>,
    /// The service's ports it is about; empty means all.
    pub ports: Vec<u16>,
    /// Which requests it is about. Not about all: then it matches only on ports
    /// that speak that protocol.
    pub requests: Requests,
}

impl Policy {
    /// The weight of its rules together.
    #[must_use]
    pub fn weight(&self) -> usize {
        let rules = self.allow.iter().chain(&self.deny);
        rules.fold(0, |sum, rule| sum.saturating_add(rule.weight()))
    }
}

impl Rule {
    /// How many combinations of caller, port, method, path and host it spells
    /// out, each of which takes a place in a compiled set.
    #[must_use]
    pub fn weight(&self) -> usize {
        let requests = match &self.requests {
            Requests::All => 1,
            Requests::Http(items) => items.iter().fold(0, |sum: usize, item| {
                let lists = [item.methods.len(), item.paths.len(), item.hosts.len()];
                sum.saturating_add(product(&lists))
            }),
            Requests::Grpc(items) => items.iter().map(|item| item.methods.len().max(1)).sum(),
        };
        product(&[self.from.len(), self.ports.len(), requests])
    }
}

/// An empty list means all, which is one place.
fn product(lists: &[usize]) -> usize {
    lists
        .iter()
        .fold(1, |product, list| product.saturating_mul(*list.max(&1)))
}
