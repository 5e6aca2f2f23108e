//! Removes expired idempotency records. Nothing depends on when: an expired one has no effect, and
//! one whose request id was used again stays, because its revision has changed.

use super::{ACTOR, BATCH_MAX, COMMIT_RECORDS, Sweeper, remove};
use crate::{
    model::{Event, EventKind, Key},
    store::{Batch, StoreError},
    view::ExpiredRequest,
};

impl Sweeper {
    /// Removes the expired records, and waits until the view has that. Returns how many it tried to
    /// remove.
    pub(super) async fn sweep_requests(&self, now_ms: u64) -> Result<usize, StoreError> {
        let expired = self.view.expired_requests(now_ms, BATCH_MAX);
        let mut last_revision = 0;
        for requests in expired.chunks(COMMIT_RECORDS) {
            match self.store.commit(batch(requests, now_ms).encode()).await {
                // After a conflict the next sweep removes the rest.
                Ok(revision) | Err(StoreError::Conflict { revision }) => last_revision = revision,
                Err(error) => return Err(error),
            }
        }
        self.view.wait_for(last_revision).await;
        Ok(expired.len())
    }
}

/// The event has no app, because no watcher gets it.
fn batch(requests: &[ExpiredRequest], now_ms: u64) -> Batch<'_> {
    let mut batch = Batch::of(&Event::new(EventKind::Request, "", ACTOR, now_ms));
    requests.iter().for_each(|ExpiredRequest { app, id, revision }| {
        remove(&mut batch, Key::Request { app, id }, *revision)
    });
    batch
}
