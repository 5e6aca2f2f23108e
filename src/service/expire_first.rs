//! What has ended is told as ended before anything takes its place, so that EXPIRED comes once for
//! each end, also where the sweeper was not there yet.

use std::time::Duration;

use super::Service;
use crate::{
    error::Error,
    model::Key,
    store::{Batch, Operation, Revision, codec},
    sweep,
    view::{Expired, ExpiredRestrictions},
};

/// Marks that are swept at once before their room or client is deleted.
const BATCH_MAX: usize = 10_000;

/// How long after a look at clocks that were not compared yet the next one is.
const RETRY_DELAY: Duration = Duration::from_millis(100);

impl Service {
    /// Sweeps those marks that the batch replaces or removes and that have ended for certain. True:
    /// there were some, and the batch has to be planned again. Errors: STORE_UNAVAILABLE,
    /// STORE_FULL.
    pub(super) async fn expire_first(&self, batch: &Batch) -> Result<bool, Error> {
        let certain_ms = sweep::certain_ms(&*self.store, &self.clock);
        let due = self.ended_before(batch, certain_ms)?;
        if due.is_empty() {
            return Ok(false);
        }
        if !self.store.has_compared_clocks() {
            // Just after a start, and not for long.
            tokio::time::sleep(RETRY_DELAY).await;
            return Ok(true);
        }
        let swept = sweep::expire(&*self.store, &due, certain_ms).await?;
        self.wait_for_view(swept.revision).await?;
        Ok(true)
    }

    fn ended_before(&self, batch: &Batch, now_ms: u64) -> Result<Vec<Expired>, Error> {
        let mut due = Vec::new();
        for Operation::Put { key, .. } | Operation::Delete { key } in &batch.operations {
            let key = codec::decode_key(key)?;
            if let Key::DeletedRoom { .. } | Key::DeletedClient { .. } = key {
                due.extend(self.view.expired_restrictions_of(key.owner(), now_ms, BATCH_MAX));
            } else if let Some(revision) = self.view.expired_revision(key, now_ms) {
                add(&mut due, key, revision);
            }
        }
        Ok(due)
    }
}

/// Mutes of one room that end together are told together.
fn add(due: &mut Vec<Expired>, key: Key<'_>, revision: Revision) {
    if let (
        Key::MemberMute { room, user, .. },
        Some(Expired {
            restrictions: ExpiredRestrictions::MemberMutes { room: same, users }, ..
        }),
    ) = (key, due.last_mut())
        && **same == *room
    {
        if !users.iter().any(|(known, _)| **known == *user) {
            users.push((user.into(), revision));
        }
        return;
    }
    due.extend(Expired::of(key, revision));
}
