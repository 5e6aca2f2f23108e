//! What the tasks of one replica share.

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
    client::{Etcd, KeyValue, Txn},
    clocks::Clocks,
    layout::{self, Layout, ReplicaId},
};
use crate::{
    proto::store_v1 as pb,
    store::{Retention, Revision, StoreError, feed_buffer::FeedBuffer},
};

/// For how long a member is looked for that answers: over the election of a leader, which takes one
/// to two seconds.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(4);
/// While the cluster has not answered for this long, a commit waits for so much less: callers are
/// not to be held up by what does not come.
pub(super) const LOST: Duration = Duration::from_secs(5);
pub(super) const TIMEOUT_WHEN_LOST: Duration = Duration::from_millis(300);

pub(super) struct Shared {
    pub(super) etcd: Etcd,
    pub(super) layout: Layout,
    /// Of this replica, by which its ticks are known.
    pub(super) id: ReplicaId,
    pub(super) clocks: Clocks,
    pub(super) recent: Arc<FeedBuffer>,
    pub(super) retention: Retention,
    /// The segment that is being written, as far as it is known here.
    pub(super) segment: Mutex<Segment>,
    /// Up to which revision everything was seen, and when that was asked.
    pub(super) confirmed: Mutex<(Revision, Instant)>,
    /// The feed is to be confirmed now.
    pub(super) confirm: Notify,
    /// The watch does not bring what it should, and is to be begun anew.
    pub(super) stalled: Notify,
    /// The segment is long enough.
    pub(super) full: Notify,
    /// The cluster is not the one any more that was read.
    pub(super) fatal_error: SetOnce<StoreError>,
}

/// The segment of history that is being written.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Segment {
    pub(super) number: u64,
    /// The revision of the cluster it was begun at.
    pub(super) opened: u64,
    pub(super) at_ms: u64,
    pub(super) commits_before: u64,
    /// What it has come to.
    pub(super) commits: u64,
    pub(super) bytes: usize,
    pub(super) newest_ms: u64,
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
            recent: Arc::new(FeedBuffer::after(confirmed.0)),
            retention,
            segment: Mutex::new(segment),
            confirmed: Mutex::new(confirmed),
            confirm: Notify::new(),
            stalled: Notify::new(),
            full: Notify::new(),
            fatal_error: SetOnce::new(),
        })
    }

    pub(super) fn segment(&self) -> MutexGuard<'_, Segment> {
        self.segment.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn confirmed(&self) -> MutexGuard<'_, (Revision, Instant)> {
        self.confirmed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Learns which segment is being written. One that is known already is left as it is, with what
    /// was counted. Errors: [`StoreError::RevisionRegressed`] where it was begun before the one
    /// that is known, with which the process ends.
    pub(super) fn turn_to(&self, found: Segment) -> Result<(), StoreError> {
        let mut segment = self.segment();
        if found.opened < segment.opened {
            let seen = layout::end_of(segment.opened);
            drop(segment);
            return Err(self.went_back(seen));
        }
        if found.opened > segment.opened {
            *segment = found;
        }
        Ok(())
    }

    /// An older state has taken the place of the cluster: it lacks this revision, which was seen.
    pub(super) fn went_back(&self, seen: Revision) -> StoreError {
        let error = StoreError::RevisionRegressed { seen };
        // It may be known already.
        let _ = self.fatal_error.set(error.clone());
        error
    }
}

/// Begins a segment, where the one that is being written is still that of this revision.
pub(super) fn begin_segment(
    layout: &Layout,
    opened: Option<u64>,
    segment: &pb::ClusterSegment,
) -> Txn {
    let value = segment.encode_to_vec();
    Txn {
        preconditions: vec![(layout.now(), opened)],
        puts: vec![(layout.header(segment.number), value.clone()), (layout.now(), value)],
        ..Txn::default()
    }
}

impl Segment {
    pub(super) fn begun(segment: &pb::ClusterSegment, opened: u64) -> Self {
        let pb::ClusterSegment { number, at_ms, commits_before } = *segment;
        Self { number, opened, at_ms, commits_before, newest_ms: at_ms, ..Self::default() }
    }

    pub(super) fn read(record: &KeyValue) -> Result<Self, StoreError> {
        let segment = pb::ClusterSegment::decode(&*record.value)
            .map_err(|_| corrupt(&record.key, "no segment of history"))?;
        Ok(Self::begun(&segment, record.revision))
    }
}

pub(super) fn corrupt(key: &[u8], what: &str) -> StoreError {
    StoreError::Corrupt { place: String::from_utf8_lossy(key).into_owned(), what: what.to_owned() }
}

pub(super) fn closed() -> StoreError {
    StoreError::Unavailable("the store is closed".to_owned())
}
