//! The watch that brings a replica the commits of all of them.

use std::sync::Arc;

use prost::Message as _;
use tokio::time::sleep;

use super::{
    client::{KeyChange, KeyRange, KeyValue, RangeOptions, pause},
    layout::{self, Kind},
    shared::{REQUEST_TIMEOUT, Segment, Shared, corrupt},
};
use crate::proto::store_v1 as pb;
use crate::{
    store::{Commit, Operation, StoreError},
    telemetry::metrics::METRICS,
};

/// The task that follows the cluster.
pub(super) struct Follower {
    shared: Arc<Shared>,
    /// The revision of the cluster up to which everything is in memory.
    at: u64,
    /// The newest events that were seen: their key, segment and revision of the cluster.
    last_event: Option<(Vec<u8>, u64, u64)>,
    /// Keys of somebody else's were told of.
    has_warned: bool,
}

impl Follower {
    pub(super) fn after(shared: Arc<Shared>, cluster: u64) -> Self {
        Self { shared, at: cluster, last_event: None, has_warned: false }
    }

    pub(super) async fn run(mut self) {
        loop {
            let error = match self.follow().await {
                Err(error @ StoreError::RevisionRegressed { .. }) => {
                    // The process ends with it.
                    tracing::error!(%error, "the cluster is not the one any more that was followed");
                    return;
                }
                Err(StoreError::Compacted { .. }) => match self.begin_anew().await {
                    Ok(()) => continue,
                    Err(error) => error,
                },
                Err(error) => error,
                Ok(()) => StoreError::Unavailable("it did not bring what it should".to_owned()),
            };
            tracing::warn!(%error, "the watch of the cluster has ended; beginning it again");
            self.shared.etcd.leave_member();
            sleep(pause()).await;
        }
    }

    /// Follows until the watch ends, or does not bring what it should.
    async fn follow(&mut self) -> Result<(), StoreError> {
        let shared = self.shared.clone();
        self.require_what_was_seen().await?;
        // From what was seen already, because a member that was compacted to the very next revision
        // would leave its deletions out, and not say so (etcd 3.4.23).
        let mut watch = shared.etcd.watch(&shared.layout.all(), self.at).await?;
        loop {
            tokio::select! {
                changes = watch.next() => {
                    shared.recent.room().await;
                    self.take(changes?)?;
                }
                () = shared.stalled.notified() => return Ok(()),
            }
        }
    }

    /// Finds out whether the cluster still has what was seen. A watch is begun again after any
    /// failure, and that may have been a restore. Errors: [`StoreError::RevisionRegressed`], and
    /// those of the cluster.
    async fn require_what_was_seen(&self) -> Result<(), StoreError> {
        let shared = &self.shared;
        let now =
            shared.etcd.range(&shared.now_span(), RangeOptions::default(), REQUEST_TIMEOUT).await?;
        if now.revision < self.at {
            return Err(shared.went_back(layout::end_of(self.at)));
        }
        now.records
            .first()
            .map(Segment::read)
            .transpose()?
            .into_iter()
            .try_for_each(|segment| shared.turn_to(segment))?;
        let Some((key, segment, revision)) = &self.last_event else { return Ok(()) };
        let found = shared
            .etcd
            .range(&KeyRange::of(key.clone()), RangeOptions::default(), REQUEST_TIMEOUT)
            .await?;
        if found.records.first().is_some_and(|record| record.revision == *revision) {
            return Ok(());
        }
        // The oldest segments go by themselves.
        let has_gone = !shared.segments().await?.0.iter().any(|kept| kept.number <= *segment);
        if has_gone { Ok(()) } else { Err(shared.went_back(layout::end_of(*revision))) }
    }

    /// Some of what was missed is gone: whoever follows has to take a snapshot.
    async fn begin_anew(&mut self) -> Result<(), StoreError> {
        let page = self
            .shared
            .etcd
            .range(&self.shared.now_span(), RangeOptions::default(), REQUEST_TIMEOUT)
            .await?;
        tracing::warn!(revision = page.revision, "the cluster was compacted behind this replica");
        page.records
            .first()
            .map(Segment::read)
            .transpose()?
            .into_iter()
            .try_for_each(|segment| self.shared.turn_to(segment))?;
        self.at = page.revision;
        self.shared.recent.begin_after(layout::end_of(self.at));
        Ok(())
    }

    /// Changes of whole revisions of the cluster, as commits.
    fn take(&mut self, mut changes: Vec<KeyChange>) -> Result<(), StoreError> {
        // A member that is behind may send what came before the beginning of the watch (etcd's
        // issue 20221).
        changes.retain(|change| change.revision > self.at);
        let Some(newest) = changes.last().map(|change| change.revision) else { return Ok(()) };
        let (mut commits, mut operations, mut at) = (Vec::new(), Vec::new(), self.at);
        for KeyChange { key, value, revision } in changes {
            if revision > at {
                beside(&mut commits, &mut operations, at);
            }
            at = revision;
            match (self.shared.layout.kind(&key), value) {
                (Kind::Record(key), Some(value)) => {
                    operations.push(Operation::Put { key: key.to_vec(), value })
                }
                (Kind::Record(key), None) => {
                    operations.push(Operation::Delete { key: key.to_vec() })
                }
                (Kind::Event(segment), Some(value)) => {
                    self.last_event = Some((key.clone(), segment, revision));
                    for commit in read(&key, &value, revision, std::mem::take(&mut operations))? {
                        self.count(segment, &commit);
                        commits.push(Arc::new(commit));
                    }
                }
                (Kind::Now, Some(value)) => {
                    self.shared.turn_to(Segment::read(&KeyValue { key, value, revision })?)?
                }
                (Kind::Tick(replica), Some(value)) => {
                    let wall_ms = value.try_into().map(u64::from_be_bytes);
                    wall_ms
                        .into_iter()
                        .for_each(|wall_ms| self.shared.clocks.ticked(replica, wall_ms));
                }
                (Kind::Event(_) | Kind::Now | Kind::Header | Kind::Tick(_), _) => {}
                (Kind::Foreign, _) => self.pass_over(&key),
            }
        }
        beside(&mut commits, &mut operations, at);
        self.at = newest;
        self.shared.recent.push(commits, layout::end_of(newest));
        Ok(())
    }

