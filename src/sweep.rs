//! The sweeper: removes marks that have ended, what is left of deleted rooms and clients
//! (`deleted.rs`), and answers to requests (`request.rs`). It only frees space and puts EXPIRED on
//! the feed; what has ended has no effect before it is swept, and a mark that was renewed meanwhile
//! is left alone, because the commit expects the old one.
//!
//! A mark and its EXPIRED go in one commit, so each end is told once. Whoever is about to replace a
//! mark that has ended and is not swept yet has it swept first, by [`expire`].
//!
//! A clock does not say alone that something has ended: [`certain_ms`] has to, which knows of
//! clocks that were set, and that differ from those of others.

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

/// How often it looks: a look where nothing is due costs next to nothing, and an expiry is to be on
/// the feed within a second.
const PERIOD: Duration = Duration::from_millis(250);
/// Marks in one commit, as many as in one call of a user.
const COMMIT: usize = 100;
/// Marks in one look, so that a flood of them does not hold the others up.
const BATCH_MAX: usize = 1_000;
/// As actor of what it does.
const ACTOR: &str = "service";

/// Sweeps the store of what the view says is due.
pub struct Sweeper {
    /// What is swept.
    pub store: Arc<dyn Store>,
    /// Who knows what is due.
    pub view: View,
    /// When.
    pub clock: Clock,
}

impl Sweeper {
    /// Sweeps for ever.
    pub async fn run(self) {
        let mut was_far = false;
        loop {
            self.store.report_wall_clock(self.clock.certain_ms());
            let skew_ms = far_skew_ms(&*self.store, &self.clock);
            if let Some(skew_ms) = skew_ms.filter(|_| !was_far) {
                tracing::error!(
                    skew_ms,
                    "the clock is not that of the other replicas: what ends by it is not removed until it is set right"
                );
            }
            was_far = skew_ms.is_some();
            let swept = self.sweep().await;
            if let Err(error) = &swept {
                tracing::warn!(%error, "sweeping has failed; trying again");
            }
            // Also when there is more that has ended: a flood of that may go on for long.
            if let Err(error) = self.sweep_deleted().await {
                tracing::warn!(%error, "what was deleted could not be swept; trying again");
            }
            if !swept.is_ok_and(|swept| swept >= BATCH_MAX) {
                tokio::time::sleep(PERIOD).await;
            }
        }
    }

    /// Removes what is due now, and waits until the view has it. Answers how many marks and answers
    /// it has removed.
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
            if !swept.again {
                return Ok(swept.restrictions + self.sweep_requests(certain_ms).await?);
            }
        }
    }
}

/// Unix milliseconds that have come for certain: by this clock and, where it is far ahead of those
/// of the others, by theirs.
pub fn certain_ms(store: &dyn Store, clock: &Clock) -> u64 {
    let ahead_ms = store
        .clock_skew_ms()
        .filter(|skew_ms| is_far(*skew_ms))
        .and_then(|skew_ms| u64::try_from(skew_ms).ok());
    clock.certain_ms().saturating_sub(ahead_ms.unwrap_or(0))
}

/// By how much the wall clock is ahead of those of the other replicas, in milliseconds, where it is
/// so far that it says of nothing that it has ended.
pub fn far_skew_ms(store: &dyn Store, clock: &Clock) -> Option<i64> {
    skew_ms(store, clock).filter(|skew_ms| is_far(*skew_ms))
}

/// By how much the wall clock is ahead of those of the other replicas, in milliseconds. Nothing
/// where there are none.
pub fn skew_ms(store: &dyn Store, clock: &Clock) -> Option<i64> {
    let doubted_ms = clock.now_ms().cast_signed().saturating_sub(clock.certain_ms().cast_signed());
    Some(store.clock_skew_ms()?.saturating_add(doubted_ms))
}

fn is_far(skew_ms: i64) -> bool {
    skew_ms.unsigned_abs() > MAX_SKEW_MS
}

/// What a sweep has come to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Swept {
    /// How many marks were removed.
    pub restrictions: usize,
    /// The view has to reach it to know what is left.
    pub revision: Revision,
    /// Somebody renewed or removed one of the marks meanwhile: those that should have gone with it
    /// are still there.
    pub again: bool,
}

/// Removes these marks, which have ended, and tells their end. All commits wait together, so that
/// they share their syncs.
pub async fn expire(store: &dyn Store, due: &[Expired], now_ms: u64) -> Result<Swept, StoreError> {
    let all = due.iter().flat_map(|due| {
        batches(due, now_ms)
            .into_iter()
            .map(move |(batch, restrictions)| (due, batch, restrictions))
    });
    let commit = async |(due, batch, restrictions)| (due, store.commit(batch).await, restrictions);
    let mut swept = Swept::default();
    for (due, committed, restrictions) in join_all(all.map(commit)).await {
        let revision = match committed {
            Ok(revision) => {
                swept.restrictions += restrictions;
                let lag_ms =
                    due.expired_at_ms.map(|expired_at_ms| now_ms.saturating_sub(expired_at_ms));
                METRICS.expired(restrictions, lag_ms.map(Duration::from_millis));
                revision
            }
            Err(StoreError::Conflict { revision }) => {
                swept.again = true;
                revision
            }
            Err(error) => return Err(error),
        };
        swept.revision = swept.revision.max(revision);
    }
    Ok(swept)
}

fn batches(due: &Expired, now_ms: u64) -> Vec<(Batch, usize)> {
    let app = &*due.app;
    let batch = |kind, room: &str, users: Vec<String>| {
        Batch::of(&Event { room: room.to_owned(), users, ..Event::new(kind, app, ACTOR, now_ms) })
    };
    match &due.restrictions {
        ExpiredRestrictions::MemberMutes { room, users } => users
            .chunks(COMMIT)
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

fn remove(batch: &mut Batch, key: Key<'_>, revision: Revision) {
    batch.expect(key, Some(revision));
    batch.delete(key);
}
