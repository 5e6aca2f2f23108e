//! Removes the records of deleted rooms and clients, and then their tombstones. Nothing depends on
//! when: the records have no effect from the commit of the deletion on. Each sweep removes a
//! limited number, so that a room with a million mutes does not slow down other work.

use super::{ACTOR, BATCH_MAX, COMMIT_RECORDS, Sweeper};
use crate::{
    model::{Event, EventKind},
    store::{EncodedBatch, Operation, Precondition, Revision, StoreError},
    view::Leftover,
};

impl Sweeper {
    /// Removes a limited number of records, and waits until the view has that. Returns how many it
    /// tried to remove.
    pub async fn sweep_deleted(&self) -> Result<usize, StoreError> {
        let at_ms = self.clock.certain_ms();
        let mut due_records = 0;
        let mut last_revision = 0;
        for Leftover { app, keys } in self.view.leftovers(BATCH_MAX) {
            due_records += keys.len();
            for keys in keys.chunks(COMMIT_RECORDS) {
                match self.store.commit(batch(&app, keys, at_ms)).await {
                    // After a conflict the next sweep removes the rest.
                    Ok(revision) | Err(StoreError::Conflict { revision }) => {
                        last_revision = revision
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        self.view.wait_for(last_revision).await;
        Ok(due_records)
    }
}

fn batch(app: &str, keys: &[(Vec<u8>, Revision)], at_ms: u64) -> EncodedBatch {
    let mut batch = EncodedBatch::of(&Event::new(EventKind::Swept, app, ACTOR, at_ms));
    for (key, revision) in keys {
        batch.preconditions.push(Precondition { key: key.clone(), revision: Some(*revision) });
        batch.operations.push(Operation::Delete { key: key.clone() });
    }
    batch
}
