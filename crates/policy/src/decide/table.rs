//! The allow or the deny rules of some policies, by who calls, then by port.
//!
//! Invariant: a search asks for the first rule that matches, and a rule that
//! can't be judged counts as matching where it denies, never where it allows.

use foldhash::HashMap;

use super::blocks::{GrpcBlocks, HttpBlocks};
use super::conditions::Search;
use super::decision::{Call, Request};
use super::effect::{Effect, RuleOrder};
use crate::id_map::IdMap;
use crate::model::Rule;
use crate::principal::{Callers, Principal};
use crate::protocol::Protocol;
use crate::requests::Requests;

/// What is asked about a call.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asked<'a> {
    /// Whether it may be opened and left alone.
    Connection,
    /// Whether it may be opened, since each request will be judged; of allow
    /// rules, whether one could match a request.
    Gate,
    /// Whether this request on it may pass.
    Request(&'a Request<'a>),
}

/// What is asked of rules of one effect.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question<'a> {
    pub(super) effect: Effect,
    pub(super) call: &'a Call<'a>,
    pub(super) asked: Asked<'a>,
}

/// Rules of one effect.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    peers: IdMap<Ports>,
    /// Few meshes have such callers, so they take no room without any.
    unauthenticated: Option<Box<Ports>>,
}

#[derive(Clone, Debug, Default)]
struct Ports {
    all: Rules,
    one: HashMap<u16, Rules>,
}

/// Rules for the same peers and port.
#[derive(Clone, Debug, Default)]
struct Rules {
    /// The first one without a block.
    whole: Option<RuleOrder>,
    /// There are services without any, so they take no room.
    http: Option<Box<HttpBlocks>>,
    grpc: Option<Box<GrpcBlocks>>,
}

impl Table {
    /// Adds a rule, which must come after those that are there already.
    pub(super) fn insert(&mut self, order: RuleOrder, rule: &Rule) {
        for callers in &rule.from {
            let ports = match callers {
                Callers::Workloads(pattern) => self.peers.entry(pattern),
                Callers::Unauthenticated => self.unauthenticated.get_or_insert_default(),
            };
            if rule.ports.is_empty() {
                ports.all.insert(order, &rule.requests);
            }
            for port in &rule.ports {
                ports.one.entry(*port).or_default().insert(order, &rule.requests);
            }
        }
    }

    pub(super) fn first_match(&self, question: &Question<'_>) -> Option<RuleOrder> {
        let (id, anybody) = match question.call.peer {
            Principal::Workload(id) => (Some(id), None),
            Principal::Unauthenticated => (None, self.unauthenticated.as_deref()),
        };
        let matching = id.into_iter().flat_map(|id| self.peers.matching(id));
        let found = matching.chain(anybody).flat_map(|ports| {
            let one = ports.one.get(&question.call.port);
            [
                ports.all.first_match(question, false),
                one.and_then(|rules| rules.first_match(question, true)),
            ]
        });
        found.flatten().min()
    }
}

impl Rules {
    fn insert(&mut self, order: RuleOrder, requests: &Requests) {
        match requests {
            Requests::All => {
                self.whole.get_or_insert(order);
            }
            Requests::Http(items) => self.http.get_or_insert_default().insert(order, items),
            Requests::Grpc(items) => self.grpc.get_or_insert_default().insert(order, items),
        }
    }

    /// `named`: the rules name the port, and are not about all.
    fn first_match(&self, question: &Question<'_>, named: bool) -> Option<RuleOrder> {
        let http = self.http.as_deref().and_then(|blocks| {
            let search = |search: &mut Search<'_>| blocks.search(search);
            question.judge(Protocol::Http, named, blocks.first, search)
        });
        let grpc = self.grpc.as_deref().and_then(|blocks| {
            let search = |search: &mut Search<'_>| blocks.search(search);
            question.judge(Protocol::Grpc, named, blocks.first, search)
        });
        self.whole.into_iter().chain(http).chain(grpc).min()
    }
}

impl Question<'_> {
    /// The first match of rules with a block for `protocol`, of which `first`
    /// is the first one and `search` looks for a request.
    fn judge(
        &self,
        protocol: Protocol,
        named: bool,
        first: Option<RuleOrder>,
        search: impl FnOnce(&mut Search<'_>),
    ) -> Option<RuleOrder> {
        let is_spoken = protocol == self.call.protocol;
        match (self.effect, self.asked, is_spoken) {
            (effect, Asked::Request(request), true) => {
                let mut found = Search::new(effect, request);
                search(&mut found);
                found.found
            }
            // Some request could match, and each will be judged.
            (Effect::Allow, Asked::Gate, true) => first,
            (Effect::Deny, Asked::Gate, true) => None,
            // There is no request to judge by.
            (Effect::Deny, Asked::Connection, true) => first,
            (Effect::Allow, Asked::Connection, true) => None,
            // What was meant can't be enforced on this port. A rule that does
            // not name it is about other ports.
            (Effect::Deny, _, false) => first.filter(|_| named),
            (Effect::Allow, _, false) => None,
        }
    }
}
