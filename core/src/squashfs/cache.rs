//! A small set-associative cache: bounded, shared by threads, and each value loaded once.

use std::sync::{Arc, Mutex, MutexGuard};

/// Values of one set, most recently used first.
type Set<V> = Mutex<Vec<(u64, Arc<V>)>>;

/// `sets` × `ways` values at most. A set's lock is held while a value is loaded, so that readers who want the
/// same value at the same time wait for one load instead of repeating it.
pub struct Cache<V> {
    sets: Box<[Set<V>]>,
    ways: usize,
}

impl<V> Cache<V> {
    pub fn new(sets: usize, ways: usize) -> Cache<V> {
        Cache { sets: (0..sets).map(|_| Mutex::new(Vec::new())).collect(), ways }
    }

    fn set(&self, key: u64) -> MutexGuard<'_, Vec<(u64, Arc<V>)>> {
        // Fibonacci hashing: positions have regular low bits.
        let hash = key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        let set = &self.sets[hash as usize % self.sets.len()];
        set.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub fn get(&self, key: u64) -> Option<Arc<V>> {
        let mut set = self.set(key);
        let at = set.iter().position(|(k, _)| *k == key)?;
        set[..=at].rotate_right(1);
        Some(Arc::clone(&set[0].1))
    }

    pub fn put(&self, key: u64, value: V) {
        let mut set = self.set(key);
        set.retain(|(k, _)| *k != key);
        set.truncate(self.ways - 1);
        set.insert(0, (key, Arc::new(value)));
    }

    pub fn get_or_load<E>(&self, key: u64, load: impl FnOnce() -> Result<V, E>) -> Result<Arc<V>, E> {
        let mut set = self.set(key);
        if let Some(at) = set.iter().position(|(k, _)| *k == key) {
            set[..=at].rotate_right(1);
            return Ok(Arc::clone(&set[0].1));
        }
        let value = Arc::new(load()?);
        set.truncate(self.ways - 1);
        set.insert(0, (key, Arc::clone(&value)));
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::Cache;

    #[test]
    fn the_least_recently_used_value_makes_room() {
        let cache = Cache::new(1, 2);
        let mut loads = 0;
        for key in [1, 2, 1, 3, 1, 2] {
            let value = cache.get_or_load(key, || {
                loads += 1;
                Ok::<_, ()>(key * 10)
            });
            assert_eq!(*value.unwrap(), key * 10);
        }
        assert_eq!(loads, 4);
    }
}
