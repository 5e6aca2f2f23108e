//! What every replica does from time to time: know that it has seen everything, begin segments of
//! history, and let go of old ones.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::{Instant, interval, sleep, timeout};

use super::{
    client::{KeyRange, RangeOptions, Transacted, Txn, TxnOutcome},
    layout,
    shared::{REQUEST_TIMEOUT, Segment, Shared, begin_segment},
};
use crate::proto::store_v1 as pb;
use crate::store::{Retention, Revision, StoreError};

/// How often the feed is confirmed.
const CONFIRM: Duration = Duration::from_secs(1);
/// For how long one try to do so may go on.
const TRY: Duration = Duration::from_millis(1_500);
/// A watch that has not brought what was written by then is stuck.
const STUCK: Duration = Duration::from_secs(2);
/// A tick that has not changed for so long is that of a replica that has gone.
const OLD: Duration = Duration::from_secs(600);
/// A segment is long enough with this many commits or bytes of events, because it is read at once;
/// or with this part of what is kept, by number or age, because it goes at once.
const COMMITS: u64 = 2_000;
const BYTES: usize = 1 << 20;
const PART: u64 = 16;

/// The task.
pub(super) struct Maintenance(pub(super) Arc<Shared>);

impl Segment {
    pub(super) fn is_full(&self, kept: Retention) -> bool {
        let commits = COMMITS.min(kept.events / PART).max(1);
        self.commits >= commits
            || self.bytes >= BYTES
            || self.newest_ms - self.at_ms > kept.age_ms / PART
    }
}

impl Maintenance {
    pub(super) async fn run(self) {
        tokio::join!(self.confirm(), self.keep_history(), self.remove_old_ticks());
    }

    async fn confirm(&self) {
        let mut due = interval(CONFIRM);
        let mut answers = true;
        loop {
            tokio::select! {
                _ = due.tick() => {}
                () = self.0.confirm.notified() => {}
            }
            let confirmed = self.confirm_once().await;
            match &confirmed {
                Ok(()) if !answers => tracing::info!("the cluster answers again"),
                Err(error) if answers => tracing::warn!(%error, "the cluster does not answer"),
                Ok(()) | Err(_) => {}
            }
            answers = confirmed.is_ok();
        }
    }

    /// Writes something, and waits until the feed brings it: then it has brought all that was
    /// committed before this was begun.
    async fn confirm_once(&self) -> Result<(), StoreError> {
        let shared = &self.0;
        let (asked, seen) = (Instant::now(), shared.recent.latest_revision());
        let wall_ms = shared.clocks.now_ms().map(|now_ms| now_ms.to_be_bytes().to_vec());
        let tick = Txn {
            puts: vec![(shared.layout.tick(shared.id), wall_ms.unwrap_or_default())],
            ..Txn::default()
        };
        let revision = match shared.etcd.transact(&tick, TRY).await {
            Ok(Transacted { revision, .. }) => {
                self.require_newer(layout::end_of(revision), seen)?
            }
            // Where nothing can be written there is nothing to miss.
            Err(StoreError::Full(_)) => {
                shared.etcd.range(&shared.now_span(), RangeOptions::default(), TRY).await?;
                shared.recent.latest_revision()
            }
            Err(error) => return Err(error),
        };
        if timeout(STUCK, shared.recent.reach(revision)).await.is_err() {
            shared.stalled.notify_one();
            return Err(StoreError::Unavailable("the watch is behind".to_owned()));
        }
        *shared.confirmed() = (revision, asked);
        Ok(())
    }

    /// Errors: [`StoreError::RevisionRegressed`], with which the process ends.
    fn require_newer(&self, now: Revision, seen: Revision) -> Result<Revision, StoreError> {
        if now > seen { Ok(now) } else { Err(self.0.went_back(seen)) }
    }

    /// The ticks of replicas that have gone stay behind.
    async fn remove_old_ticks(&self) {
        let mut due = interval(OLD);
        let mut known = HashMap::new();
        loop {
            due.tick().await;
            match self.0.ticks().await {
                Ok(found) => {
                    for (key, revision) in &found {
                        if known.get(key) == Some(revision) {
                            let gone =
                                Txn { deletes: vec![KeyRange::of(key.clone())], ..Txn::default() };
                            let gone =
                                Txn { preconditions: vec![(key.clone(), Some(*revision))], ..gone };
                            // Where it fails, the next time comes.
                            let _ = self.0.etcd.transact(&gone, REQUEST_TIMEOUT).await;
                        }
                    }
                    known = found;
                }
                Err(error) => tracing::debug!(%error, "ticks of other replicas were not looked at"),
            }
        }
    }

    async fn keep_history(&self) {
        loop {
            self.0.full.notified().await;
            if let Err(error) = self.0.begin_next_segment().await {
                tracing::warn!(%error, "history was not kept in order; trying again");
                sleep(CONFIRM).await;
                self.0.full.notify_one();
            }
        }
    }
}

impl Shared {
    pub(super) fn now_span(&self) -> KeyRange {
        KeyRange::of(self.layout.now())
    }

    /// Keys of ticks, with the revision of the cluster that each was written at.
    async fn ticks(&self) -> Result<HashMap<Vec<u8>, u64>, StoreError> {
        let page =
            self.etcd.range(&self.layout.ticks(), RangeOptions::default(), REQUEST_TIMEOUT).await?;
        Ok(page.records.into_iter().map(|record| (record.key, record.revision)).collect())
    }

    async fn begin_next_segment(&self) -> Result<(), StoreError> {
        let segment = *self.segment();
        if !segment.is_full(self.retention) {
            return Ok(());
        }
        let commits_before = segment.commits_before + segment.commits;
        let next = pb::ClusterSegment {
            number: segment.number + 1,
            at_ms: segment.newest_ms,
            commits_before,
        };
        let begun = begin_segment(&self.layout, Some(segment.opened), &next);
        let Transacted { revision, outcome, .. } =
            self.etcd.transact(&begun, REQUEST_TIMEOUT).await?;
        // Where another replica was faster, the feed tells.
        if let TxnOutcome::Done = outcome {
            self.turn_to(Segment::begun(&next, revision))?;
            self.trim().await?;
        }
        Ok(())
    }

    /// Lets go of segments that are too old, or too many. Any replica may: a segment that is gone
    /// is gone; so one whose clock says nothing for certain finds none too old.
    async fn trim(&self) -> Result<(), StoreError> {
        let (segments, _) = self.segments().await?;
        let now = *self.segment();
        let all = now.commits_before + now.commits;
        let certain_ms = self.clocks.certain_ms(self.id);
        for pair in segments.windows(2) {
            let (oldest, next) = (&pair[0], &pair[1]);
            let too_many = all.saturating_sub(next.commits_before) >= self.retention.events;
            let too_old = certain_ms
                .is_some_and(|now_ms| next.at_ms.saturating_add(self.retention.age_ms) < now_ms);
            if !too_many && !too_old {
                break;
            }
            let header = KeyRange::of(self.layout.header(oldest.number));
            let gone =
                Txn { deletes: vec![self.layout.events(oldest.number), header], ..Txn::default() };
            self.etcd.transact(&gone, REQUEST_TIMEOUT).await?;
        }
        Ok(())
    }
}
