//! What the commits of one journal file have changed: kept in memory until the tree has it.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    sync::Arc,
};

use crate::store::{Commit, Revision, StoreError, StoredEvent};

/// What keys are to say; nothing where a key is to go.
pub(super) type Mutations = BTreeMap<Vec<u8>, Mutation>;
/// A key's new value and the commit that wrote it, or its removal.
pub(super) type Mutation = Option<(Revision, Vec<u8>)>;

/// What one entry of a map costs beside its bytes, roughly.
const ENTRY_BYTES: usize = 128;

/// The changes and the events of commits that follow each other.
#[derive(Clone, Default)]
pub(super) struct Memtable {
    /// The newest commit before the first of these.
    pub(super) after: Revision,
    /// The newest of these.
    pub(super) revision: Revision,
    pub(super) changes: Mutations,
    /// By revision, without gaps.
    pub(super) events: Vec<StoredEvent>,
    /// Memory, roughly.
    pub(super) bytes: usize,
}

impl Memtable {
    /// An empty one, of the commits that will follow this one.
    pub(super) fn after(revision: Revision) -> Self {
        Self { after: revision, revision, ..Self::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Takes in commits, with what they have changed.
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
        let at = |revision| self.events.partition_point(|event| event.revision < revision);
        &self.events[at(revisions.start)..at(revisions.end)]
    }

    /// When the newest of its events happened, in Unix milliseconds.
    pub(super) fn newest_ms(&self) -> u64 {
        self.events.last().map_or(0, |event| event.at_ms)
    }
}

/// All commits that the tree does not have yet.
#[derive(Default)]
pub(super) struct Memtables {
    /// The one that is being filled. Its revision is the newest that is on stable storage.
    pub(super) active: Memtable,
    /// Those that wait for the tree, the oldest first.
    pub(super) full: VecDeque<Arc<Memtable>>,
    /// Why the tree does not take them now.
    pub(super) flush_error: Option<StoreError>,
    /// Nobody wants them any more: the store is being dropped.
    pub(super) abandoned: bool,
}

impl Memtables {
    /// What is known here of a key, the newest first.
    pub(super) fn get(&self, key: &[u8]) -> Option<&Mutation> {
        self.newest_first().find_map(|memtable| memtable.changes.get(key))
    }

    /// Closes the active memtable, if there is anything in it, and begins the next.
    pub(super) fn rotate(&mut self) {
        if !self.active.is_empty() {
            let next = Memtable::after(self.active.revision);
            self.full.push_back(Arc::new(std::mem::replace(&mut self.active, next)));
        }
    }

    /// The newest commit of those that the tree has whole, where it has all commits up to this one;
    /// nothing where it has none of them whole.
    pub(super) fn in_tree(&self, revision: Revision) -> Option<Revision> {
        self.full
            .iter()
            .map(|memtable| memtable.revision)
            .take_while(|newest| *newest <= revision)
            .last()
    }

    /// Forgets those up to this commit.
    pub(super) fn truncate(&mut self, revision: Revision) {
        while self.full.front().is_some_and(|memtable| memtable.revision <= revision) {
            self.full.pop_front();
        }
    }

    /// Memory of all of them, roughly.
    pub(super) fn bytes(&self) -> usize {
        self.waiting_bytes() + self.active.bytes
    }

    /// Memory of those that wait, roughly.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.full.iter().map(|memtable| memtable.bytes).sum()
    }

    /// All of them as of now, the oldest first. Copies the active one.
    pub(super) fn copy(&self) -> Vec<Arc<Memtable>> {
        self.full.iter().cloned().chain([Arc::new(self.active.clone())]).collect()
    }

    /// The newest commit before the first of these: the tree has all up to it.
    pub(super) fn after(&self) -> Revision {
        self.full.front().map_or(self.active.after, |oldest| oldest.after)
    }

    /// The events of these commits, as far as they are here.
    pub(super) fn events(&self, revisions: &Range<Revision>) -> Vec<StoredEvent> {
        let memtables = self.full.iter().map(|memtable| &**memtable).chain([&self.active]);
        memtables.flat_map(|memtable| memtable.events_of(revisions)).cloned().collect()
    }

    fn newest_first(&self) -> impl Iterator<Item = &Memtable> {
        [&self.active].into_iter().chain(self.full.iter().rev().map(|memtable| &**memtable))
    }
}
