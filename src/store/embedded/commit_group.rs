//! Group commit: commits that become durable together, and their changes. Also the replay of the
//! journal on open.

use std::{collections::HashSet, path::Path, sync::Arc};

use super::{
    journal::Journal,
    memtable::{Memtable, Memtables, Mutations},
    shared::CommitReply,
    tree::Tree,
};
use crate::store::{Commit, EncodedBatch, Operation, Precondition, Revision, StoreError};

/// The most keys that [`AbsentKeys`] remembers.
const ABSENT_KEYS_MAX: usize = 16_384;

/// Commits that become durable together. Each sees the changes of those before it in the group.
#[derive(Default)]
pub(super) struct Group {
    /// The last commit before the group. It is on stable storage.
    pub(super) after: Revision,
    /// The last commit of the group.
    pub(super) revision: Revision,
    pub(super) changes: Mutations,
    pub(super) commits: Vec<Arc<Commit>>,
    pub(super) replies: Vec<(CommitReply, Revision)>,
    pub(super) bytes: usize,
}

impl Group {
    pub(super) fn after(revision: Revision) -> Self {
        Self { after: revision, revision, ..Self::default() }
    }

    /// Adds a commit if its preconditions hold; else answers it with an error.
    pub(super) fn add(
        &mut self,
        tree: &Tree,
        memtables: &Memtables,
        absent_keys: &mut AbsentKeys,
        batch: EncodedBatch,
        reply: CommitReply,
    ) {
        match self.preconditions_hold(tree, memtables, absent_keys, &batch.preconditions) {
            Ok(true) => {
                absent_keys.forget(&batch.operations);
                self.apply(batch);
                self.replies.push((reply, self.revision));
            }
            Ok(false) => {
                drop(reply.send(Err(StoreError::Conflict { revision: self.revision })));
            }
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    fn preconditions_hold(
        &self,
        tree: &Tree,
        memtables: &Memtables,
        absent_keys: &mut AbsentKeys,
        preconditions: &[Precondition],
    ) -> Result<bool, StoreError> {
        for Precondition { key, revision } in preconditions {
            let found = match self.changes.get(key).or_else(|| memtables.get(key)) {
                Some(change) => change.as_ref().map(|(revision, _)| *revision),
                None => absent_keys.revision_of(tree, key)?,
            };
            if found != *revision {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn apply(&mut self, batch: EncodedBatch) {
        let revision = self.revision + 1;
        let mut changes = Mutations::new();
        for operation in &batch.operations {
            match operation {
                Operation::Put { key, value } => {
                    changes.insert(key.clone(), Some((revision, value.clone())));
                }
                Operation::Delete { key } => {
                    changes.insert(key.clone(), None);
                }
            }
        }
        let EncodedBatch { operations, event, at_ms, .. } = batch;
        self.bytes += event.len();
        self.bytes += changes
            .iter()
            .map(|(key, change)| key.len() + change.as_ref().map_or(0, |(_, value)| value.len()))
            .sum::<usize>();
        self.commits.push(Arc::new(Commit { revision, operations, event, at_ms }));
        self.changes.extend(changes);
        self.revision = revision;
    }
}

/// A cache of keys that are not in the tree. A write to a room that is neither registered nor
/// deleted has both as preconditions, and a lookup in the tree costs more than the rest of the
/// writer's work for it. The cache stays correct because its owner, the writer, makes every change.
#[derive(Default)]
pub(super) struct AbsentKeys(HashSet<Vec<u8>>);

impl AbsentKeys {
    fn revision_of(&mut self, tree: &Tree, key: &[u8]) -> Result<Option<Revision>, StoreError> {
        if self.0.contains(key) {
            return Ok(None);
        }
        let found = tree.revision_of(key)?;
        if found.is_none() {
            if self.0.len() >= ABSENT_KEYS_MAX {
                self.0.clear();
            }
            self.0.insert(key.to_vec());
        }
        Ok(found)
    }

    /// Removes the keys that these operations put.
    fn forget(&mut self, operations: &[Operation]) {
        for operation in operations {
            if let Operation::Put { key, .. } = operation {
                self.0.remove(key);
            }
        }
    }
}

/// The commits of the journal that the tree does not have, as memtables.
pub(super) fn replay_journal(tree: &Tree, journal: &Path) -> Result<Memtables, StoreError> {
    let (in_tree, _) = tree.latest()?;
    let mut memtables = Memtables { active: Memtable::after(in_tree), ..Memtables::default() };
    for commits in Journal::replay(journal, in_tree)? {
        let mut group = Group::after(memtables.active.revision);
        for Commit { revision, operations, event, at_ms } in commits {
            if revision > group.revision {
                group.apply(EncodedBatch { operations, event, at_ms, ..EncodedBatch::default() });
            }
        }
        memtables.active.extend(&group.commits, group.changes);
        memtables.rotate();
    }
    Ok(memtables)
}
