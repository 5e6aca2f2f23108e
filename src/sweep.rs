//! The sweeper: removes expired restrictions (mutes and room bans), the records of deleted rooms
//! and clients (`deleted.rs`), and idempotency records (`request.rs`). It only frees space and
//! emits EXPIRED events: an expired restriction has no effect before it is swept either. A
//! restriction that was renewed meanwhile stays, because the old revision is a precondition of the
//! commit.
//!
//! A restriction is removed in the same commit as its EXPIRED event, so each expiry is emitted
//! exactly once. Before a batch replaces an expired restriction that is not swept yet, its author
//! calls [`expire`].
//!
//! Expiry is decided by [`certain_ms`], not by the wall clock alone: it allows for a clock that was
//! set, and for one that differs from those of the other replicas.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;

use crate::{
    clock::Clock,
    model::{Event, EventKind, Key},
    store::{Batch, MAX_SKEW_MS, Revision, Store, StoreError},
    telemetry::metrics::METRICS,
    view::{Expired, ExpiredRestrictions, View},
};

mod deleted;
mod request;

/// Between two sweeps. An EXPIRED event must be on the feed within a second, and a sweep with
/// nothing to remove costs almost nothing.
const INTERVAL: Duration = Duration::from_millis(250);
/// Records in one commit, as many as in one call of a user.
const COMMIT_RECORDS: usize = 100;
/// Records of each kind in one sweep, so that many of one kind do not delay the others.
const BATCH_MAX: usize = 1_000;
/// The actor of the sweeper's events.
const ACTOR: &str = "service";

/// Removes the records that the view reports as due.
#[allow(missing_docs)]
pub struct Sweeper {
    pub store: Arc<dyn Store>,
    pub view: View,
    pub clock: Clock,
}

impl Sweeper {
    /// Sweeps until it is dropped.
    pub async fn run(self) {
        let mut was_skewed = false;
        loop {
            self.store.report_certain_time(self.clock.certain_ms());
            let skew_ms = far_skew_ms(&*self.store, &self.clock);
            if let Some(skew_ms) = skew_ms.filter(|_| !was_skewed) {
                tracing::error!(
                    skew_ms,
                    "the clock differs from those of the other replicas: set it right; until then expired records are not removed"
                );
            }
            was_skewed = skew_ms.is_some();
            let swept = self.sweep().await;
            if let Err(error) = &swept {
                tracing::warn!(%error, "a sweep of expired records failed; trying again");
            }
            // Also while more expired records wait: they may take long.
            if let Err(error) = self.sweep_deleted().await {
                tracing::warn!(%error, "a sweep of deleted rooms and clients failed; trying again");
            }
            if !swept.is_ok_and(|swept| swept >= BATCH_MAX) {
                tokio::time::sleep(INTERVAL).await;
            }
        }
    }

    /// Removes expired restrictions and idempotency records, and waits until the view has that.
    /// Returns how many it has removed; 0 while the clock is far from those of the other replicas,
    /// or not compared with them yet.
    pub async fn sweep(&self) -> Result<usize, StoreError> {
        loop {
            if !self.store.has_compared_clocks() || self.store.clock_skew_ms().is_some_and(is_far) {
                return Ok(0);
            }
            let certain_ms = self.clock.certain_ms();
            let swept = expire(
                &*self.store,
                &self.view.expired_restrictions(certain_ms, BATCH_MAX),
                certain_ms,
            )
            .await?;
            self.view.wait_for(swept.revision).await;
            if !swept.had_conflict {
                return Ok(swept.restrictions + self.sweep_requests(certain_ms).await?);
            }
        }
    }
}

/// The time up to which restrictions have certainly expired, in Unix milliseconds: by
/// [`Clock::certain_ms`], and if that is far ahead of the other replicas' clocks, by theirs.
pub fn certain_ms(store: &dyn Store, clock: &Clock) -> u64 {
    let ahead_ms = store
        .clock_skew_ms()
        .filter(|skew_ms| is_far(*skew_ms))
        .and_then(|skew_ms| u64::try_from(skew_ms).ok());
    clock.certain_ms().saturating_sub(ahead_ms.unwrap_or(0))
}

