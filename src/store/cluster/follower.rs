//! The follower: one watch that delivers the commits of all replicas to this one.

use std::sync::Arc;

use prost::Message as _;
use tokio::time::sleep;

use super::{
    client::backoff,
    kv::{KeyChange, KeyRange, KeyValue, RangeOptions, RangePage},
    layout::{self, Kind},
    shared::{REQUEST_TIMEOUT, Segment, Shared},
};
use crate::proto::store_v1 as pb;
use crate::{
    store::{Commit, Operation, StoreError, codec::corrupt},
    telemetry::metrics::METRICS,
};

/// The task that follows the cluster.
pub(super) struct Follower {
    shared: Arc<Shared>,
    /// The cluster revision up to which all changes are in the feed buffer.
    cluster_revision: u64,
    /// The latest events received: their key, their segment and their cluster revision.
    last_event: Option<(Vec<u8>, u64, u64)>,
    /// Whether a foreign key was logged already.
    has_warned_of_foreign: bool,
}

impl Follower {
    /// A follower that has received everything up to this cluster revision.
    pub(super) fn after(shared: Arc<Shared>, cluster_revision: u64) -> Self {
        Self { shared, cluster_revision, last_event: None, has_warned_of_foreign: false }
    }

    pub(super) async fn run(mut self) {
        loop {
            let error = match self.follow().await {
                Err(error @ StoreError::RevisionRegressed { .. }) => {
                    // The process ends with this error.
                    tracing::error!(%error, "an older state has replaced the cluster");
                    return;
                }
                Err(StoreError::Compacted { .. }) => match self.restart_after_compaction().await {
                    Ok(()) => continue,
                    Err(error) => error,
                },
                Err(error) => error,
                Ok(()) => StoreError::Unavailable("the watch has stalled".to_owned()),
            };
            tracing::warn!(%error, "the watch of the cluster has ended; restarting it");
            self.shared.etcd.switch_member();
            sleep(backoff()).await;
        }
    }

    /// Follows until the watch fails, or with `Ok` until it stalls.
    async fn follow(&mut self) -> Result<(), StoreError> {
        let shared = self.shared.clone();
        self.check_observed().await?;
        // Starts at a revision received already. If a member was compacted at the next revision, a
        // watch that starts there silently lacks the deletions of that revision (etcd 3.4.23).
        let mut watch = shared.etcd.watch(&shared.layout.all(), self.cluster_revision).await?;
        loop {
            tokio::select! {
                changes = watch.next() => {
                    shared.feed_buffer.wait_for_room_async().await;
                    self.take(changes?)?;
                }
                () = shared.watch_stalled.notified() => return Ok(()),
            }
        }
    }

    /// Checks that the cluster still has what this replica has received. The watch restarts after
    /// any failure, and the failure may have been a restore from a backup.
    ///
    /// Errors: [`StoreError::RevisionRegressed`], [`StoreError::Unavailable`],
    /// [`StoreError::Corrupt`].
    async fn check_observed(&self) -> Result<(), StoreError> {
        let shared = &self.shared;
        let page = self.read_current_segment().await?;
        if page.revision < self.cluster_revision {
            return Err(shared.report_regression(layout::last_revision(self.cluster_revision)));
        }
        self.adopt_first_segment(&page)?;
        let Some((key, segment, revision)) = &self.last_event else { return Ok(()) };
        let found = shared
            .etcd
            .range(&KeyRange::single(key.clone()), RangeOptions::default(), REQUEST_TIMEOUT)
            .await?;
        if found.records.first().is_some_and(|record| record.revision == *revision) {
            return Ok(());
        }
        // The retention may have deleted the event with its segment. Then no segment up to it is
        // left.
        let (segments, _) = shared.segments().await?;
        if segments.iter().any(|kept| kept.number <= *segment) {
            return Err(shared.report_regression(layout::last_revision(*revision)));
        }
        Ok(())
    }

