//! State that the tasks of one replica share.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prost::Message as _;
use tokio::{
    sync::{Notify, SetOnce},
    time::Instant,
};

use super::{
    client::Etcd,
    clocks::Clocks,
    kv::{KeyValue, Txn},
    layout::{self, Layout, ReplicaId},
};
use crate::{
    proto::store_v1 as pb,
    store::{Retention, Revision, StoreError, codec::corrupt, feed_buffer::FeedBuffer},
};

/// The time limit of a request, over all members. Longer than the election of a leader, which takes
/// one to two seconds.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(4);
/// If the feed was last confirmed longer ago than this, the cluster counts as lost. Commits then
/// fail after the shorter timeout, so that callers do not wait in vain.
pub(super) const LOST_AFTER: Duration = Duration::from_secs(5);
pub(super) const LOST_REQUEST_TIMEOUT: Duration = Duration::from_millis(300);

pub(super) struct Shared {
    pub(super) etcd: Etcd,
    pub(super) layout: Layout,
    /// This replica's id, in the keys of its ticks.
    pub(super) id: ReplicaId,
    pub(super) clocks: Clocks,
    pub(super) feed_buffer: Arc<FeedBuffer>,
    pub(super) retention: Retention,
    /// The current segment, as far as this replica knows. Another may have started the next.
    pub(super) segment: Mutex<Segment>,
    /// The revision up to which the feed is complete, and when the request that confirmed it began.
    pub(super) confirmed: Mutex<(Revision, Instant)>,
    /// Asks `Maintenance` to confirm the feed now.
    pub(super) confirm_now: Notify,
    /// Asks `Follower` to restart the watch, because it did not deliver a committed change in time.
    pub(super) watch_stalled: Notify,
    /// Asks `Maintenance` to begin the next segment.
    pub(super) segment_full: Notify,
    /// Set once, when an older state has replaced the cluster.
    pub(super) fatal_error: SetOnce<StoreError>,
}

/// A segment of history, with the counts of its commits so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Segment {
    pub(super) number: u64,
    /// The cluster revision at which the segment began.
    pub(super) opened_revision: u64,
    pub(super) at_ms: u64,
    pub(super) commits_before: u64,
    pub(super) commits: u64,
    pub(super) bytes: usize,
    pub(super) latest_ms: u64,
}

impl Shared {
    pub(super) fn new(
        etcd: Etcd,
        layout: Layout,
        retention: Retention,
        segment: Segment,
        confirmed: (Revision, Instant),
    ) -> Arc<Self> {
        Arc::new(Self {
            etcd,
            layout,
            id: rand::random(),
            clocks: Clocks::default(),
            feed_buffer: Arc::new(FeedBuffer::after(confirmed.0)),
            retention,
            segment: Mutex::new(segment),
            confirmed: Mutex::new(confirmed),
            confirm_now: Notify::new(),
            watch_stalled: Notify::new(),
            segment_full: Notify::new(),
            fatal_error: SetOnce::new(),
        })
    }

    pub(super) fn segment(&self) -> MutexGuard<'_, Segment> {
        self.segment.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn confirmed(&self) -> MutexGuard<'_, (Revision, Instant)> {
        self.confirmed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a segment read from the cluster the current one. If it is current already, its counts
    /// stay.
    ///
    /// Errors: [`StoreError::RevisionRegressed`] if it began before the current one; the process
    /// ends with it.
    pub(super) fn adopt_segment(&self, found: Segment) -> Result<(), StoreError> {
        let mut segment = self.segment();
        if found.opened_revision < segment.opened_revision {
            let observed = layout::last_revision(segment.opened_revision);
            drop(segment);
            return Err(self.report_regression(observed));
        }
        if found.opened_revision > segment.opened_revision {
            *segment = found;
        }
        Ok(())
    }

    /// Records that the cluster lacks a revision this replica has observed: an older state has
    /// replaced it.
    pub(super) fn report_regression(&self, observed: Revision) -> StoreError {
        let error = StoreError::RevisionRegressed { observed };
        // Another task may have reported it already.
        let _ = self.fatal_error.set(error.clone());
        error
    }
}

/// The transaction that begins a segment. It takes effect only if the current segment is the one
/// that began at `opened_revision`, or with `None` if there is none.
pub(super) fn begin_segment(
    layout: &Layout,
    opened_revision: Option<u64>,
    segment: &pb::ClusterSegment,
) -> Txn {
    let value = segment.encode_to_vec();
    Txn {
        preconditions: vec![(layout.current_segment(), opened_revision)],
        puts: vec![
            (layout.header(segment.number), value.clone()),
            (layout.current_segment(), value),
        ],
        ..Txn::default()
    }
}

impl Segment {
    pub(super) fn new(segment: &pb::ClusterSegment, opened_revision: u64) -> Self {
        let pb::ClusterSegment { number, at_ms, commits_before } = *segment;
        Self { number, opened_revision, at_ms, commits_before, latest_ms: at_ms, ..Self::default() }
    }

    pub(super) fn decode(record: &KeyValue) -> Result<Self, StoreError> {
        let segment = pb::ClusterSegment::decode(&*record.value)
            .map_err(|_| corrupt(&record.key, "the value is not a segment of history"))?;
        Ok(Self::new(&segment, record.revision))
    }
}

pub(super) fn closed() -> StoreError {
    StoreError::Unavailable("the store is closed".to_owned())
}
