//! Merges an export into a store: compares it with the stored records, and commits the difference.
//! A commit has at most a hundred records and half a megabyte, which every engine accepts. Its
//! preconditions are the revisions that were compared, so no concurrent write is lost. Equal
//! records are not written, so an interrupted import can be run again.

use std::{collections::HashMap, iter};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{
    Failure,
    import::Incoming,
    record::KnownRecord,
    stored::{Stored, Tombstones},
};
use crate::{
    model::{Event, EventKind},
    store::{EncodedBatch, Operation, Precondition, Revision, Snapshot, Store, StoreError, codec},
};

/// Records in one commit, as many as in one call of a user.
const COMMIT_RECORDS: usize = 100;
/// Bytes of keys and values in a commit of more than one record: a third of etcd's limit for a
/// request.
const COMMIT_BYTES: usize = 512 << 10;
/// Concurrent commits share a sync.
const CONCURRENT_COMMITS: usize = 16;
/// The actor of the import's events.
const ACTOR: &str = "service";

/// What to do with stored records that the export does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Leave them.
    #[default]
    Merge,
    /// Remove them; if the export has one app, only those of that app.
    Replace,
}

/// The difference between an export and a store.
#[derive(Default)]
pub struct MergePlan {
    changes: Vec<PlannedChange>,
    /// Records that the store does not have.
    pub new: u64,
    /// Records that the store has with another value.
    pub changed: u64,
    /// Records that only the store has, if [`Mode::Replace`] removes them.
    pub removed: u64,
    /// Records that the store has with the same value.
    pub same: u64,
}

struct PlannedChange {
    app: String,
    key: Vec<u8>,
    /// `None` removes the record.
    value: Option<Vec<u8>>,
    /// The stored record's.
    revision: Option<Revision>,
}

impl MergePlan {
    /// Compares an export with the records of a store; without a snapshot, with an empty store.
    /// Errors: those of the snapshot.
    pub async fn of(
        mut incoming: Incoming,
        snapshot: Option<Snapshot>,
        mode: Mode,
    ) -> Result<Self, StoreError> {
        let mut plan = Self::default();
        let mut tombstones = Tombstones::default();
        // The revisions of records whose room or client is deleted. They count as absent, but stand
        // in the preconditions of a change.
        let mut deleted = HashMap::new();
        let mut pages = snapshot.map_or_else(|| stream::empty().boxed(), |snapshot| snapshot.pages);
        while let Some(page) = pages.next().await {
            for entry in page? {
                let revision = Some(entry.revision);
                let KnownRecord { app, value: stored, .. } = *match tombstones.classify(&entry)? {
                    Stored::Live(record) => record,
                    Stored::Deleted => {
                        deleted.insert(entry.key, entry.revision);
                        continue;
                    }
                    Stored::Other => continue,
                };
                let is_in_scope = incoming.app.as_ref().is_none_or(|scope| *scope == app);
                match incoming.records.remove(&entry.key) {
                    Some((_, value)) if value == stored => plan.same += 1,
                    Some((_, value)) => {
                        plan.changed += 1;
                        plan.changes.push(PlannedChange {
                            app,
                            key: entry.key,
                            value: Some(value),
                            revision,
                        });
                    }
                    None if mode == Mode::Replace && is_in_scope => {
                        plan.removed += 1;
                        plan.changes.push(PlannedChange {
                            app,
                            key: entry.key,
                            value: None,
                            revision,
                        });
                    }
                    None => {}
                }
            }
        }
        for (key, (_, value)) in incoming.records {
            plan.new += 1;
            let app = codec::decode_key(&key)?.owner().app().to_owned();
            let revision = deleted.remove(&key);
            plan.changes.push(PlannedChange { app, key, value: Some(value), revision });
        }
        Ok(plan)
    }

    /// How many records [`Self::commit`] writes or removes.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.new + self.changed + self.removed
    }

    /// Commits the changes, and reports after each commit how many records are done. After an
    /// error, earlier commits remain. Errors: [`Failure::Conflict`] if another writer has changed
    /// one of the records, [`Failure::Store`].
    pub async fn commit(
        mut self,
        store: &dyn Store,
        now_ms: u64,
        mut report: impl FnMut(u64),
    ) -> Result<(), Failure> {
        // A commit has one event, and an event has one app.
        self.changes.sort_by(|a, b| (&a.app, &a.key).cmp(&(&b.app, &b.key)));
        let groups = self.changes.chunk_by(|a, b| a.app == b.app).flat_map(groups);
        let mut commits = stream::iter(groups.map(|changes| {
            let batch = batch(changes, now_ms);
            let records = changes.len() as u64;
            async move { store.commit(batch).await.map(|_| records) }
        }))
        .buffer_unordered(CONCURRENT_COMMITS);
        let mut done = 0;
        loop {
            match commits.try_next().await {
                Ok(Some(records)) => {
                    done += records;
                    report(done);
                }
                Ok(None) => return Ok(()),
                Err(StoreError::Conflict { .. }) => return Err(Failure::Conflict),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl PlannedChange {
    /// In a commit, which has the key twice: in the precondition and in the operation.
    fn bytes(&self) -> usize {
        2 * self.key.len() + self.value.as_ref().map_or(0, Vec::len)
    }
}

/// Splits changes into the parts of one commit each.
fn groups(mut changes: &[PlannedChange]) -> impl Iterator<Item = &[PlannedChange]> {
    iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |change: &&PlannedChange| {
            bytes += change.bytes();
            bytes <= COMMIT_BYTES
        };
        let count = changes.iter().take(COMMIT_RECORDS).take_while(fits).count();
        // A single record is within the limits of every engine.
        let (group, rest) = changes.split_at(count.max(1).min(changes.len()));
        changes = rest;
        (!group.is_empty()).then_some(group)
    })
}

fn batch(changes: &[PlannedChange], now_ms: u64) -> EncodedBatch {
    let app = changes.first().map_or("", |change| &change.app);
    let mut batch = EncodedBatch::of(&Event::new(EventKind::Imported, app, ACTOR, now_ms));
    for PlannedChange { key, value, revision, .. } in changes {
        batch.preconditions.push(Precondition { key: key.clone(), revision: *revision });
        batch.operations.push(match value {
            Some(value) => Operation::Put { key: key.clone(), value: value.clone() },
            None => Operation::Delete { key: key.clone() },
        });
    }
    batch
}
