//! Removes answers to requests that have ended. Nothing depends on when: one that has ended
//! counts for nothing, and one whose id has been taken again is left alone.

use super::{ACTOR, BATCH_MAX, COMMIT, Sweeper, remove};
use crate::{
    model::{Event, EventKind, Key},
    store::{Batch, StoreError},
    view::ExpiredRequest,
};

impl Sweeper {
    /// Removes what is due now, and waits until the view has it. Answers how many were due.
    pub(super) async fn sweep_requests(&self, now_ms: u64) -> Result<usize, StoreError> {
        let due = self.view.expired_requests(now_ms, BATCH_MAX);
        let mut last = 0;
        for due in due.chunks(COMMIT) {
            match self.store.commit(batch(due, now_ms)).await {
                // After a conflict the next look has the rest.
                Ok(revision) | Err(StoreError::Conflict { revision }) => last = revision,
                Err(error) => return Err(error),
            }
        }
        self.view.wait_for(last).await;
        Ok(due.len())
    }
}

/// Of any app, because nobody is told of it.
fn batch(due: &[ExpiredRequest], now_ms: u64) -> Batch {
    let mut batch = Batch::of(&Event::new(EventKind::Request, "", ACTOR, now_ms));
    due.iter().for_each(|ExpiredRequest { app, id, revision }| {
        remove(&mut batch, Key::Request { app, id }, *revision)
    });
    batch
}
