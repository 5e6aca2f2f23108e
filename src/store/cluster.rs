//! The cluster engine: any number of replicas over one etcd cluster, which orders and keeps their
//! commits.
//!
//! # The way of a commit
//! The commits of a replica that wait go to the cluster in one transaction, as far as none touches
//! what another does (`writer.rs`). Where an expectation of one does not hold, none takes effect,
//! and each half is tried for itself. A transaction writes the events of its commits under a random
//! id, and expects that they are not there yet: so one whose answer was lost is sent again, and
//! takes effect once. Commits are answered when the cluster has them, on a quorum of its disks.
//!
//! # The change feed
//! One watch (`follower.rs`) brings every replica the changes of all of them, in the order of the
//! cluster. It goes on where it was after any failure; where the cluster no longer keeps what it
//! has missed, its watchers are told so, and the view is built anew (`updates.rs`), at any rate of
//! writes. A replica knows that it has seen all there is by writing something itself from time to
//! time, and meeting it in the feed (`maintenance.rs`): neither a member that is cut off from the
//! others nor one that is behind can make it believe so. The ticks also tell how far the clocks of
//! replicas are apart (`clocks.rs`).
//!
//! # When somebody puts an older state in the cluster's place
//! Nothing in memory holds then, such as after a restore from a backup, and the process ends, to
//! begin anew. It finds out by what it has seen: the newest events have to be there, at their
//! revision, whenever the watch begins again; a tick has to be newer than all it has seen; and the
//! segment of history does not go back.
//!
//! # History
//! Events are kept by segments (`event_log.rs`). Which one is being written is a record that each
//! commit expects: so the commits of a segment are exactly those between its beginning and that of
//! the next, and history can be read, and let go of, a segment at a time.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use prost::Message as _;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;

use self::{
    client::{Etcd, KeyRange, KeyValue, RangeOptions},
    follower::Follower,
    layout::Layout,
    maintenance::Maintenance,
    shared::{REQUEST_TIMEOUT, Segment, Shared, begin_segment, closed},
    writer::{Job, Writer},
};
use super::{
    Batch, ClusterConfig, EventRange, Feed, Retention, Revision, Snapshot, Store, StoreError,
    StoredEvent, Updates,
};
use crate::proto::store_v1 as pb;

mod alphabet;
mod client;
mod clocks;
mod event_log;
mod follower;
mod layout;
mod maintenance;
mod scan;
mod shared;
mod snapshot;
mod txn;
mod updates;
mod writer;

/// Commits that may wait for the writer; those beyond wait for a place.
const QUEUE: usize = 4_096;
/// A place among the replicas of a cluster.
pub(super) struct Cluster {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Job>,
    /// Aborted when this is dropped.
    _tasks: JoinSet<()>,
}

impl Cluster {
    pub(super) async fn open(
        config: &ClusterConfig,
        retention: Retention,
    ) -> Result<Self, StoreError> {
        let (etcd, layout) = (Etcd::new(config)?, Layout::below(&config.prefix));
        refuse_earlier_layout(&etcd, &config.prefix).await?;
        let segment = begin_history(&etcd, &layout).await?;
        let asked = Instant::now();
        let page = etcd
            .range(
                &layout.events(segment.number),
                RangeOptions { count_only: true, ..RangeOptions::default() },
                REQUEST_TIMEOUT,
            )
            .await?;
        let confirmed = (layout::end_of(page.revision), asked);
        let shared = Shared::new(
            etcd,
            layout,
            retention,
            Segment { commits: page.count, ..segment },
            confirmed,
        );
        let (queue, jobs) = mpsc::channel(QUEUE);
        let mut tasks = JoinSet::new();
        tasks.spawn(Writer::new(shared.clone(), jobs).run());
        tasks.spawn(Follower::after(shared.clone(), page.revision).run());
        tasks.spawn(Maintenance(shared.clone()).run());
        Ok(Self { shared, queue, _tasks: tasks })
    }

    async fn send(
        &self,
        job: impl FnOnce(writer::CommitReply) -> Job,
    ) -> Result<Revision, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.queue.send(job(answer)).await.map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }
}

/// Whether a mute service has ever written there.
pub(super) async fn exists(config: &ClusterConfig) -> Result<bool, StoreError> {
    let (etcd, layout) = (Etcd::new(config)?, Layout::below(&config.prefix));
    let wanted = RangeOptions { limit: 1, ..RangeOptions::default() };
    Ok(!etcd.range(&layout.headers(), wanted, REQUEST_TIMEOUT).await?.records.is_empty())
}

/// Errors: [`StoreError::EarlierLayout`] where a version before this layout has written below the
/// prefix.
async fn refuse_earlier_layout(etcd: &Etcd, prefix: &str) -> Result<(), StoreError> {
    let page = etcd
        .range(&Layout::now_of_earlier_layout(prefix), RangeOptions::default(), REQUEST_TIMEOUT)
        .await?;
    // A stray key is nobody's segment.
    let is_segment = |record: &KeyValue| {
        pb::ClusterSegment::decode(&*record.value).is_ok_and(|segment| segment.number > 0)
    };
    if page.records.iter().any(is_segment) {
        return Err(StoreError::EarlierLayout { prefix: prefix.to_owned() });
    }
    Ok(())
}

/// The segment that is being written; the first one, where there is none.
async fn begin_history(etcd: &Etcd, layout: &Layout) -> Result<Segment, StoreError> {
    loop {
        let page = etcd
            .range(&KeyRange::of(layout.now()), RangeOptions::default(), REQUEST_TIMEOUT)
            .await?;
        if let Some(record) = page.records.first() {
            return Segment::read(record);
        }
        etcd.transact(
            &begin_segment(layout, None, &pb::ClusterSegment { number: 1, ..Default::default() }),
            REQUEST_TIMEOUT,
        )
        .await?;
    }
}

#[async_trait]
impl Store for Cluster {
    async fn commit(&self, batch: Batch) -> Result<Revision, StoreError> {
        self.send(|answer| Job::commit(batch, answer)).await
    }

    async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let (pages, read) = mpsc::channel(2);
        let revision = snapshot::begin(self.shared.clone(), pages).await?;
        Ok(Snapshot { revision, pages: ReceiverStream::new(read).boxed() })
    }

    async fn watch(&self, after: Revision) -> Result<Feed, StoreError> {
        Ok(self.shared.recent.follow(after))
    }

    async fn follow(&self) -> Result<Updates, StoreError> {
        Ok(updates::updates(self.shared.clone()))
    }

    async fn events(
        &self,
        range: EventRange,
        newest_first: bool,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        self.shared.events(range, newest_first, limit).await
    }

    async fn latest_revision(&self) -> Result<Revision, StoreError> {
        let page = self
            .shared
            .etcd
            .range(
                &self.shared.now_span(),
                RangeOptions { count_only: true, ..RangeOptions::default() },
                REQUEST_TIMEOUT,
            )
            .await?;
        Ok(layout::end_of(page.revision))
    }

    fn confirmed_revision(&self) -> (Revision, Instant) {
        *self.shared.confirmed()
    }

    fn report_wall_clock(&self, now_ms: u64) {
        self.shared.clocks.report(now_ms);
    }

    fn clock_skew_ms(&self) -> Option<i64> {
        self.shared.clocks.skew_ms(self.shared.id)
    }

    fn has_compared_clocks(&self) -> bool {
        self.shared.clocks.has_compared(self.shared.id)
    }

    async fn fatal_error(&self) -> StoreError {
        self.shared.fatal_error.wait().await.clone()
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.send(Job::Close).await.map(drop)
    }
}
