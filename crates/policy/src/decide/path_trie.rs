//! Values by path pattern, asked with a path.
//!
//! Invariants: a lookup costs one hash per segment at most and allocates nothing. Where
//! a literal and `*` stand at the same place both are followed, so a lookup
//! visits at most as many nodes as there are patterns that agree with the path
//! so far: a caller can't add to them. Patterns are short ([`PathPattern`]),
//! which bounds the depth.

use foldhash::{HashMap, HashMapExt as _};

use super::path_view::PathView;
use crate::requests::{PathPattern, Segment};

/// Values by pattern.
#[derive(Clone, Debug)]
pub(super) struct PathTrie<T> {
    root: Node<T>,
}

#[derive(Clone, Debug)]
struct Node<T> {
    literals: Literals<T>,
    /// `*`.
    one: Option<Box<Self>>,
    /// A final `/*`.
    rest: Option<Box<T>>,
    /// The pattern ends here.
    end: Option<Box<T>>,
}

/// Nodes by segment. Most paths begin alike, so one is the usual number at a
/// place; a map for each would take most of the memory.
#[derive(Clone, Debug)]
struct Literals<T> {
    first: Option<(Box<str>, Box<Node<T>>)>,
    others: HashMap<Box<str>, Node<T>>,
}

impl<T> Default for PathTrie<T> {
    fn default() -> Self {
        Self { root: Node::default() }
    }
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self {
            literals: Literals {
                first: None,
                others: HashMap::new(),
            },
            one: None,
            rest: None,
            end: None,
        }
    }
}

impl<T: Default> PathTrie<T> {
    /// The value of exactly this pattern, made if it is not there.
    pub(super) fn entry(&mut self, pattern: &PathPattern) -> &mut T {
        let mut node = &mut self.root;
        for segment in pattern.segments() {
            node = match segment {
                Segment::Literal(text) => node.literals.entry(text),
                Segment::One => node.one.get_or_insert_default(),
                Segment::Rest => return node.rest.get_or_insert_default(),
            };
        }
        node.end.get_or_insert_default()
    }
}

impl<T> PathTrie<T> {
    /// Visits the values of all patterns that match, in no particular order.
    pub(super) fn visit(&self, path: &str, view: PathView, visitor: &mut impl FnMut(&T)) {
        if let Some(below_root) = path.strip_prefix('/') {
            self.root.visit(Some(below_root), view, visitor);
        }
    }
}

impl<T> Node<T> {
    /// `rest`: what stands behind the next slash, if there is one.
    fn visit(&self, rest: Option<&str>, view: PathView, visitor: &mut impl FnMut(&T)) {
        let Some(rest) = rest else {
            self.end.iter().for_each(|value| visitor(value));
            return;
        };
        self.rest.iter().for_each(|value| visitor(value));
        if self.literals.first.is_none() && self.one.is_none() {
            return;
        }
        let (segment, behind) = view.split(rest);
        if let Some(node) = self.literals.get(segment) {
            node.visit(behind, view, visitor);
        }
        if let Some(node) = &self.one {
            node.visit(behind, view, visitor);
        }
    }
}

impl<T> Literals<T> {
    fn get(&self, segment: &str) -> Option<&Node<T>> {
        let (first, node) = self.first.as_ref()?;
        if **first == *segment {
            return Some(node);
        }
        self.others.get(segment)
    }

    /// The node of `segment`, made if it is not there.
    fn entry(&mut self, segment: &str) -> &mut Node<T> {
        if self.first.as_ref().is_some_and(|(first, _)| **first != *segment) {
            return self.others.entry(segment.into()).or_default();
        }
        let first = self.first.get_or_insert_with(|| (segment.into(), Box::default()));
        &mut first.1
    }
}
