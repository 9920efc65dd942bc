//! An index of which most entries name one thing or two: a sorted list of one is a tenth of a set of one.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

/// What belongs to a key, in order and without doubles.
#[derive(Clone, Debug)]
pub(super) struct Index<K, V>(HashMap<K, Vec<V>>);

impl<K, V> Default for Index<K, V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash, V: Ord> Index<K, V> {
    /// All that belongs to `key`.
    pub(super) fn of(&self, key: &K) -> &[V] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    /// `value` belongs to `key`.
    pub(super) fn add(&mut self, key: K, value: V) {
        let list = self.0.entry(key).or_default();
        if let Err(place) = list.binary_search(&value) {
            list.reserve_exact(1);
            list.insert(place, value);
        }
    }

    /// `value` belongs to `key` no more.
    pub(super) fn remove<Q: Ord + ?Sized>(&mut self, key: &K, value: &Q)
    where
        V: Borrow<Q>,
    {
        let Some(list) = self.0.get_mut(key) else {
            return;
        };
        if let Ok(place) = list.binary_search_by(|there| there.borrow().cmp(value)) {
            list.remove(place);
        }
        if list.is_empty() {
            self.0.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_a_key_is_in_order_and_without_doubles() {
        let mut index = Index::default();
        for value in ["b", "a", "b", "c"] {
            index.add(1, value.to_owned());
        }
        assert_eq!(index.of(&1), ["a", "b", "c"]);
        for value in ["b", "none", "a", "c"] {
            index.remove(&1, value);
        }
        assert!(index.of(&1).is_empty() && index.0.is_empty());
    }
}
