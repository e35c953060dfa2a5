//! Rules about the same paths: by method, then by host, then by header.
//!
//! Invariants: a search costs the same however many rules there are, but for
//! those with header conditions on the same paths, method and host: there the
//! ones with an `exact` condition are found by their first one, and the rest
//! (`prefix` and `present` alone) is gone through in order. It allocates
//! nothing.

use std::cell::OnceCell;
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt as _};
use http::HeaderName;

use super::decision::Request;
use super::effect::{Effect, RuleOrder};
use crate::requests::{HeaderCondition, HeaderMatch, HostKey, HttpMatch, host_key};

/// A search for the first rule that matches a request.
#[derive(Debug)]
pub(super) struct Search<'r> {
    pub(super) effect: Effect,
    pub(super) request: &'r Request<'r>,
    /// Of the request: made when a rule asks for it.
    host: OnceCell<Option<HostKey>>,
    pub(super) found: Option<RuleOrder>,
}

impl<'r> Search<'r> {
    pub(super) fn new(effect: Effect, request: &'r Request<'r>) -> Self {
        Self {
            effect,
            request,
            host: OnceCell::new(),
            found: None,
        }
    }

    /// Takes note of a rule that matches.
    pub(super) fn offer(&mut self, order: Option<RuleOrder>) {
        self.found = self.found.into_iter().chain(order).min();
    }

    fn host(&self) -> Option<&HostKey> {
        let key = self.host.get_or_init(|| self.request.host.and_then(host_key));
        key.as_ref()
    }

    /// Offers the first of `rules`, which are in order, whose conditions hold.
    fn offer_first(&mut self, rules: &[Conditional]) {
        let holds = |rule: &&Conditional| self.holds(&rule.headers);
        let first = rules.iter().find(holds).map(|rule| rule.order);
        self.offer(first);
    }

    fn holds(&self, headers: &[HeaderMatch]) -> bool {
        headers.iter().all(|header| {
            let lines = self.request.headers.get_all(header.name());
            let mut lines = lines.iter().map(http::HeaderValue::as_bytes).peekable();
            let is_there = lines.peek().is_some();
            let value_holds = |line: &[u8]| match header.condition() {
                HeaderCondition::Exact(value) => line == value.as_str().as_bytes(),
                HeaderCondition::Prefix(prefix) => line.starts_with(prefix.as_str().as_bytes()),
                HeaderCondition::Present(wanted) => *wanted,
            };
            match (header.condition(), self.effect) {
                (HeaderCondition::Present(wanted), _) => *wanted == is_there,
                (_, Effect::Allow) => is_there && lines.all(value_holds),
                (_, Effect::Deny) => lines.any(value_holds),
            }
        })
    }
}

/// By method.
#[derive(Clone, Debug, Default)]
pub(super) struct Conditions {
    any: ByHost,
    methods: HashMap<Box<str>, ByHost>,
}

#[derive(Clone, Debug, Default)]
struct ByHost {
    any: ByHeader,
    /// Few rules name hosts, so it takes no room without any.
    hosts: Option<Box<Hosts>>,
}

#[derive(Clone, Debug, Default)]
struct Hosts {
    /// By [`HostKey`].
    by_key: HashMap<Box<[u8]>, ByHeader>,
}

#[derive(Clone, Debug, Default)]
struct ByHeader {
    /// The first rule without header conditions.
    always: Option<RuleOrder>,
    /// Few rules name headers, so it takes no room without any.
    conditional: Option<Box<Conditionals>>,
}

/// Rules with header conditions.
#[derive(Clone, Debug, Default)]
struct Conditionals {
    /// By the header and the value of their first `exact` condition.
    exact: Vec<(HeaderName, ByValue)>,
    /// Those without any.
    others: Vec<Conditional>,
}

/// By the value of a header; each list in order.
type ByValue = HashMap<Box<[u8]>, Vec<Conditional>>;

/// A rule that matches where all of its header conditions hold.
#[derive(Clone, Debug)]
struct Conditional {
    order: RuleOrder,
    headers: Arc<[HeaderMatch]>,
}

impl Conditions {
    /// Adds what `item` says beside its paths, of a rule that comes after
    /// those that are there already.
    pub(super) fn insert(&mut self, order: RuleOrder, item: &HttpMatch) {
        if item.methods.is_empty() {
            self.any.insert(order, item);
        }
        for method in &item.methods {
            let by_host = self.methods.entry(method.as_str().into()).or_default();
            by_host.insert(order, item);
        }
    }

    pub(super) fn search(&self, search: &mut Search<'_>) {
        self.any.search(search);
        if let Some(by_host) = self.methods.get(search.request.method) {
            by_host.search(search);
        }
    }
}

impl ByHost {
    fn insert(&mut self, order: RuleOrder, item: &HttpMatch) {
        if item.hosts.is_empty() {
            self.any.insert(order, &item.headers);
        }
        for key in item.hosts.iter().filter_map(|host| host_key(host.as_str())) {
            let hosts = self.hosts.get_or_insert_default();
            let by_header = hosts.by_key.entry(key.as_bytes().into()).or_default();
            by_header.insert(order, &item.headers);
        }
    }

    fn search(&self, search: &mut Search<'_>) {
        self.any.search(search);
        let Some(hosts) = &self.hosts else { return };
        let by_header = search.host().and_then(|key| hosts.by_key.get(key.as_bytes()));
        if let Some(by_header) = by_header {
            by_header.search(search);
        }
    }
}

impl ByHeader {
    fn insert(&mut self, order: RuleOrder, headers: &[HeaderMatch]) {
        if headers.is_empty() {
            self.always.get_or_insert(order);
        } else {
            self.conditional.get_or_insert_default().insert(order, headers);
        }
    }

    fn search(&self, search: &mut Search<'_>) {
        search.offer(self.always);
        if let Some(conditional) = &self.conditional {
            conditional.search(search);
        }
    }
}

impl Conditionals {
    fn insert(&mut self, order: RuleOrder, headers: &[HeaderMatch]) {
        let exact = headers.iter().find_map(|header| match header.condition() {
            HeaderCondition::Exact(value) => Some((header.name(), value.as_str().as_bytes())),
            HeaderCondition::Prefix(_) | HeaderCondition::Present(_) => None,
        });
        let list = match exact {
            Some((name, value)) => self.values_of(name).entry(value.into()).or_default(),
            None => &mut self.others,
        };
        list.push(Conditional {
            order,
            headers: headers.into(),
        });
    }

    fn values_of(&mut self, name: &HeaderName) -> &mut ByValue {
        let known = self.exact.iter().position(|(known, _)| known == name);
        let index = known.unwrap_or_else(|| {
            self.exact.push((name.clone(), HashMap::new()));
            self.exact.len() - 1
        });
        &mut self.exact[index].1
    }

    fn search(&self, search: &mut Search<'_>) {
        let headers = search.request.headers;
        for (name, values) in &self.exact {
            for line in headers.get_all(name) {
                if let Some(rules) = values.get(line.as_bytes()) {
                    search.offer_first(rules);
                }
            }
        }
        search.offer_first(&self.others);
    }
}
