//! A map that knows what was changed in it, so that only that is written, and
//! that it can be taken back.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::ops::Index;

/// A sorted map with the old values of what was changed since it was settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackedMap<K: Ord, V> {
    now: BTreeMap<K, V>,
    /// Nothing where there was none.
    before: BTreeMap<K, Option<V>>,
}

impl<K: Ord, V> Default for TrackedMap<K, V> {
    fn default() -> Self {
        Self {
            now: BTreeMap::new(),
            before: BTreeMap::new(),
        }
    }
}

impl<K: Ord + Clone, V: Clone + PartialEq> TrackedMap<K, V> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.now.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.now.is_empty()
    }

    /// The value of a key.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.now.get(key)
    }

    /// The value of a key, to be changed.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        if !self.before.contains_key(key) {
            let (key, value) = self.now.get_key_value(key)?;
            self.before.insert(key.clone(), Some(value.clone()));
        }
        self.now.get_mut(key)
    }

    /// Sets the value of a key.
    pub fn insert(&mut self, key: K, value: V) {
        let old = self.now.insert(key.clone(), value);
        self.before.entry(key).or_insert(old);
    }

    /// All values, by key.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.now.values()
    }

    /// All of it, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.now.iter()
    }

    /// Removes what `goes`.
    pub fn remove_if(&mut self, goes: impl Fn(&V) -> bool) {
        for (key, value) in self.now.extract_if(.., |_, value| goes(value)) {
            self.before.entry(key).or_insert(Some(value));
        }
    }

    /// Each key that was changed since it was settled, with its value, or
    /// without one when it is gone.
    pub fn changes(&self) -> impl Iterator<Item = (&K, Option<&V>)> {
        let change = |(key, before): (_, &Option<V>)| {
            let now = self.now.get(key);
            (now != before.as_ref()).then_some((key, now))
        };
        self.before.iter().filter_map(change)
    }

    /// From here on changes count.
    pub fn settle(&mut self) {
        self.before.clear();
    }

    /// Takes back what was changed since it was settled.
    pub fn undo(&mut self) {
        for (key, before) in std::mem::take(&mut self.before) {
            match before {
                Some(value) => self.now.insert(key, value),
                None => self.now.remove(&key),
            };
        }
    }
}

impl<K: Ord, V> Index<&K> for TrackedMap<K, V> {
    type Output = V;

    #[allow(clippy::indexing_slicing, reason = "that is what an index does")]
    fn index(&self, key: &K) -> &V {
        &self.now[key]
    }
}

/// Settled.
impl<K: Ord, V> FromIterator<(K, V)> for TrackedMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        Self {
            now: entries.into_iter().collect(),
            before: BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Insert(u8, u8),
        Change(u8, u8),
        RemoveIfBelow(u8),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0..8_u8, any::<u8>()).prop_map(|(key, value)| Step::Insert(key, value)),
            (0..8_u8, any::<u8>()).prop_map(|(key, value)| Step::Change(key, value)),
            (0..80_u8).prop_map(Step::RemoveIfBelow),
        ];
        prop::collection::vec(step, 0..20)
    }

    fn make(map: &mut TrackedMap<u8, u8>, steps: &[Step]) {
        for step in steps {
            match *step {
                Step::Insert(key, value) => map.insert(key, value),
                Step::Change(key, value) => {
                    if let Some(old) = map.get_mut(&key) {
                        *old = value;
                    }
                }
                Step::RemoveIfBelow(limit) => map.remove_if(|value| *value < limit),
            }
        }
    }

    proptest! {
        #[test]
        fn changes_are_what_differs_and_can_be_taken_back(
            first in prop::collection::btree_map(0..8_u8, any::<u8>(), 0..8),
            steps in steps(),
            more in steps(),
        ) {
            let mut map: TrackedMap<u8, u8> = first.clone().into_iter().collect();
            make(&mut map, &steps);
            let mut copy = first.clone();
            for (key, value) in map.changes() {
                let was = match value {
                    Some(value) => copy.insert(*key, *value),
                    None => copy.remove(key),
                };
                prop_assert_ne!(was, value.copied());
            }
            prop_assert_eq!(&copy, &map.now);
            let mut undone = map.clone();
            undone.undo();
            prop_assert_eq!(&undone.now, &first);
            map.settle();
            prop_assert_eq!(map.changes().count(), 0);
            make(&mut map, &more);
            map.undo();
            prop_assert_eq!(&map.now, &copy);
        }
    }
}
