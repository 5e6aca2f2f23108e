//! A sharded map of the rooms, or of the clients, of one app, with the ids of those that are registered in order.

use std::{
    collections::{BTreeSet, HashMap},
    hash::{BuildHasher as _, RandomState},
    ops::Bound,
    sync::{Arc, PoisonError, RwLock},
};

use super::Page;

/// Readers of different rooms rarely meet in one shard, and an empty app costs little.
const SHARDS: usize = 32;

/// A room or a client.
pub(super) trait Entity: Default {
    /// Whether the directory has it.
    fn is_registered(&self) -> bool;
    /// Whether nothing at all is known of it.
    fn is_empty(&self) -> bool;
}

pub(super) struct Index<T> {
    hasher: RandomState,
    shards: [RwLock<HashMap<Arc<str>, T>>; SHARDS],
    registered: RwLock<BTreeSet<Arc<str>>>,
}

impl<T> Default for Index<T> {
    fn default() -> Self {
        Self { hasher: RandomState::new(), shards: Default::default(), registered: RwLock::default() }
    }
}

impl<T: Entity> Index<T> {
    pub(super) fn read<R>(&self, id: &str, read: impl FnOnce(Option<&T>) -> R) -> R {
        let shard = self.shard(id).read().unwrap_or_else(PoisonError::into_inner);
        read(shard.get(id))
    }

    pub(super) fn update<R>(&self, id: &str, change: impl FnOnce(&mut T) -> R) -> R {
        let mut shard = self.shard(id).write().unwrap_or_else(PoisonError::into_inner);
        if !shard.contains_key(id) {
            shard.insert(Arc::from(id), T::default());
        }
        let Some(entity) = shard.get_mut(id) else { return change(&mut T::default()) };
        let was_registered = entity.is_registered();
        let result = change(entity);
        let (registered, empty) = (entity.is_registered(), entity.is_empty());
        if registered != was_registered {
            let mut ids = self.registered.write().unwrap_or_else(PoisonError::into_inner);
            if registered {
                ids.insert(Arc::from(id))
            } else {
                ids.remove(id)
            };
        }
        if empty {
            shard.remove(id);
        }
        result
    }

    pub(super) fn registered(&self, page: Page<'_>) -> (Vec<Arc<str>>, usize) {
        let ids = self.registered.read().unwrap_or_else(PoisonError::into_inner);
        let start = page.after.map_or(Bound::Unbounded, Bound::Excluded);
        let after = ids.range::<str, _>((start, Bound::Unbounded));
        (after.skip(page.skip).take(page.size).cloned().collect(), ids.len())
    }

    /// Visits all of them, a shard at a time.
    pub(super) fn each(&self, mut visit: impl FnMut(&Arc<str>, &mut T)) {
        for shard in &self.shards {
            let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
            shard.iter_mut().for_each(|(id, entity)| visit(id, entity));
        }
    }

    fn shard(&self, id: &str) -> &RwLock<HashMap<Arc<str>, T>> {
        // The remainder is below SHARDS, whatever the hash.
        &self.shards[(self.hasher.hash_one(id) % SHARDS as u64) as usize]
    }
}