    /// A key of somebody else's is no damage of ours. It is told once, and counted.
    fn pass_over(&mut self, key: &[u8]) {
        METRICS.foreign_key();
        if !std::mem::replace(&mut self.has_warned, true) {
            tracing::warn!(key = %key.escape_ascii(), "somebody else writes below this service's prefix; such keys are passed over");
        }
    }

    /// Counts a commit of this segment, where it is still the one that is being written: whoever
    /// has begun the next one has counted the others.
    fn count(&self, number: u64, commit: &Commit) {
        let mut segment = self.shared.segment();
        if segment.number != number {
            return;
        }
        segment.commits += 1;
        segment.bytes += commit.event.len();
        if segment.at_ms == 0 {
            // The first of all was begun before anything was committed.
            segment.at_ms = commit.at_ms;
        }
        segment.newest_ms = segment.newest_ms.max(commit.at_ms);
        if segment.is_full(self.shared.retention) {
            self.shared.full.notify_one();
        }
    }
}

/// Changes that came with no event are nobody's commit: somebody has reached around the service.
/// The view has them all the same.
fn beside(commits: &mut Vec<Arc<Commit>>, operations: &mut Vec<Operation>, cluster: u64) {
    if !operations.is_empty() {
        tracing::warn!(cluster, "records were changed beside the service");
        let revision = layout::end_of(cluster);
        commits.push(Arc::new(Commit {
            operations: std::mem::take(operations),
            ..Commit::nothing(revision)
        }));
    }
}

/// The commits whose events these are. What they have changed comes with the first of them: they
/// came together, and none touches what another does.
fn read(
    key: &[u8],
    value: &[u8],
    cluster: u64,
    mut operations: Vec<Operation>,
) -> Result<Vec<Commit>, StoreError> {
    let stored =
        pb::ClusterCommits::decode(value).map_err(|_| corrupt(key, "no events of commits"))?;
    let commit = |(place, commit): (usize, pb::ClusterCommit)| {
        let (revision, operations) =
            (layout::revision(cluster, place as u64), std::mem::take(&mut operations));
        Commit { revision, operations, event: commit.event, at_ms: commit.at_ms }
    };
    Ok(stored.commits.into_iter().enumerate().map(commit).collect())
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

    /// A follower of nobody, which has seen all up to this revision of the cluster, and where its
    /// keys are.
    fn follower(cluster: u64) -> (Follower, Layout) {
        let config = ClusterConfig {
            endpoints: vec!["http://127.0.0.1:1".to_owned()],
            prefix: "mute/".to_owned(),
            user: None,
            tls: None,
            connector: None,
        };
        let layout = || Layout::below(&config.prefix);
        let (etcd, retention) = (Etcd::new(&config).unwrap(), Retention { events: 1, age_ms: 1 });
        let shared = Shared::new(
            etcd,
            layout(),
            retention,
            Segment::default(),
            (layout::end_of(cluster), Instant::now()),
        );
        (Follower::after(shared, cluster), layout())
    }

    #[tokio::test]
    async fn commits_of_a_segment_that_has_ended_are_not_counted_again_for_the_next() {
        let (mut follower, layout) = follower(7);
        let commits = |count: u64| pb::ClusterCommits {
            commits: vec![pb::ClusterCommit::default(); count as usize],
        };
        let event = |segment, revision| KeyChange {
            key: layout.event(segment, &[0; 16]),
            value: Some(commits(revision).encode_to_vec()),
            revision,
        };
        let turn_to = |number, opened| Segment { number, opened, ..Segment::default() };
        follower.shared.turn_to(turn_to(1, 7)).unwrap();
        follower.take(vec![event(1, 8)]).unwrap();
        assert_eq!(follower.shared.segment().commits, 8);
        // The writer was told of the next segment before the watch has brought the rest of this
        // one.
        follower.shared.turn_to(turn_to(2, 10)).unwrap();
        follower.take(vec![event(1, 9), event(2, 11)]).unwrap();
        assert_eq!(follower.shared.segment().commits, 11);
    }

    #[tokio::test]
    async fn what_a_member_sends_from_before_the_beginning_of_a_watch_is_passed_over() {
        let (mut follower, layout) = follower(7);
        let (shared, key) = (follower.shared.clone(), layout.record(b"key"));
        let change = |revision: u64| KeyChange {
            key: key.clone(),
            value: Some(revision.to_string().into_bytes()),
            revision,
        };
        follower.take(vec![change(6), change(7)]).unwrap();
        assert_eq!((follower.at, shared.recent.latest_revision()), (7, layout::end_of(7)));
        follower.take(vec![change(7), change(8)]).unwrap();
        assert_eq!((follower.at, shared.recent.latest_revision()), (8, layout::end_of(8)));
        let commit = shared.recent.follow(layout::end_of(7)).next().await.unwrap().unwrap();
        assert_eq!(
            commit.operations,
            [Operation::Put { key: b"key".to_vec(), value: b"8".to_vec() }]
        );
    }
}
