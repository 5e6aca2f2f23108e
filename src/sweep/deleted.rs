//! Removes what was deleted with its room or client, and then its tombstone. Nothing depends on
//! when: it counts for nothing from the commit of the deletion on. A little at a time, so that a
//! room of a million mutes is no burden to anybody else.

use super::{ACTOR, BATCH_MAX, COMMIT, Sweeper};
use crate::{
    model::{Event, EventKind},
    store::{Batch, Operation, Precondition, Revision, StoreError},
    view::Leftover,
};

impl Sweeper {
    /// Removes some of it, and waits until the view has that. Answers how many records were due.
    pub async fn sweep_deleted(&self) -> Result<usize, StoreError> {
        let at_ms = self.clock.certain_ms();
        let mut due = 0;
        let mut last = 0;
        for Leftover { app, keys } in self.view.leftovers(BATCH_MAX) {
            due += keys.len();
            for keys in keys.chunks(COMMIT) {
                match self.store.commit(batch(&app, keys, at_ms)).await {
                    // After a conflict the next look has the rest.
                    Ok(revision) | Err(StoreError::Conflict { revision }) => last = revision,
                    Err(error) => return Err(error),
                }
            }
        }
        self.view.wait_for(last).await;
        Ok(due)
    }
}

fn batch(app: &str, keys: &[(Vec<u8>, Revision)], at_ms: u64) -> Batch {
    let mut batch = Batch::of(&Event::new(EventKind::Swept, app, ACTOR, at_ms));
    for (key, revision) in keys {
        batch.preconditions.push(Precondition { key: key.clone(), revision: Some(*revision) });
        batch.operations.push(Operation::Delete { key: key.clone() });
    }
    batch
}