/// [`skew_ms`], if it is so large that nothing expires by this clock.
pub fn far_skew_ms(store: &dyn Store, clock: &Clock) -> Option<i64> {
    skew_ms(store, clock).filter(|skew_ms| is_far(*skew_ms))
}

/// How far the wall clock is ahead of those of the other replicas, in milliseconds. `None` without
/// other replicas.
pub fn skew_ms(store: &dyn Store, clock: &Clock) -> Option<i64> {
    let doubted_ms = clock.now_ms().cast_signed().saturating_sub(clock.certain_ms().cast_signed());
    Some(store.clock_skew_ms()?.saturating_add(doubted_ms))
}

fn is_far(skew_ms: i64) -> bool {
    skew_ms.unsigned_abs() > MAX_SKEW_MS
}

/// The result of [`expire`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Swept {
    /// How many restrictions were removed.
    pub restrictions: usize,
    /// The view that has reached this revision no longer has them.
    pub revision: Revision,
    /// One of the restrictions was renewed or removed meanwhile. Those in the same commit are still
    /// there.
    pub had_conflict: bool,
}

/// Removes these expired restrictions, and emits their EXPIRED events. The commits are concurrent,
/// so that they share syncs.
pub async fn expire(
    store: &dyn Store,
    expired: &[Expired],
    now_ms: u64,
) -> Result<Swept, StoreError> {
    let batches = expired.iter().flat_map(|expired| {
        batches(expired, now_ms).into_iter().map(move |(batch, count)| (expired, batch, count))
    });
    let commits = batches
        .map(async |(expired, batch, count)| (expired, store.commit(batch.encode()).await, count));
    let mut swept = Swept::default();
    for (expired, committed, count) in join_all(commits).await {
        let revision = match committed {
            Ok(revision) => {
                swept.restrictions += count;
                let lag_ms =
                    expired.expired_at_ms.map(|expired_at_ms| now_ms.saturating_sub(expired_at_ms));
                METRICS.expired(count, lag_ms.map(Duration::from_millis));
                revision
            }
            Err(StoreError::Conflict { revision }) => {
                swept.had_conflict = true;
                revision
            }
            Err(error) => return Err(error),
        };
        swept.revision = swept.revision.max(revision);
    }
    Ok(swept)
}

/// The commits that remove these restrictions, each with their number.
fn batches(expired: &Expired, now_ms: u64) -> Vec<(Batch<'_>, usize)> {
    let app = &*expired.app;
    let batch = |kind, room: &str, users: Vec<String>| {
        Batch::of(&Event { room: room.to_owned(), users, ..Event::new(kind, app, ACTOR, now_ms) })
    };
    match &expired.restrictions {
        ExpiredRestrictions::MemberMutes { room, users } => users
            .chunks(COMMIT_RECORDS)
            .map(|users| {
                let mut batch = batch(
                    EventKind::Expired,
                    room,
                    users.iter().map(|(user, _)| user.to_string()).collect(),
                );
                users.iter().for_each(|(user, revision)| {
                    remove(&mut batch, Key::MemberMute { app, room, user }, *revision)
                });
                (batch, users.len())
            })
            .collect(),
        ExpiredRestrictions::Ban { room, revision } => {
            let mut batch = batch(EventKind::BanExpired, room, Vec::new());
            remove(&mut batch, Key::Ban { app, room }, *revision);
            vec![(batch, 1)]
        }
        ExpiredRestrictions::NotificationMutes { user, rooms } => rooms
            .iter()
            .map(|(room, revision)| {
                let mut batch =
                    batch(EventKind::NotificationsExpired, room, vec![user.to_string()]);
                remove(&mut batch, Key::NotificationMute { app, user, room }, *revision);
                (batch, 1)
            })
            .collect(),
        ExpiredRestrictions::UserMute { user, revision } => {
            let mut batch = batch(EventKind::UserMuteExpired, "", vec![user.to_string()]);
            remove(&mut batch, Key::UserMute { app, user }, *revision);
            vec![(batch, 1)]
        }
    }
}

fn remove<'a>(batch: &mut Batch<'a>, key: Key<'a>, revision: Revision) {
    batch.expect(key, Some(revision));
    batch.delete(key);
}
