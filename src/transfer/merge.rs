//! Puts what was read from an export into a store: compares it with what is there, and commits the
//! difference, at most a hundred records and half a megabyte at a time, so that every engine can
//! take it. Each commit expects what the comparison has seen, so nothing that somebody else writes
//! meanwhile is lost. What is there already is left alone, so an import that was interrupted is
//! simply done again.

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
    store::{Batch, Operation, Precondition, Revision, Snapshot, Store, StoreError, codec},
};

/// Records in one commit, as many as in one call of a user.
const COMMIT: usize = 100;
/// Bytes of keys and values in one commit, where it is more than one record: a third of what etcd
/// takes in a request.
const COMMIT_BYTES: usize = 512 << 10;
/// Commits under way at once: those that wait together are synced together.
const AT_ONCE: usize = 16;
/// As actor of what it does.
const ACTOR: &str = "service";

/// What becomes of records that the export does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// They stay.
    #[default]
    Merge,
    /// They go; of an export of one app, those of that app.
    Replace,
}

/// The difference between an export and a store.
#[derive(Default)]
pub struct MergePlan {
    changes: Vec<PlannedChange>,
    /// Records that the store does not have.
    pub new: u64,
    /// Those it has otherwise.
    pub changed: u64,
    /// Those it has, and the export does not, as far as they are to go.
    pub removed: u64,
    /// Those it has as they are.
    pub same: u64,
}

struct PlannedChange {
    app: String,
    key: Vec<u8>,
    /// Nothing where it is to go.
    value: Option<Vec<u8>>,
    /// What it is changed from.
    revision: Option<Revision>,
}

impl MergePlan {
    /// Compares with the records of a store. Errors: [`StoreError`] of the snapshot.
    pub async fn of(
        mut incoming: Incoming,
        snapshot: Option<Snapshot>,
        mode: Mode,
    ) -> Result<Self, StoreError> {
        let mut plan = Self::default();
        let mut tombstones = Tombstones::default();
        let mut stored = HashMap::new();
        let mut pages = snapshot.map_or_else(|| stream::empty().boxed(), |snapshot| snapshot.pages);
        while let Some(page) = pages.next().await {
            for entry in page? {
                let revision = Some(entry.revision);
                let KnownRecord { app, value: there, .. } = *match tombstones.look_at(&entry)? {
                    Stored::Live(known) => known,
                    // It is as good as absent, and has to be that of this revision all the same.
                    Stored::Deleted => {
                        stored.insert(entry.key, entry.revision);
                        continue;
                    }
                    Stored::Other => continue,
                };
                let of_it = incoming.app.as_ref().is_none_or(|of| *of == app);
                match incoming.records.remove(&entry.key) {
                    Some((_, value)) if value == there => plan.same += 1,
                    Some((_, value)) => {
                        plan.changed += 1;
                        plan.changes.push(PlannedChange {
                            app,
                            key: entry.key,
                            value: Some(value),
                            revision,
                        });
                    }
                    None if mode == Mode::Replace && of_it => {
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
            let revision = stored.remove(&key);
            plan.changes.push(PlannedChange { app, key, value: Some(value), revision });
        }
        Ok(plan)
    }

    /// How many records are to be changed.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.new + self.changed + self.removed
    }

    /// Commits it, and tells after each commit how many records are done. What is done when it
    /// fails stays. Errors: [`Failure::Conflict`] where somebody else has changed one of the
    /// records, [`Failure::Store`].
    pub async fn commit(
        mut self,
        store: &dyn Store,
        now_ms: u64,
        mut told: impl FnMut(u64),
    ) -> Result<(), Failure> {
        // An event is of one app.
        self.changes.sort_by(|a, b| (&a.app, &a.key).cmp(&(&b.app, &b.key)));
        let groups = self.changes.chunk_by(|a, b| a.app == b.app).flat_map(groups);
        let mut commits = stream::iter(groups.map(|changes| {
            let (batch, records) = (batch(changes, now_ms), changes.len() as u64);
            async move { store.commit(batch).await.map(|_| records) }
        }))
        .buffer_unordered(AT_ONCE);
        let mut done = 0;
        loop {
            match commits.try_next().await {
                Ok(Some(records)) => {
                    done += records;
                    told(done);
                }
                Ok(None) => return Ok(()),
                Err(StoreError::Conflict { .. }) => return Err(Failure::Conflict),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl PlannedChange {
    /// Its key stands in the condition and in the operation.
    fn bytes(&self) -> usize {
        2 * self.key.len() + self.value.as_ref().map_or(0, Vec::len)
    }
}

/// What goes in one commit each.
fn groups(mut changes: &[PlannedChange]) -> impl Iterator<Item = &[PlannedChange]> {
    iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |change: &&PlannedChange| {
            bytes += change.bytes();
            bytes <= COMMIT_BYTES
        };
        let count = changes.iter().take(COMMIT).take_while(fits).count();
        // One record alone is within every limit.
        let (group, rest) = changes.split_at(count.max(1).min(changes.len()));
        changes = rest;
        (!group.is_empty()).then_some(group)
    })
}

fn batch(changes: &[PlannedChange], now_ms: u64) -> Batch {
    let app = changes.first().map_or("", |change| &change.app);
    let mut batch = Batch::of(&Event::new(EventKind::Imported, app, ACTOR, now_ms));
    for PlannedChange { key, value, revision, .. } in changes {
        batch.preconditions.push(Precondition { key: key.clone(), revision: *revision });
        batch.operations.push(match value {
            Some(value) => Operation::Put { key: key.clone(), value: value.clone() },
            None => Operation::Delete { key: key.clone() },
        });
    }
    batch
}
