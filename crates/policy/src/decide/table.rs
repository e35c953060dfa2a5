//! The allow or the deny rules of some policies, by who calls, then by port.
//!
//! Invariant: a search asks for the first rule that matches, and a rule that
//! can't be judged counts as matching where it denies, never where it allows.

use std::collections::HashMap;

use super::decision::{Call, Request};
use crate::id_map::IdMap;
use crate::model::Rule;
use crate::protocol::Protocol;
use crate::requests::{GrpcMatch, HeaderCondition, HeaderMatch, HttpMatch, Requests, Segment, host_key};

/// Which rule it is in the order of the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RuleOrder(pub(super) usize);

/// What a rule does where it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Allow,
    Deny,
}

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

/// Rules of one effect.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    peers: IdMap<Ports>,
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
    http: Vec<(RuleOrder, Vec<HttpMatch>)>,
    grpc: Vec<(RuleOrder, Vec<GrpcMatch>)>,
}

impl Table {
    /// Adds a rule, which must come after those that are there already.
    pub(super) fn insert(&mut self, order: RuleOrder, rule: &Rule) {
        for pattern in &rule.from {
            let ports = self.peers.entry(pattern);
            if rule.ports.is_empty() {
                ports.all.insert(order, &rule.requests);
            }
            for port in &rule.ports {
                ports.one.entry(*port).or_default().insert(order, &rule.requests);
            }
        }
    }

    pub(super) fn first_match(&self, effect: Effect, call: &Call<'_>, asked: Asked<'_>) -> Option<RuleOrder> {
        let matching = self.peers.matching(call.peer);
        let found = matching.flat_map(|ports| {
            let one = ports.one.get(&call.port);
            [
                ports.all.first_match(effect, call.protocol, asked, false),
                one.and_then(|rules| rules.first_match(effect, call.protocol, asked, true)),
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
            Requests::Http(items) => self.http.push((order, items.clone())),
            Requests::Grpc(items) => self.grpc.push((order, items.clone())),
        }
    }

    /// `named`: the rules name the port, and are not about all.
    fn first_match(&self, effect: Effect, protocol: Protocol, asked: Asked<'_>, named: bool) -> Option<RuleOrder> {
        let http = self.http.first().map(|(order, _)| *order);
        let grpc = self.grpc.first().map(|(order, _)| *order);
        let mut found = [self.whole, None, None];
        for (slot, kind, first) in [(1, Protocol::Http, http), (2, Protocol::Grpc, grpc)] {
            found[slot] = match (kind == protocol, asked, effect) {
                (true, Asked::Request(request), _) => match kind {
                    Protocol::Http => self.http_match(effect, request),
                    Protocol::Grpc | Protocol::Tcp => self.grpc_match(effect, request),
                },
                (true, Asked::Gate, Effect::Allow) => first,
                (true, Asked::Gate, Effect::Deny) => None,
                // No request to judge.
                (true, Asked::Connection, Effect::Deny) => first,
                (true, Asked::Connection, Effect::Allow) => None,
                // The port does not speak what the rule is about.
                (false, _, Effect::Deny) => first.filter(|_| named),
                (false, _, Effect::Allow) => None,
            };
        }
        found.into_iter().flatten().min()
    }

    fn http_match(&self, effect: Effect, request: &Request<'_>) -> Option<RuleOrder> {
        let matches = |item: &HttpMatch| http_matches(item, effect, request);
        let mut rules = self.http.iter();
        rules
            .find(|(_, items)| items.iter().any(matches))
            .map(|(order, _)| *order)
    }

    fn grpc_match(&self, effect: Effect, request: &Request<'_>) -> Option<RuleOrder> {
        let matches = |item: &GrpcMatch| {
            views(request.path, effect).iter().any(|path| {
                let parts: Vec<&str> = path.split('/').collect();
                let ["", service, method] = parts.as_slice() else {
                    return false;
                };
                item.service.as_str() == *service
                    && (item.methods.is_empty() || item.methods.iter().any(|own| own.as_str() == *method))
            })
        };
        let mut rules = self.grpc.iter();
        rules
            .find(|(_, items)| items.iter().any(matches))
            .map(|(order, _)| *order)
    }
}

fn http_matches(item: &HttpMatch, effect: Effect, request: &Request<'_>) -> bool {
    let methods = item.methods.is_empty() || item.methods.iter().any(|own| own.as_str() == request.method);
    let paths = item.paths.is_empty()
        || views(request.path, effect).iter().any(|path| {
            item.paths
                .iter()
                .any(|pattern| pattern_matches(&pattern.segments().collect::<Vec<_>>(), path))
        });
    let hosts = item.hosts.is_empty()
        || item.hosts.iter().any(|own| {
            let sent = request.host.and_then(host_key);
            sent.is_some() && sent == host_key(own.as_str())
        });
    let headers = item
        .headers
        .iter()
        .all(|header| header_matches(header, effect, request));
    methods && paths && hosts && headers
}

fn header_matches(header: &HeaderMatch, effect: Effect, request: &Request<'_>) -> bool {
    let mut lines = request
        .headers
        .get_all(header.name())
        .iter()
        .map(http::HeaderValue::as_bytes)
        .peekable();
    let is_there = lines.peek().is_some();
    let holds = |line: &[u8]| match header.condition() {
        HeaderCondition::Exact(value) => line == value.as_str().as_bytes(),
        HeaderCondition::Prefix(prefix) => line.starts_with(prefix.as_str().as_bytes()),
        HeaderCondition::Present(_) => true,
    };
    match (header.condition(), effect) {
        (HeaderCondition::Present(wanted), _) => is_there == *wanted,
        (_, Effect::Allow) => is_there && lines.all(holds),
        (_, Effect::Deny) => lines.any(holds),
    }
}

fn pattern_matches(pattern: &[Segment<'_>], path: &str) -> bool {
    let Some(below) = path.strip_prefix('/') else {
        return false;
    };
    let segments: Vec<&str> = below.split('/').collect();
    for (index, own) in pattern.iter().enumerate() {
        let matches = match (own, segments.get(index)) {
            (Segment::Rest, Some(_)) => return true,
            (Segment::One, Some(_)) => true,
            (Segment::Literal(own), Some(segment)) => own == segment,
            (_, None) => false,
        };
        if !matches {
            return false;
        }
    }
    pattern.len() == segments.len()
}

/// The spellings of a path that a rule is compared with.
fn views(path: &str, effect: Effect) -> Vec<String> {
    let mut views = vec![path.to_owned()];
    if effect == Effect::Deny && (path.contains(';') || path.contains("%3B")) {
        let stripped: Vec<&str> = path
            .split('/')
            .map(|s| s.split(';').next().unwrap_or(s))
            .map(|s| s.split("%3B").next().unwrap_or(s))
            .collect();
        views.push(stripped.join("/"));
        let last = stripped.len() - 1;
        let merged: Vec<&str> = stripped
            .iter()
            .enumerate()
            .filter(|(i, s)| *i == 0 || *i == last || !s.is_empty())
            .map(|(_, s)| *s)
            .collect();
        views.push(merged.join("/"));
    }
    views
}
