//! What was used lately, up to a bound.

use std::collections::HashMap;
use std::hash::Hash;

/// Keeps what was used lately. Two maps: what is used goes to the young one; when that holds half of the bound, it
/// becomes the old one, and what the old one still held is dropped.
#[derive(Debug)]
pub struct Recent<K, V> {
    young: HashMap<K, (V, usize)>,
    old: HashMap<K, (V, usize)>,
    /// What is in `young`.
    weight: usize,
    /// Half of the bound.
    half: usize,
}

impl<K: Copy + Eq + Hash, V> Recent<K, V> {
    /// Keeps things of a weight of at most `bound` altogether, and the one that was put in last.
    #[must_use]
    pub fn new(bound: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), weight: 0, half: bound / 2 }
    }

    /// What is kept under a key; what is not is made, of a weight.
    pub fn get_or_put<E>(&mut self, key: K, make: impl FnOnce() -> Result<(V, usize), E>) -> Result<&V, E> {
        if self.young.contains_key(&key) {
            return Ok(&self.young[&key].0);
        }
        let (value, weight) = match self.old.remove(&key) {
            Some(kept) => kept,
            None => make()?,
        };
        Ok(self.put(key, value, weight))
    }

    pub fn get(&mut self, key: K) -> Option<&V> {
        if let Some((value, weight)) = self.old.remove(&key) {
            self.put(key, value, weight);
        }
        self.young.get(&key).map(|(value, _)| value)
    }

    pub fn put(&mut self, key: K, value: V, weight: usize) -> &V {
        if !self.young.is_empty() && self.weight + weight > self.half {
            self.old = std::mem::take(&mut self.young);
            self.weight = 0;
        }
        self.weight += weight;
        let entry = self.young.entry(key).insert_entry((value, weight));
        &entry.into_mut().0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl<K, V> Recent<K, V> {
        fn held(&self) -> usize {
            self.young.values().chain(self.old.values()).map(|(_, weight)| weight).sum()
        }
    }

    proptest! {
        #[test]
        fn what_is_found_is_what_was_put_and_the_bound_holds(
            uses in proptest::collection::vec((0u8..30, 1usize..5), 0..300)
        ) {
            let mut recent = Recent::new(20);
            let mut last = None;
            for (n, (key, weight)) in uses.into_iter().enumerate() {
                match recent.get(key) {
                    Some((of, _)) => prop_assert_eq!(*of, key),
                    None => {
                        recent.put(key, (key, n), weight);
                    }
                }
                // What was used last is still there.
                if let Some(last) = last {
                    prop_assert!(last == key || recent.young.contains_key(&last) || recent.old.contains_key(&last));
                }
                last = Some(key);
                prop_assert!(recent.held() <= 20, "{}", recent.held());
            }
        }
    }
}
