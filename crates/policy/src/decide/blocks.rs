//! The `http` and the `grpc` blocks of rules for the same peers and port.
//!
//! Invariant: a search allocates nothing, and costs what `path_trie` and
//! `conditions` say; for gRPC it is two hashes.

use foldhash::HashMap;

use super::conditions::{Conditions, Search};
use super::effect::RuleOrder;
use super::path_trie::PathTrie;
use super::path_view::PathView;
use crate::requests::{GrpcMatch, HttpMatch};

/// Rules with an `http` block.
#[derive(Clone, Debug, Default)]
pub(super) struct HttpBlocks {
    /// The first one.
    pub(super) first: Option<RuleOrder>,
    /// Without `paths`: also about `OPTIONS *`.
    any_path: Conditions,
    paths: PathTrie<Conditions>,
}

impl HttpBlocks {
    /// Adds a rule, which must come after those that are there already.
    pub(super) fn insert(&mut self, order: RuleOrder, items: &[HttpMatch]) {
        self.first.get_or_insert(order);
        for item in items {
            if item.paths.is_empty() {
                self.any_path.insert(order, item);
            }
            for pattern in &item.paths {
                self.paths.entry(pattern).insert(order, item);
            }
        }
    }

    pub(super) fn search(&self, search: &mut Search<'_>) {
        self.any_path.search(search);
        let path = search.request.path;
        for view in PathView::of(path, search.effect) {
            self.paths
                .visit(path, *view, &mut |conditions| conditions.search(search));
        }
    }
}

/// Rules with a `grpc` block.
#[derive(Clone, Debug, Default)]
pub(super) struct GrpcBlocks {
    /// The first one.
    pub(super) first: Option<RuleOrder>,
    services: HashMap<Box<str>, Methods>,
}

#[derive(Clone, Debug, Default)]
struct Methods {
    all: Option<RuleOrder>,
    one: HashMap<Box<str>, RuleOrder>,
}

impl GrpcBlocks {
    /// Adds a rule, which must come after those that are there already.
    pub(super) fn insert(&mut self, order: RuleOrder, items: &[GrpcMatch]) {
        self.first.get_or_insert(order);
        for item in items {
            let methods = self.services.entry(item.service.as_str().into()).or_default();
            if item.methods.is_empty() {
                methods.all.get_or_insert(order);
            }
            for method in &item.methods {
                methods.one.entry(method.as_str().into()).or_insert(order);
            }
        }
    }

    pub(super) fn search(&self, search: &mut Search<'_>) {
        let Some(below_root) = search.request.path.strip_prefix('/') else {
            return;
        };
        for view in PathView::of(below_root, search.effect) {
            let (service, Some(behind)) = view.split(below_root) else {
                continue;
            };
            let (method, None) = view.split(behind) else {
                continue;
            };
            if let Some(methods) = self.services.get(service) {
                search.offer(methods.all);
                search.offer(methods.one.get(method).copied());
            }
        }
    }
}
