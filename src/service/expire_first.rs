//! Before a batch overwrites or deletes an expired restriction, its EXPIRED event is emitted, so
//! that each expiry is reported exactly once even if the sweeper is late.

use std::time::Duration;

use super::Service;
use crate::{
    error::Error,
    model::Key,
    store::{Batch, Revision},
    sweep,
    view::{Expired, ExpiredRestrictions},
};

/// Maximum number of restrictions swept at once before their room or client is deleted.
const BATCH_MAX: usize = 10_000;

/// Delay before planning again while the replicas' clocks are not compared yet.
const RETRY_DELAY: Duration = Duration::from_millis(100);

impl Service {
    /// Sweeps the restrictions that have certainly expired and that the batch overwrites or
    /// deletes. Returns true if there were any: the batch must be planned again. Errors:
    /// STORE_UNAVAILABLE, STORE_FULL.
    pub(super) async fn expire_first(&self, batch: &Batch<'_>) -> Result<bool, Error> {
        let certain_ms = sweep::certain_ms(&*self.store, &self.clock);
        let expired = self.expired_by(batch, certain_ms);
        if expired.is_empty() {
            return Ok(false);
        }
        if !self.store.has_compared_clocks() {
            // Only briefly after startup.
            tokio::time::sleep(RETRY_DELAY).await;
            return Ok(true);
        }
        let swept = sweep::expire(&*self.store, &expired, certain_ms).await?;
        self.wait_for_view(swept.revision).await?;
        Ok(true)
    }

    /// The restrictions that have expired at `now_ms` and that the batch overwrites or deletes.
    fn expired_by(&self, batch: &Batch<'_>, now_ms: u64) -> Vec<Expired> {
        let mut expired = Vec::new();
        for key in batch.written() {
            if let Key::DeletedRoom { .. } | Key::DeletedClient { .. } = key {
                expired.extend(self.view.expired_restrictions_of(key.owner(), now_ms, BATCH_MAX));
            } else if let Some(revision) = self.view.expired_revision(key, now_ms) {
                add_expired(&mut expired, key, revision);
            }
        }
        expired
    }
}

/// Adds one restriction. Consecutive member mutes of one room share an entry, so they share an
/// event.
fn add_expired(expired: &mut Vec<Expired>, key: Key<'_>, revision: Revision) {
    if let (
        Key::MemberMute { room, user, .. },
        Some(Expired {
            restrictions: ExpiredRestrictions::MemberMutes { room: last_room, users },
            ..
        }),
    ) = (key, expired.last_mut())
        && **last_room == *room
    {
        if !users.iter().any(|(other, _)| **other == *user) {
            users.push((user.into(), revision));
        }
        return;
    }
    expired.extend(Expired::of(key, revision));
}
