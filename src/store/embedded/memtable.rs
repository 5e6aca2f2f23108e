//! Memtables: the changes and events of commits, in memory until the tree has them. Each has the
//! commits of one journal file.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    sync::Arc,
};

use crate::store::{Commit, Revision, StoreError, StoredEvent};

/// The last change of each key.
pub(super) type Mutations = BTreeMap<Vec<u8>, Mutation>;
/// A key's new value with the commit that wrote it; `None` removes the key.
pub(super) type Mutation = Option<(Revision, Vec<u8>)>;

/// Estimated memory of a map entry beside its key and value.
const ENTRY_BYTES: usize = 128;

/// The changes and events of consecutive commits.
#[derive(Clone, Default)]
pub(super) struct Memtable {
    /// The last commit before the first of these.
    pub(super) after: Revision,
    /// The last of these.
    pub(super) revision: Revision,
    pub(super) changes: Mutations,
    /// By revision, without gaps.
    pub(super) events: Vec<StoredEvent>,
    /// Estimated memory.
    pub(super) bytes: usize,
}

impl Memtable {
    /// An empty memtable for the commits after this one.
    pub(super) fn after(revision: Revision) -> Self {
        Self { after: revision, revision, ..Self::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Adds commits and their changes.
    pub(super) fn extend(&mut self, commits: &[Arc<Commit>], changes: Mutations) {
        for commit in commits {
            self.revision = commit.revision;
            self.bytes += commit.event.len() + size_of::<StoredEvent>();
            self.events.push(StoredEvent {
                revision: commit.revision,
                at_ms: commit.at_ms,
                event: commit.event.clone(),
            });
        }
        for (key, change) in changes {
            self.bytes +=
                key.len() + ENTRY_BYTES + change.as_ref().map_or(0, |(_, value)| value.len());
            self.changes.insert(key, change);
        }
    }

    /// The events of these commits.
    fn events_of(&self, revisions: &Range<Revision>) -> &[StoredEvent] {
        let index_of = |revision| self.events.partition_point(|event| event.revision < revision);
        &self.events[index_of(revisions.start)..index_of(revisions.end)]
    }

    /// The time of its last event, in Unix milliseconds.
    pub(super) fn last_event_ms(&self) -> u64 {
        self.events.last().map_or(0, |event| event.at_ms)
    }
}

/// All commits that the tree does not have yet.
#[derive(Default)]
pub(super) struct Memtables {
    /// The memtable that new commits go to. Its revision is the durable revision.
    pub(super) active: Memtable,
    /// Those that wait for the flusher, the oldest first.
    pub(super) sealed: VecDeque<Arc<Memtable>>,
    /// Why the tree cannot be written now.
    pub(super) flush_error: Option<StoreError>,
    /// The store is being dropped; its threads end.
    pub(super) is_abandoned: bool,
}

impl Memtables {
    /// The last change of a key, if a memtable has one.
    pub(super) fn get(&self, key: &[u8]) -> Option<&Mutation> {
        self.newest_first().find_map(|memtable| memtable.changes.get(key))
    }

    /// Seals the active memtable, unless it is empty, and begins the next.
    pub(super) fn rotate(&mut self) {
        if !self.active.is_empty() {
            let next = Memtable::after(self.active.revision);
            self.sealed.push_back(Arc::new(std::mem::replace(&mut self.active, next)));
        }
    }

    /// The last commit of the sealed memtables that a tree with all commits up to `revision` has
    /// completely.
    pub(super) fn last_flushed(&self, revision: Revision) -> Option<Revision> {
        self.sealed
            .iter()
            .map(|memtable| memtable.revision)
            .take_while(|last| *last <= revision)
            .last()
    }

    /// Removes the sealed memtables up to this commit.
    pub(super) fn truncate(&mut self, revision: Revision) {
        while self.sealed.front().is_some_and(|memtable| memtable.revision <= revision) {
            self.sealed.pop_front();
        }
    }

    /// Estimated memory of all memtables.
    pub(super) fn bytes(&self) -> usize {
        self.sealed_bytes() + self.active.bytes
    }

    /// Estimated memory of the sealed memtables.
    pub(super) fn sealed_bytes(&self) -> usize {
        self.sealed.iter().map(|memtable| memtable.bytes).sum()
    }

    /// All memtables, the oldest first. Clones the contents of the active one.
    pub(super) fn copy(&self) -> Vec<Arc<Memtable>> {
        self.sealed.iter().cloned().chain([Arc::new(self.active.clone())]).collect()
    }

    /// The last commit before all memtables. The tree has all commits up to it.
    pub(super) fn after(&self) -> Revision {
        self.sealed.front().map_or(self.active.after, |oldest| oldest.after)
    }

    /// The events of these commits that are in memtables.
    pub(super) fn events(&self, revisions: &Range<Revision>) -> Vec<StoredEvent> {
        let memtables = self.sealed.iter().map(|memtable| &**memtable).chain([&self.active]);
        memtables.flat_map(|memtable| memtable.events_of(revisions)).cloned().collect()
    }

    fn newest_first(&self) -> impl Iterator<Item = &Memtable> {
        [&self.active].into_iter().chain(self.sealed.iter().rev().map(|memtable| &**memtable))
    }
}
