//! A map whose copies share what has not changed: copying it, and finding out
//! what differs between two copies, costs little however long its values are.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Index;
use std::sync::Arc;

/// A sorted map with values that are copied when they are written to.
#[derive(Debug, Clone)]
pub struct SharedMap<K: Ord, V>(BTreeMap<K, Arc<V>>);

impl<K: Ord, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord, V: PartialEq> PartialEq for SharedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        let same = |((left, was), (right, is)): ((&K, &Arc<V>), (&K, &Arc<V>))| {
            Arc::ptr_eq(was, is) || (left == right && was == is)
        };
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(same)
    }
}

impl<K: Ord, V: Eq> Eq for SharedMap<K, V> {}

impl<K: Ord + Clone, V: Clone + PartialEq> SharedMap<K, V> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of a key.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.0.get(key).map(Arc::as_ref)
    }

    /// The value of a key, to be changed.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        self.0.get_mut(key).map(Arc::make_mut)
    }

    /// Sets the value of a key.
    pub fn insert(&mut self, key: K, value: V) {
        self.0.insert(key, Arc::new(value));
    }

    /// All values, by key.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.0.values().map(Arc::as_ref)
    }

    /// All of it, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.iter().map(|(key, value)| (key, value.as_ref()))
    }

    /// Changes those that `wants` says, and keeps those that `keeps` says.
    pub fn sweep(&mut self, wants: impl Fn(&V) -> bool, change: impl Fn(&mut V), keeps: impl Fn(&V) -> bool) {
        for value in self.0.values_mut().filter(|value| wants(value)) {
            change(Arc::make_mut(value));
        }
        self.0.retain(|_, value| keeps(value));
    }

    /// What makes `next` of this one: each key that differs, with its new
    /// value, or without one when it is gone. One walk along both.
    pub fn changes<'a>(&'a self, next: &'a Self) -> Vec<(&'a K, Option<&'a V>)> {
        let (mut old, mut new) = (self.0.iter().peekable(), next.0.iter().peekable());
        let mut changes = Vec::new();
        loop {
            let order = match (old.peek(), new.peek()) {
                (None, None) => return changes,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                // Copies share values, and no two keys share one.
                (Some((_, was)), Some((_, is))) if Arc::ptr_eq(was, is) => Ordering::Equal,
                (Some((left, _)), Some((right, _))) => left.cmp(right),
            };
            let was = old.next_if(|_| order.is_le());
            let is = new.next_if(|_| order.is_ge());
            match (was, is) {
                (Some((_, was)), Some((_, is))) if Arc::ptr_eq(was, is) || was == is => {}
                (_, Some((key, is))) => changes.push((key, Some(is.as_ref()))),
                (Some((key, _)), None) => changes.push((key, None)),
                (None, None) => return changes,
            }
        }
    }
}

impl<K: Ord, V> Index<&K> for SharedMap<K, V> {
    type Output = V;

    #[allow(clippy::indexing_slicing, reason = "that is what an index does")]
    fn index(&self, key: &K) -> &V {
        &self.0[key]
    }
}

impl<K: Ord, V> FromIterator<(K, V)> for SharedMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        Self(entries.into_iter().map(|(key, value)| (key, Arc::new(value))).collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_copy_is_changed_alone() {
        let one: SharedMap<u8, u8> = [(1, 1), (2, 2)].into_iter().collect();
        let mut other = one.clone();
        *other.get_mut(&1).unwrap() = 9;
        assert_eq!((one[&1], other[&1], other[&2]), (1, 9, 2));
    }

    proptest! {
        #[test]
        fn changes_make_one_of_the_other_and_are_no_more_than_needed(
            before: BTreeMap<u8, u8>,
            after: BTreeMap<u8, u8>,
        ) {
            let shared = |map: &BTreeMap<u8, u8>| map.clone().into_iter().collect::<SharedMap<u8, u8>>();
            let mut made = before.clone();
            let (old, new) = (shared(&before), shared(&after));
            for (key, value) in old.changes(&new) {
                let was = match value {
                    Some(value) => made.insert(*key, *value),
                    None => made.remove(key),
                };
                prop_assert_ne!(was, value.copied());
            }
            prop_assert_eq!(made, after);
            prop_assert_eq!(new.changes(&new.clone()).len(), 0);
        }
    }
}
