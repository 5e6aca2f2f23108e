//! The cluster engine: any number of replicas on one etcd cluster, which orders and stores their
//! commits.
//!
//! # Commits
//! A replica sends its waiting commits in one transaction, as far as they do not conflict
//! (`writer.rs`). If a precondition of one does not hold, none takes effect, and each half is
//! retried by itself. A transaction writes the events of its commits under a random id, with the
//! precondition that the id is absent. So after a lost answer it can be sent again and still takes
//! effect only once. A commit is acknowledged when a quorum of the members has it on disk.
//!
//! # The change feed
//! One watch per replica (`follower.rs`) delivers the changes of all replicas, in the order of the
//! cluster. After any failure it resumes at its position. If the cluster no longer keeps the
//! changes it missed, its watchers get [`StoreError::Compacted`], and the view is rebuilt
//! (`updates.rs`), at any write rate.
//!
//! To confirm that its feed is complete, a replica writes a tick at intervals and waits until the
//! feed delivers it (`maintenance.rs`). A partitioned member, or one that is behind, cannot fake
//! that. The ticks also measure the skew between the clocks of the replicas (`clocks.rs`).
//!
//! # When an older state replaces the cluster
//! After a restore from a backup, for example, nothing in memory is valid. The process then ends,
//! and reads everything when it starts again. It detects this by what it has received:
//! - Whenever the watch restarts, the latest events it received must exist at their revision.
//! - A new tick must have a higher revision than everything it received.
//! - The current segment of history must not be older than the one it knows.
//!
//! # History
//! Events are stored in segments (`event_log.rs`). The current segment is a record, and each commit
//! has the precondition that it is unchanged. So the commits of a segment are exactly those between
//! its beginning and that of the next, and history is read, and deleted, one segment at a time.

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
    client::Etcd,
    follower::Follower,
    kv::{KeyRange, KeyValue, RangeOptions},
    layout::Layout,
    maintenance::Maintenance,
    shared::{REQUEST_TIMEOUT, Segment, Shared, begin_segment, closed},
    writer::{Job, Writer},
};
use super::{
    ClusterConfig, EncodedBatch, EventRange, Feed, Retention, Revision, Snapshot, Store,
    StoreError, StoredEvent, Updates,
};
use crate::proto::store_v1 as pb;
use crate::{pem, telemetry::metrics::METRICS};

mod alphabet;
mod client;
mod clocks;
mod event_log;
mod follower;
mod kv;
mod layout;
mod maintenance;
mod scan;
mod shared;
mod snapshot;
mod txn;
mod updates;
mod writer;

/// Maximum number of commits queued for the writer. Further callers wait for room.
const MAX_QUEUED: usize = 4_096;

/// One replica's connection to the cluster.
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
        let etcd = Etcd::new(config)?;
        record_ends(config);
        let layout = Layout::new(&config.prefix);
        refuse_earlier_layout(&etcd, &config.prefix).await?;
        let segment = begin_history(&etcd, &layout).await?;
        let started = Instant::now();
        let page = etcd
            .range(
                &layout.events(segment.number),
                RangeOptions { count_only: true, ..RangeOptions::default() },
                REQUEST_TIMEOUT,
            )
            .await?;
        let confirmed = (layout::last_revision(page.revision), started);
        let shared = Shared::new(
            etcd,
            layout,
            retention,
            Segment { commits: page.count, ..segment },
            confirmed,
        );
        let (queue, jobs) = mpsc::channel(MAX_QUEUED);
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
        let (reply, result) = oneshot::channel();
        self.queue.send(job(reply)).await.map_err(|_| closed())?;
        result.await.map_err(|_| closed())?
    }
}

/// Records when the certificates for the members end.
fn record_ends(config: &ClusterConfig) {
    let Some(tls) = &config.tls else { return };
    METRICS.reloads.certificate_end("etcd_ca", pem::ends_s(tls.ca.as_bytes()).max());
    let identity = tls.identity.iter().flat_map(|(cert, _)| pem::ends_s(cert.as_bytes()));
    METRICS.reloads.certificate_end("etcd_cert", identity.min());
}

/// Whether a mute service has ever opened a store below this prefix.
pub(super) async fn exists(config: &ClusterConfig) -> Result<bool, StoreError> {
    let etcd = Etcd::new(config)?;
    let headers = Layout::new(&config.prefix).headers();
    let first = RangeOptions { limit: 1, ..RangeOptions::default() };
    Ok(!etcd.range(&headers, first, REQUEST_TIMEOUT).await?.records.is_empty())
}

/// Errors: [`StoreError::EarlierLayout`] if a version before this layout has written below the
/// prefix.
async fn refuse_earlier_layout(etcd: &Etcd, prefix: &str) -> Result<(), StoreError> {
    let page = etcd
        .range(&Layout::earlier_current_segment(prefix), RangeOptions::default(), REQUEST_TIMEOUT)
        .await?;
    // The key may also belong to another program.
    let is_segment = |record: &KeyValue| {
        pb::ClusterSegment::decode(&*record.value).is_ok_and(|segment| segment.number > 0)
    };
    if page.records.iter().any(is_segment) {
        return Err(StoreError::EarlierLayout { prefix: prefix.to_owned() });
    }
    Ok(())
}

/// Returns the current segment, and begins the first one if there is none.
async fn begin_history(etcd: &Etcd, layout: &Layout) -> Result<Segment, StoreError> {
    loop {
        let page = etcd
            .range(
                &KeyRange::single(layout.current_segment()),
                RangeOptions::default(),
                REQUEST_TIMEOUT,
            )
            .await?;
        if let Some(record) = page.records.first() {
            return Segment::decode(record);
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
    async fn commit(&self, batch: EncodedBatch) -> Result<Revision, StoreError> {
        self.send(|reply| Job::commit(batch, reply)).await
    }

    async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let (pages, read) = mpsc::channel(2);
        let revision = snapshot::begin(self.shared.clone(), pages).await?;
        Ok(Snapshot { revision, pages: ReceiverStream::new(read).boxed() })
    }

    async fn watch(&self, after: Revision) -> Result<Feed, StoreError> {
        Ok(self.shared.feed_buffer.watch(after))
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
                &self.shared.current_segment_range(),
                RangeOptions { count_only: true, ..RangeOptions::default() },
                REQUEST_TIMEOUT,
            )
            .await?;
        Ok(layout::last_revision(page.revision))
    }

    fn confirmed_revision(&self) -> (Revision, Instant) {
        *self.shared.confirmed()
    }

    fn report_certain_time(&self, now_ms: u64) {
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
