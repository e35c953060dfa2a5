//! A map from ID patterns to values, asked with an ID.
//!
//! Invariant: a lookup costs one hash of the trust domain, one of the path and
//! one per segment of the path, however many patterns the map holds, and it
//! allocates nothing. Segments deeper than the deepest prefix are not hashed,
//! so a long path from a peer costs no more than the policies ask for.

use foldhash::{HashMap, HashMapExt as _};
use spiffe::SpiffeId;

use crate::pattern::IdPattern;

/// Values by ID pattern.
#[derive(Clone, Debug)]
pub(crate) struct IdMap<T> {
    domains: HashMap<String, Domain<T>>,
}

#[derive(Clone, Debug)]
struct Domain<T> {
    /// By path.
    exact: HashMap<String, T>,
    /// By path without `/*`: the whole trust domain is "".
    prefixes: HashMap<String, T>,
    /// Bytes of the longest key of `prefixes`.
    longest_prefix: usize,
}

impl<T> Default for IdMap<T> {
    fn default() -> Self {
        Self {
            domains: HashMap::new(),
        }
    }
}

impl<T> Default for Domain<T> {
    fn default() -> Self {
        Self {
            exact: HashMap::new(),
            prefixes: HashMap::new(),
            longest_prefix: 0,
        }
    }
}

impl<T: Default> IdMap<T> {
    /// The value of exactly this pattern, made if it is not there.
    pub(crate) fn entry(&mut self, pattern: &IdPattern) -> &mut T {
        let name = pattern.trust_domain().as_str().to_owned();
        let domain = self.domains.entry(name).or_default();
        match pattern {
            IdPattern::Exact(id) => domain.exact.entry(id.path().to_owned()).or_default(),
            IdPattern::Prefix(prefix) => {
                let path = prefix.path();
                domain.longest_prefix = domain.longest_prefix.max(path.len());
                domain.prefixes.entry(path.to_owned()).or_default()
            }
        }
    }
}

impl<T> IdMap<T> {
    /// The values of all patterns that match everything that `pattern` matches,
    /// in no particular order.
    pub(crate) fn covering<'m>(&'m self, pattern: &IdPattern) -> impl Iterator<Item = &'m T> {
        let (path, exact) = match pattern {
            IdPattern::Exact(id) => (id.path(), true),
            IdPattern::Prefix(prefix) => (prefix.path(), false),
        };
        let domain = self.domains.get(pattern.trust_domain().as_str());
        domain.into_iter().flat_map(move |domain| {
            let above = path.match_indices('/').map(|(end, _)| &path[..end]);
            let above = above.chain((!exact).then_some(path));
            let prefixes = above.filter_map(|path| domain.prefixes.get(path));
            let own = domain.exact.get(path).filter(|_| exact);
            // Owned, since `pattern` need not live as long as the map.
            own.into_iter().chain(prefixes).collect::<Vec<_>>()
        })
    }

    /// The values of all patterns that match `id`, in no particular order.
    pub(crate) fn matching<'m>(&'m self, id: &SpiffeId) -> impl Iterator<Item = &'m T> {
        let path = id.path();
        let domain = self.domains.get(id.trust_domain_name());
        domain.into_iter().flat_map(move |domain| {
            // A shallow map of exact IDs only must not hash a single prefix.
            let deepest = if domain.prefixes.is_empty() {
                0
            } else {
                domain.longest_prefix + 1
            };
            let reachable = &path.as_bytes()[..deepest.min(path.len())];
            let slashes = reachable.iter().enumerate().filter(|(_, byte)| **byte == b'/');
            let prefixes = slashes.filter_map(move |(end, _)| domain.prefixes.get(&path[..end]));
            domain.exact.get(path).into_iter().chain(prefixes)
        })
    }
}
