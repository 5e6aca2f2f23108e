//! Commits that become durable together, and what they change; also those that an open reads back
//! from the journal.

use std::{collections::HashSet, path::Path, sync::Arc};

use super::{
    journal::Journal,
    memtable::{Memtable, Memtables, Mutations},
    shared::CommitReply,
    tree::Tree,
};
use crate::store::{Batch, Commit, Operation, Precondition, Revision, StoreError};

/// Keys that are known to be absent, at most.
const ABSENT: usize = 16_384;

/// Commits that become durable together. Each sees what those before it in the group have changed.
#[derive(Default)]
pub(super) struct Group {
    /// The newest commit before it, which is on stable storage.
    pub(super) after: Revision,
    pub(super) revision: Revision,
    pub(super) changes: Mutations,
    pub(super) commits: Vec<Arc<Commit>>,
    pub(super) answers: Vec<(CommitReply, Revision)>,
    pub(super) bytes: usize,
}

impl Group {
    pub(super) fn after(revision: Revision) -> Self {
        Self { after: revision, revision, ..Self::default() }
    }

    pub(super) fn add(
        &mut self,
        tree: &Tree,
        pending: &Memtables,
        absent: &mut Absent,
        batch: Batch,
        answer: CommitReply,
    ) {
        let added = match self.holds(tree, pending, absent, &batch.preconditions) {
            Ok(true) => {
                absent.forget(&batch.operations);
                self.change(batch);
                Ok(())
            }
            Ok(false) => Err(StoreError::Conflict { revision: self.revision }),
            Err(error) => Err(error),
        };
        match added {
            Ok(()) => self.answers.push((answer, self.revision)),
            Err(error) => drop(answer.send(Err(error))),
        }
    }

    fn holds(
        &self,
        tree: &Tree,
        pending: &Memtables,
        absent: &mut Absent,
        preconditions: &[Precondition],
    ) -> Result<bool, StoreError> {
        for Precondition { key, revision } in preconditions {
            let found = match self.changes.get(key).or_else(|| pending.get(key)) {
                Some(change) => change.as_ref().map(|(revision, _)| *revision),
                None => absent.revision_of(tree, key)?,
            };
            if found != *revision {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn change(&mut self, batch: Batch) {
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
        let Batch { operations, event, at_ms, .. } = batch;
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

/// Keys that were looked for in the tree and not found. Each write expects of its room that it is
/// neither registered nor deleted, and to look into the tree costs more than all else that is done
/// for the write here. The one who writes them all knows when a key is there.
#[derive(Default)]
pub(super) struct Absent(HashSet<Vec<u8>>);

impl Absent {
    fn revision_of(&mut self, tree: &Tree, key: &[u8]) -> Result<Option<Revision>, StoreError> {
        if self.0.contains(key) {
            return Ok(None);
        }
        let found = tree.revision_of(key)?;
        if found.is_none() {
            if self.0.len() >= ABSENT {
                self.0.clear();
            }
            self.0.insert(key.to_vec());
        }
        Ok(found)
    }

    /// These are there from now on.
    fn forget(&mut self, operations: &[Operation]) {
        for operation in operations {
            if let Operation::Put { key, .. } = operation {
                self.0.remove(key);
            }
        }
    }
}

/// What the journal holds beyond the tree.
pub(super) fn read_back(tree: &Tree, journal: &Path) -> Result<Memtables, StoreError> {
    let (newest, _) = tree.latest()?;
    let mut pending = Memtables { active: Memtable::after(newest), ..Memtables::default() };
    for commits in Journal::replay(journal, newest)? {
        let mut group = Group::after(pending.active.revision);
        for Commit { revision, operations, event, at_ms } in commits {
            if revision > group.revision {
                group.change(Batch { operations, event, at_ms, ..Batch::default() });
            }
        }
        pending.active.extend(&group.commits, group.changes);
        pending.rotate();
    }
    Ok(pending)
}
