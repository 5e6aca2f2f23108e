//! A sharded map of the rooms, or of the clients, of one app, and the sorted ids of those that are
//! registered.

use std::{
    collections::BTreeSet,
    hash::{BuildHasher as _, RandomState},
    ops::Bound,
    sync::{Arc, PoisonError, RwLock},
};

use hashbrown::HashTable;

use super::page::Page;

/// Readers of different rooms rarely meet in one shard, and an empty app costs little.
const SHARDS: usize = 32;

/// A room or a client.
pub(super) trait Entity: Default {
    /// Whether the directory contains it.
    fn is_registered(&self) -> bool;
    /// Whether it has no records, so that the index drops it.
    fn is_empty(&self) -> bool;
}

/// Some of the ids, each with its entity.
type Shard<T> = RwLock<HashTable<(Arc<str>, T)>>;

/// A map from ids to entities. One hash of an id selects both the shard and the bucket in it.
pub(super) struct Index<T> {
    hasher: RandomState,
    shards: [Shard<T>; SHARDS],
    registered: RwLock<BTreeSet<Arc<str>>>,
}

impl<T> Default for Index<T> {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            shards: Default::default(),
            registered: RwLock::default(),
        }
    }
}

impl<T: Entity> Index<T> {
    pub(super) fn read<R>(&self, id: &str, read: impl FnOnce(Option<&T>) -> R) -> R {
        let hash = self.hasher.hash_one(id);
        let shard = self.shard(hash).read().unwrap_or_else(PoisonError::into_inner);
        read(shard.find(hash, |(other, _)| **other == *id).map(|(_, entity)| entity))
    }

    pub(super) fn update<R>(&self, id: &str, change: impl FnOnce(&mut T) -> R) -> R {
        let hash = self.hasher.hash_one(id);
        let mut shard = self.shard(hash).write().unwrap_or_else(PoisonError::into_inner);
        let entry = shard.entry(
            hash,
            |(other, _)| **other == *id,
            |(other, _)| self.hasher.hash_one(&**other),
        );
        let mut entry = entry.or_insert_with(|| (Arc::from(id), T::default()));
        let (id, entity) = entry.get_mut();
        let was_registered = entity.is_registered();
        let result = change(entity);
        if entity.is_registered() != was_registered {
            let mut ids = self.registered.write().unwrap_or_else(PoisonError::into_inner);
            if was_registered {
                ids.remove(id)
            } else {
                ids.insert(id.clone())
            };
        }
        if entity.is_empty() {
            entry.remove();
        }
        result
    }

    pub(super) fn registered(&self, page: Page<'_>) -> (Vec<Arc<str>>, usize) {
        let ids = self.registered.read().unwrap_or_else(PoisonError::into_inner);
        let start = page.after.map_or(Bound::Unbounded, Bound::Excluded);
        let after = ids.range::<str, _>((start, Bound::Unbounded));
        (after.skip(page.skip).take(page.size).cloned().collect(), ids.len())
    }

    /// Selected by bits of the hash that the table does not use for its buckets.
    fn shard(&self, hash: u64) -> &Shard<T> {
        &self.shards[(hash >> 40) as usize % SHARDS]
    }
}