    /// Restarts the feed at the latest revision, because the cluster no longer keeps some changes
    /// that this replica has not received. Watchers get [`StoreError::Compacted`].
    async fn restart_after_compaction(&mut self) -> Result<(), StoreError> {
        let page = self.read_current_segment().await?;
        tracing::warn!(revision = page.revision, "the cluster was compacted behind this replica");
        self.adopt_first_segment(&page)?;
        self.cluster_revision = page.revision;
        self.shared.feed_buffer.restart_after(layout::last_revision(self.cluster_revision));
        Ok(())
    }

    async fn read_current_segment(&self) -> Result<RangePage, StoreError> {
        let range = self.shared.current_segment_range();
        self.shared.etcd.range(&range, RangeOptions::default(), REQUEST_TIMEOUT).await
    }

    fn adopt_first_segment(&self, page: &RangePage) -> Result<(), StoreError> {
        match page.records.first() {
            Some(record) => self.shared.adopt_segment(Segment::decode(record)?),
            None => Ok(()),
        }
    }

    /// Adds changes of whole cluster revisions to the feed, as commits.
    fn take(&mut self, mut changes: Vec<KeyChange>) -> Result<(), StoreError> {
        // A member that is behind may send changes from before the start of the watch (etcd's issue
        // 20221).
        changes.retain(|change| change.revision > self.cluster_revision);
        let Some(latest) = changes.last().map(|change| change.revision) else { return Ok(()) };
        let mut commits = Vec::new();
        let mut operations = Vec::new();
        let mut current = self.cluster_revision;
        for KeyChange { key, value, revision } in changes {
            if revision > current {
                push_foreign_changes(&mut commits, &mut operations, current);
            }
            current = revision;
            match (self.shared.layout.kind(&key), value) {
                (Kind::Record(key), Some(value)) => {
                    operations.push(Operation::Put { key: key.to_vec(), value })
                }
                (Kind::Record(key), None) => {
                    operations.push(Operation::Delete { key: key.to_vec() })
                }
                (Kind::Event(segment), Some(value)) => {
                    self.last_event = Some((key.clone(), segment, revision));
                    for commit in
                        decode_commits(&key, &value, revision, std::mem::take(&mut operations))?
                    {
                        self.count(segment, &commit);
                        commits.push(Arc::new(commit));
                    }
                }
                (Kind::CurrentSegment, Some(value)) => self
                    .shared
                    .adopt_segment(Segment::decode(&KeyValue { key, value, revision })?)?,
                (Kind::Tick(replica), Some(value)) => {
                    let wall_ms = value.try_into().map(u64::from_be_bytes);
                    wall_ms
                        .into_iter()
                        .for_each(|wall_ms| self.shared.clocks.record_tick(replica, wall_ms));
                }
                (Kind::Event(_) | Kind::CurrentSegment | Kind::Header | Kind::Tick(_), _) => {}
                (Kind::Foreign, _) => self.skip_foreign(&key),
            }
        }
        push_foreign_changes(&mut commits, &mut operations, current);
        self.cluster_revision = latest;
        self.shared.feed_buffer.push(commits, layout::last_revision(latest));
        Ok(())
    }

    /// A key that this service does not write is no damage. It is counted, and the first is logged.
    fn skip_foreign(&mut self, key: &[u8]) {
        METRICS.foreign_key();
        if !std::mem::replace(&mut self.has_warned_of_foreign, true) {
            tracing::warn!(
                key = %key.escape_ascii(),
                "another program writes below this service's prefix; its keys are ignored"
            );
        }
    }

    /// Counts a commit for its segment if that is still the current one. The replica that began the
    /// next segment has counted those before it.
    fn count(&self, number: u64, commit: &Commit) {
        let mut segment = self.shared.segment();
        if segment.number != number {
            return;
        }
        segment.commits += 1;
        segment.bytes += commit.event.len();
        if segment.at_ms == 0 {
            // Segment 1 begins before there is any commit, so it has no time yet.
            segment.at_ms = commit.at_ms;
        }
        segment.latest_ms = segment.latest_ms.max(commit.at_ms);
        if segment.is_full(self.shared.retention) {
            self.shared.segment_full.notify_one();
        }
    }
}

