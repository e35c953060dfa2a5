//! Lists whose items are alternatives.
//!
//! Invariant: an empty list is an error, since nothing must not read as
//! everything.

use std::collections::HashMap;
use std::hash::Hash;

use crate::diagnostic::{Position, Report};
use crate::document::Node;

/// What messages call a list and its items.
#[derive(Clone, Copy)]
pub(super) struct List {
    pub(super) key: &'static str,
    /// `ports`
    pub(super) items: &'static str,
    /// `at least one port, or …`
    pub(super) instead: &'static str,
}

impl List {
    /// The items of `node`, all of them or none. One that is given twice is
    /// warned of.
    pub(super) fn read<T: Eq + Hash>(
        self,
        node: &Node,
        report: &mut Report,
        mut read: impl FnMut(&Node, &mut Report) -> Option<T>,
    ) -> Option<Vec<T>> {
        let nodes = node.list(self.items, report)?;
        if nodes.is_empty() {
            report.error(node.at, format!("`{}` is empty: list {}", self.key, self.instead));
            return None;
        }
        let items: Vec<Option<T>> = nodes.iter().map(|node| read(node, report)).collect();
        let mut first: HashMap<&T, Position> = HashMap::with_capacity(items.len());
        for (item, node) in items.iter().zip(nodes) {
            let Some(item) = item else { continue };
            if let Some(earlier) = first.get(item) {
                let message = format!(
                    "the same stands twice in `{}`, first on line {}: keep one",
                    self.key, earlier.line
                );
                report.warning(node.at, message);
            } else {
                first.insert(item, node.at);
            }
        }
        items.into_iter().collect()
    }
}

/// Where the items of a list stand; nothing where `node` is no list.
pub(super) fn places(node: &Node) -> Vec<Position> {
    let mut unheard = Report::new("");
    let nodes = node.list("", &mut unheard).unwrap_or_default();
    nodes.iter().map(|node| node.at).collect()
}
