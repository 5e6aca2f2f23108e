//! The store's contract: durable commits, snapshots, the change feed and history, over opaque keys
//! and values. `codec.rs` defines what keys and values mean.
//!
//! # The contract
//! One test suite (`tests/it/contract.rs`) runs against every engine and checks these clauses by
//! number:
//!
//! 1. **Commit.** [`Store::commit`] is atomic, and durable when it returns its revision. If the
//!    caller drops the future, the batch takes effect completely or not at all.
//! 2. **Revisions** strictly increase, also across restarts. An empty store is at revision 0.
//! 3. **Snapshot.** [`Store::snapshot`] streams every record as of one revision, in key order.
//! 4. **Watch.** [`Store::watch`] yields every commit after a revision, exactly once and in order,
//!    or ends with [`StoreError::Compacted`]; the caller then takes a new snapshot. A watch that
//!    starts at the revision of a new snapshot is compacted only if many commits follow at once. If
//!    several commits became durable together, the first may carry the operations of all of them.
//!    An empty commit is a progress marker: no commit lies between the previous one and its
//!    revision. That revision need not belong to a commit.
//! 5. **Preconditions.** A batch may carry preconditions. If one does not hold, the commit fails
//!    with [`StoreError::Conflict`] and changes nothing.
//! 6. **Opaque bytes.** The store does not interpret keys, values or events.
//! 7. **History.** [`Store::events`] returns the events of durable commits by revision, also across
//!    restarts. [`Retention`] limits how many are kept. A read of all events after a revision
//!    returns them without a gap, or fails with [`StoreError::Compacted`] if some were deleted.
//! 8. **Latest revision.** [`Store::latest_revision`] is linearizable. It is at least the revision
//!    of every commit acknowledged, by any process, before the call began; every commit that begins
//!    after the call returned has a higher revision.
//! 9. **Follow.** [`Store::follow`] builds a copy of all records and keeps it current. It yields
//!    [`Update::Reset`], then records and commits interleaved, then [`Update::Complete`], then
//!    every commit exactly once and in order. `Complete` arrives at any write rate, whatever is
//!    compacted meanwhile. If the engine loses commits, it resets the copy; it never leaves the
//!    copy incomplete. A slow reader is not disconnected: the engine waits for it.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use tokio::time::Instant;

use super::{Connector, StoreError};

/// Maximum clock skew against the other replicas, in milliseconds. A replica whose clock is further
/// off must not decide that anything has expired.
pub const MAX_SKEW_MS: u64 = 2_000;

/// The number of a commit; strictly increasing within one store (clause 2).
pub type Revision = u64;

/// One commit to make: its preconditions, its operations and its event.
#[derive(Clone, Debug, Default)]
pub struct EncodedBatch {
    /// If any of them does not hold, nothing changes (clause 5).
    pub preconditions: Vec<Precondition>,
    /// Applied in order.
    pub operations: Vec<Operation>,
    /// Who did what, encoded.
    pub event: Vec<u8>,
    /// The time of the event, in Unix milliseconds. [`Retention::age_ms`] counts from it.
    pub at_ms: u64,
    /// Whether the records of this batch need a revision that they share with no other commit. A
    /// tombstone does: records with a lower revision are deleted by it.
    pub is_alone: bool,
}

/// A key must still have this revision, or must still be absent.
#[derive(Clone, Debug)]
pub struct Precondition {
    /// The key that is compared.
    pub key: Vec<u8>,
    /// The revision that last wrote the key; `None`: the key is absent.
    pub revision: Option<Revision>,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Operation {
    Put { key: Vec<u8>, value: Vec<u8> },
    Delete { key: Vec<u8> },
}

/// One commit on the change feed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Commit {
    pub revision: Revision,
    pub operations: Vec<Operation>,
    pub event: Vec<u8>,
    pub at_ms: u64,
}

impl Commit {
    /// A progress marker: no commit lies between the previous one on the feed and this revision.
    pub(super) fn empty(revision: Revision) -> Self {
        Self { revision, operations: Vec::new(), event: Vec::new(), at_ms: 0 }
    }
}

/// The event of one commit, as history keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct StoredEvent {
    pub revision: Revision,
    pub at_ms: u64,
    pub event: Vec<u8>,
}

/// A range of history; both bounds are exclusive.
#[derive(Clone, Copy, Debug, Default)]
pub struct EventRange {
    /// Events after this revision; fails if some of them were deleted. `None`: from the oldest
    /// event that is kept.
    pub after: Option<Revision>,
    /// Events before this revision. `None`: up to the latest event.
    pub before: Option<Revision>,
}

/// One record of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Entry {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    /// The commit that last wrote this record. If several commits became durable together in a
    /// cluster, it is the first of them.
    pub revision: Revision,
}

/// Every record as of one revision, in pages and in key order.
#[allow(missing_docs)]
pub struct Snapshot {
    pub revision: Revision,
    pub pages: BoxStream<'static, Result<Vec<Entry>, StoreError>>,
}

/// The commits after one revision, in order. It does not end while the store is open.
pub type Feed = BoxStream<'static, Result<Arc<Commit>, StoreError>>;

/// One step in building a copy of all records and keeping it current.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// A new copy begins: discard the previous one.
    Reset,
    /// The next records of the copy, in key order.
    Records(Vec<Entry>),
    /// A commit. Until the copy is complete, it lacks the operations on keys whose records have not
    /// been sent yet. A record already sent may be newer than this commit; the commits that made it
    /// newer follow.
    Commit(Arc<Commit>),
    /// The copy has everything up to this revision.
    Complete(Revision),
}

