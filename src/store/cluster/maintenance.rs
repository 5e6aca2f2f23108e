//! Periodic work of every replica: confirm that the feed is complete, begin segments of history,
//! and delete old segments and stale ticks.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::{Instant, interval, sleep, timeout};

use super::{
    kv::{KeyRange, RangeOptions, Txn, TxnOutcome, TxnResult},
    layout,
    shared::{REQUEST_TIMEOUT, Segment, Shared, begin_segment},
};
use crate::proto::store_v1 as pb;
use crate::store::{Retention, Revision, StoreError};

/// How often the feed is confirmed.
const CONFIRM_INTERVAL: Duration = Duration::from_secs(1);
/// The time limit of the request that confirms the feed.
const CONFIRM_TIMEOUT: Duration = Duration::from_millis(1_500);
/// If the watch has not delivered a tick this long after it was written, the watch is stalled.
const STALL_TIMEOUT: Duration = Duration::from_secs(2);
/// A tick that has not changed for this long belongs to a replica that no longer runs.
const STALE_TICK_AGE: Duration = Duration::from_secs(600);
/// Limits of a segment, because a segment is read as a whole.
const SEGMENT_COMMITS: u64 = 2_000;
const SEGMENT_BYTES: usize = 1 << 20;
/// A segment is deleted as a whole. So it covers at most one part in this many of the retention, by
/// number and by age.
const RETENTION_DIVISOR: u64 = 16;

/// The task that does this work.
pub(super) struct Maintenance(pub(super) Arc<Shared>);

impl Segment {
    pub(super) fn is_full(&self, retention: Retention) -> bool {
        let max_commits = SEGMENT_COMMITS.min(retention.events / RETENTION_DIVISOR).max(1);
        self.commits >= max_commits
            || self.bytes >= SEGMENT_BYTES
            || self.latest_ms - self.at_ms > retention.age_ms / RETENTION_DIVISOR
    }
}

impl Maintenance {
    pub(super) async fn run(self) {
        tokio::join!(self.confirm(), self.rotate_segments(), self.delete_stale_ticks());
    }

    async fn confirm(&self) {
        let mut interval = interval(CONFIRM_INTERVAL);
        let mut is_answering = true;
        loop {
            tokio::select! {
                _ = interval.tick() => {}
                () = self.0.confirm_now.notified() => {}
            }
            let confirmed = self.confirm_once().await;
            match &confirmed {
                Ok(()) if !is_answering => tracing::info!("the cluster answers again"),
                Err(error) if is_answering => {
                    tracing::warn!(%error, "the cluster does not answer; retrying")
                }
                Ok(()) | Err(_) => {}
            }
            is_answering = confirmed.is_ok();
        }
    }

    /// Writes a tick, and waits until the feed delivers it. Then the feed has delivered every
    /// commit acknowledged before this call began.
    async fn confirm_once(&self) -> Result<(), StoreError> {
        let shared = &self.0;
        let started = Instant::now();
        let observed = shared.feed_buffer.latest_revision();
        let wall_ms = shared.clocks.now_ms().map(|now_ms| now_ms.to_be_bytes().to_vec());
        let tick = Txn {
            puts: vec![(shared.layout.tick(shared.id), wall_ms.unwrap_or_default())],
            ..Txn::default()
        };
        let revision = match shared.etcd.transact(&tick, CONFIRM_TIMEOUT).await {
            Ok(TxnResult { revision, .. }) => {
                self.require_newer(layout::last_revision(revision), observed)?
            }
            // While the cluster is full, no replica can commit, so the feed misses nothing.
            Err(StoreError::Full(_)) => {
                shared
                    .etcd
                    .range(
                        &shared.current_segment_range(),
                        RangeOptions::default(),
                        CONFIRM_TIMEOUT,
                    )
                    .await?;
                shared.feed_buffer.latest_revision()
            }
            Err(error) => return Err(error),
        };
        if timeout(STALL_TIMEOUT, shared.feed_buffer.wait_for_revision(revision)).await.is_err() {
            shared.watch_stalled.notify_one();
            return Err(StoreError::Unavailable(
                "the watch did not deliver a tick in time".to_owned(),
            ));
        }
        *shared.confirmed() = (revision, started);
        Ok(())
    }

    /// Errors: [`StoreError::RevisionRegressed`]; the process ends with it.
    fn require_newer(
        &self,
        revision: Revision,
        observed: Revision,
    ) -> Result<Revision, StoreError> {
        if revision > observed { Ok(revision) } else { Err(self.0.report_regression(observed)) }
    }

    /// Deletes ticks left by replicas that no longer run.
    async fn delete_stale_ticks(&self) {
        let mut interval = interval(STALE_TICK_AGE);
        let mut previous = HashMap::new();
        loop {
            interval.tick().await;
            match self.0.ticks().await {
                Ok(ticks) => {
                    for (key, revision) in &ticks {
                        if previous.get(key) == Some(revision) {
                            let delete = Txn {
                                preconditions: vec![(key.clone(), Some(*revision))],
                                deletes: vec![KeyRange::single(key.clone())],
                                ..Txn::default()
                            };
                            // After a failure, the next round tries again.
                            let _ = self.0.etcd.transact(&delete, REQUEST_TIMEOUT).await;
                        }
                    }
                    previous = ticks;
                }
                Err(error) => {
                    tracing::debug!(%error, "the ticks of other replicas could not be read")
                }
            }
        }
    }

    async fn rotate_segments(&self) {
        loop {
            self.0.segment_full.notified().await;
            if let Err(error) = self.0.begin_next_segment().await {
                tracing::warn!(%error, "history could not be rotated; retrying");
                sleep(CONFIRM_INTERVAL).await;
                self.0.segment_full.notify_one();
            }
        }
    }
}

impl Shared {
    pub(super) fn current_segment_range(&self) -> KeyRange {
        KeyRange::single(self.layout.current_segment())
    }

    /// The keys of all ticks, each with the cluster revision that wrote it.
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
            at_ms: segment.latest_ms,
            commits_before,
        };
        let txn = begin_segment(&self.layout, Some(segment.opened_revision), &next);
        let TxnResult { revision, outcome, .. } = self.etcd.transact(&txn, REQUEST_TIMEOUT).await?;
        // If another replica began the next segment first, the feed delivers it.
        if let TxnOutcome::Committed = outcome {
            self.adopt_segment(Segment::new(&next, revision))?;
            self.delete_old_segments().await?;
        }
        Ok(())
    }

    /// Deletes the segments beyond the retention. Any replica may do this, and a deletion cannot be
    /// undone. So a replica whose clock is not certain deletes none for its age.
    async fn delete_old_segments(&self) -> Result<(), StoreError> {
        let (segments, _) = self.segments().await?;
        let current = *self.segment();
        let all_commits = current.commits_before + current.commits;
        let certain_ms = self.clocks.certain_ms(self.id);
        for pair in segments.windows(2) {
            let (oldest, next) = (&pair[0], &pair[1]);
            let commits_after = all_commits.saturating_sub(next.commits_before);
            let is_surplus = commits_after >= self.retention.events;
            let is_too_old = certain_ms
                .is_some_and(|now_ms| next.at_ms.saturating_add(self.retention.age_ms) < now_ms);
            if !is_surplus && !is_too_old {
                break;
            }
            let header = KeyRange::single(self.layout.header(oldest.number));
            let delete =
                Txn { deletes: vec![self.layout.events(oldest.number), header], ..Txn::default() };
            self.etcd.transact(&delete, REQUEST_TIMEOUT).await?;
        }
        Ok(())
    }
}