/// Adds changes that came without an event as a commit without one: another program has changed
/// records of this service. The view must still apply them.
fn push_foreign_changes(
    commits: &mut Vec<Arc<Commit>>,
    operations: &mut Vec<Operation>,
    cluster_revision: u64,
) {
    if !operations.is_empty() {
        tracing::warn!(
            cluster = cluster_revision,
            "another program has changed records of this service"
        );
        let revision = layout::last_revision(cluster_revision);
        commits.push(Arc::new(Commit {
            operations: std::mem::take(operations),
            ..Commit::empty(revision)
        }));
    }
}

/// The commits of one transaction, from its events. The first carries the operations of all: they
/// take effect together, and none touches the keys of another.
fn decode_commits(
    key: &[u8],
    value: &[u8],
    cluster_revision: u64,
    mut operations: Vec<Operation>,
) -> Result<Vec<Commit>, StoreError> {
    let stored = pb::ClusterCommits::decode(value)
        .map_err(|_| corrupt(key, "the value is not the events of a transaction"))?;
    let commits = stored.commits.into_iter().enumerate().map(|(slot, commit)| Commit {
        revision: layout::revision(cluster_revision, slot as u64),
        operations: std::mem::take(&mut operations),
        event: commit.event,
        at_ms: commit.at_ms,
    });
    Ok(commits.collect())
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;
    use tokio::time::Instant;

    use super::*;
    use crate::store::{
        ClusterConfig, Retention,
        cluster::{client::Etcd, layout::Layout},
    };

    /// A follower without a cluster, which has received everything up to this cluster revision; and
    /// the layout of its keys.
    fn follower(cluster_revision: u64) -> (Follower, Layout) {
        let config = ClusterConfig {
            endpoints: vec!["http://127.0.0.1:1".to_owned()],
            prefix: "mute/".to_owned(),
            user: None,
            tls: None,
            connector: None,
        };
        let layout = || Layout::new(&config.prefix);
        let shared = Shared::new(
            Etcd::new(&config).unwrap(),
            layout(),
            Retention { events: 1, age_ms: 1 },
            Segment::default(),
            (layout::last_revision(cluster_revision), Instant::now()),
        );
        (Follower::after(shared, cluster_revision), layout())
    }

    #[tokio::test]
    async fn commits_of_an_old_segment_do_not_count_for_the_next() {
        let (mut follower, layout) = follower(7);
        let commits = |count: u64| pb::ClusterCommits {
            commits: vec![pb::ClusterCommit::default(); count as usize],
        };
        let event = |segment, revision| KeyChange {
            key: layout.event(segment, &[0; 16]),
            value: Some(commits(revision).encode_to_vec()),
            revision,
        };
        let segment =
            |number, opened_revision| Segment { number, opened_revision, ..Segment::default() };
        follower.shared.adopt_segment(segment(1, 7)).unwrap();
        follower.take(vec![event(1, 8)]).unwrap();
        assert_eq!(follower.shared.segment().commits, 8);
        // The writer learns of the next segment before the watch delivers the rest of this one.
        follower.shared.adopt_segment(segment(2, 10)).unwrap();
        follower.take(vec![event(1, 9), event(2, 11)]).unwrap();
        assert_eq!(follower.shared.segment().commits, 11);
    }

    #[tokio::test]
    async fn changes_from_before_the_start_of_a_watch_are_skipped() {
        let (mut follower, layout) = follower(7);
        let (shared, key) = (follower.shared.clone(), layout.record(b"key"));
        let change = |revision: u64| KeyChange {
            key: key.clone(),
            value: Some(revision.to_string().into_bytes()),
            revision,
        };
        follower.take(vec![change(6), change(7)]).unwrap();
        assert_eq!(
            (follower.cluster_revision, shared.feed_buffer.latest_revision()),
            (7, layout::last_revision(7))
        );
        follower.take(vec![change(7), change(8)]).unwrap();
        assert_eq!(
            (follower.cluster_revision, shared.feed_buffer.latest_revision()),
            (8, layout::last_revision(8))
        );
        let commit =
            shared.feed_buffer.watch(layout::last_revision(7)).next().await.unwrap().unwrap();
        assert_eq!(
            commit.operations,
            [Operation::Put { key: b"key".to_vec(), value: b"8".to_vec() }]
        );
    }
}