/// The updates of one copy. They do not end.
pub type Updates = BoxStream<'static, Result<Update, StoreError>>;

/// A durable, ordered map of bytes with a change feed and a history. The contract is at the top of
/// this file.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Applies the batch and returns its revision once it is durable (clauses 1, 2 and 5).
    ///
    /// Errors: [`StoreError::Conflict`] if a precondition does not hold; [`StoreError::Full`];
    /// [`StoreError::Unavailable`], after which the batch may have taken effect.
    async fn commit(&self, batch: EncodedBatch) -> Result<Revision, StoreError>;

    /// Streams every record as of the current revision (clause 3).
    async fn snapshot(&self) -> Result<Snapshot, StoreError>;

    /// Yields every commit after a revision (clause 4).
    async fn watch(&self, after: Revision) -> Result<Feed, StoreError>;

    /// Builds a copy of all records and keeps it current (clause 9).
    async fn follow(&self) -> Result<Updates, StoreError>;

    /// Returns at most `limit` events of the range (clause 7): the oldest, in ascending order, or
    /// with `newest_first` the latest, in descending order.
    ///
    /// Errors: [`StoreError::Compacted`] if events after `range.after` were deleted.
    async fn events(
        &self,
        range: EventRange,
        newest_first: bool,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, StoreError>;

    /// The highest revision up to which this process's feed is known to be complete, and when that
    /// was confirmed. It covers the commits of every process.
    ///
    /// The feed of a single-process engine is always complete, so the default returns revision 0
    /// and the current time.
    fn confirmed_revision(&self) -> (Revision, Instant) {
        (0, Instant::now())
    }

    /// The latest revision of the store (clause 8). This process's feed may not have reached it.
    async fn latest_revision(&self) -> Result<Revision, StoreError>;

    /// Publishes this process's certain time (`Clock::certain_ms`), in Unix milliseconds, so that
    /// other processes can compare their clocks with it.
    fn report_certain_time(&self, now_ms: u64) {
        let _ = now_ms;
    }

    /// How far this process's clock is ahead of the median clock of the other processes on this
    /// store, in milliseconds. `None` if there are no others, or their clocks are not known yet.
    fn clock_skew_ms(&self) -> Option<i64> {
        None
    }

    /// Whether this process has had time to compare its clock with the others. Until then,
    /// [`Store::clock_skew_ms`] says nothing about it.
    fn has_compared_clocks(&self) -> bool {
        true
    }

    /// Resolves when the process must restart, because an older state replaced the store it had
    /// read. This cannot happen to a single-process engine, so the default never resolves.
    async fn fatal_error(&self) -> StoreError {
        std::future::pending().await
    }

    /// Waits for pending commits and marks the shutdown as clean. Later commits fail.
    async fn close(&self) -> Result<(), StoreError>;
}

/// The storage engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// Embedded, in the data directory; for one process.
    #[default]
    Sled,
    /// An etcd cluster, shared by any number of processes.
    Etcd,
}

/// Where a store keeps its records.
#[derive(Clone, Debug)]
pub enum Location {
    /// In a data directory, with the embedded engine.
    Directory {
        /// Created if it does not exist.
        path: PathBuf,
        /// Limits of the engine's memory.
        memory: Memory,
    },
    /// In a cluster.
    Cluster(ClusterConfig),
}

/// How to reach a cluster.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// URLs of its members.
    pub endpoints: Vec<String>,
    /// Every key starts with this prefix, so that other services can share the cluster.
    pub prefix: String,
    /// The user to log in as, if the cluster requires authentication.
    pub user: Option<ClusterUser>,
    /// For `https` endpoints.
    pub tls: Option<ClusterTls>,
    /// Connects to a member instead of TCP.
    pub connector: Option<Connector>,
}

/// A user of a cluster.
#[derive(Clone)]
#[allow(missing_docs)]
pub struct ClusterUser {
    pub name: String,
    pub password: String,
}

/// Certificates, in PEM.
#[derive(Clone)]
pub struct ClusterTls {
    /// The certificate authority that signed the members' certificates.
    pub ca: String,
    /// The client certificate and its key, if the cluster requires one.
    pub identity: Option<(String, String)>,
}

impl fmt::Debug for ClusterUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterUser").field("name", &self.name).finish_non_exhaustive()
    }
}

impl fmt::Debug for ClusterTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterTls")
            .field("has_identity", &self.identity.is_some())
            .finish_non_exhaustive()
    }
}

impl Location {
    /// A data directory with the default memory limits.
    #[must_use]
    pub fn directory(path: &Path) -> Self {
        Self::Directory { path: path.to_path_buf(), memory: Memory::default() }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory { path, .. } => path.display().fmt(f),
            Self::Cluster(ClusterConfig { endpoints, prefix, .. }) => {
                write!(f, "{prefix} at {}", endpoints.join(","))
            }
        }
    }
}

/// How much history is kept. An event is deleted when it exceeds either limit. Events are deleted
/// many at a time, so somewhat more may be stored.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Maximum number of events.
    pub events: u64,
    /// Maximum age, in milliseconds.
    pub age_ms: u64,
}

/// Memory limits of an engine. They do not include the view.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Cached pages of the database.
    pub cache_bytes: u64,
    /// Commits that are only in the journal. Up to five times as much while the database falls
    /// behind.
    pub journal_bytes: u64,
}

impl Default for Memory {
    /// Reads are answered by the view, so the cache serves only writes and startup. A journal of
    /// 4 MiB holds some 20,000 mutes. A larger one causes fewer writes to the database, and takes
    /// longer to replay.
    fn default() -> Self {
        Self { cache_bytes: 8 << 20, journal_bytes: 4 << 20 }
    }
}
