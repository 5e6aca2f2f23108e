//! The store: durable commits, a snapshot, and the change feed. Keys and values are bytes to it;
//! `codec` says what they mean.
//!
//! # The contract
//! One suite (`tests/it/contract.rs`) holds every engine to these clauses, by their numbers:
//!
//! 1. [`Store::commit`] is all or nothing, and durable when it returns its revision. Dropping its
//!    future does not undo it half.
//! 2. Revisions strictly increase, over restarts too. An empty store is at revision 0.
//! 3. [`Store::snapshot`] streams every record as of one revision, ordered by key.
//! 4. [`Store::watch`] yields every commit after a revision, once, in order, or ends with
//!    [`StoreError::Compacted`]: then the caller takes a snapshot again. From the revision of a
//!    snapshot just taken it does not, unless many commits follow at once. What commits that became
//!    durable together have changed may come with the first of them. A commit of nothing tells that
//!    up to its revision there was nothing more; its revision may be none of a commit.
//! 5. A batch may carry expectations. One that does not hold is a [`StoreError::Conflict`], and
//!    changes nothing.
//! 6. The store interprets nothing.
//! 7. [`Store::events`] tells the events of durable commits as history, by revision, over restarts
//!    too; the oldest go as [`Retention`] says. Whoever asks for all after a revision of which some
//!    are gone is told [`StoreError::Compacted`], and never a history with a hole.
//! 8. [`Store::latest_revision`] is no older than any commit that was answered anywhere before it
//!    was asked for, and older than those begun after it.
//! 9. [`Store::follow`] builds a copy of all records and keeps it: [`Update::Reset`], then records
//!    and commits in any mixture, then [`Update::Complete`], which comes at any rate of writes and
//!    whatever is compacted meanwhile; from then on every commit once, in order. A copy that has
//!    missed commits is reset, and never left incomplete. It is not cut for being slow: the engine
//!    waits for it.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use tokio::time::Instant;

use super::{Connector, StoreError};

/// A clock that is further than this from those of the other replicas, in milliseconds, says of
/// nothing that it has ended.
pub const MAX_SKEW_MS: u64 = 2_000;

/// The number of a commit.
pub type Revision = u64;

/// What one commit is to change, on which conditions, with its event.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// All of them must hold, else nothing is changed.
    pub preconditions: Vec<Precondition>,
    /// Applied in order.
    pub operations: Vec<Operation>,
    /// Who did what, as bytes.
    pub event: Vec<u8>,
    /// When, in Unix milliseconds: for how long the event is kept.
    pub at_ms: u64,
    /// Its records are to have a revision that no other commit's have: it decides which records are
    /// older than it.
    pub is_alone: bool,
}

/// The revision a key was last written at; nothing where it must be absent.
#[derive(Clone, Debug)]
pub struct Precondition {
    /// Which key.
    pub key: Vec<u8>,
    /// Its revision.
    pub revision: Option<Revision>,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Operation {
    Put { key: Vec<u8>, value: Vec<u8> },
    Delete { key: Vec<u8> },
}

/// One commit, as the change feed tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Commit {
    pub revision: Revision,
    pub operations: Vec<Operation>,
    pub event: Vec<u8>,
    pub at_ms: u64,
}

impl Commit {
    /// What the feed tells where nothing was changed up to this revision.
    pub(super) fn nothing(revision: Revision) -> Self {
        Self { revision, operations: Vec::new(), event: Vec::new(), at_ms: 0 }
    }
}

/// The event of a commit, as the history tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct StoredEvent {
    pub revision: Revision,
    pub at_ms: u64,
    pub event: Vec<u8>,
}

/// A stretch of history; both ends are left out of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct EventRange {
    /// All after this revision, or an error; nothing is from the oldest that is kept.
    pub after: Option<Revision>,
    /// Nothing is up to the newest.
    pub before: Option<Revision>,
}

/// One record of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Entry {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    /// When it was last written.
    pub revision: Revision,
}

/// Every record as of one revision, in pages.
#[allow(missing_docs)]
pub struct Snapshot {
    pub revision: Revision,
    pub pages: BoxStream<'static, Result<Vec<Entry>, StoreError>>,
}

/// Commits in order, from one revision on, without end.
pub type Feed = BoxStream<'static, Result<Arc<Commit>, StoreError>>;

/// What a copy of all records is built of, and kept up by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// A copy begins: what came before counts for nothing.
    Reset,
    /// Records of the copy, in the order of keys.
    Records(Vec<Entry>),
    /// A commit, without its changes of records that are still to come. Those that came may be
    /// newer; then what made them so comes too.
    Commit(Arc<Commit>),
    /// All up to this revision has come.
    Complete(Revision),
}

/// Updates without end.
pub type Updates = BoxStream<'static, Result<Update, StoreError>>;

/// A durable, ordered map of bytes with a change feed. The contract is at the top of this file.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Clauses 1, 2 and 5.
    async fn commit(&self, batch: Batch) -> Result<Revision, StoreError>;

    /// Clause 3.
    async fn snapshot(&self) -> Result<Snapshot, StoreError>;

    /// Clause 4.
    async fn watch(&self, after: Revision) -> Result<Feed, StoreError>;

    /// Clause 9.
    async fn follow(&self) -> Result<Updates, StoreError>;

    /// Clause 7: at most `limit` of them, from the one end of the range or the other.
    async fn events(
        &self,
        range: EventRange,
        newest_first: bool,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, StoreError>;

    /// Up to which revision everything that was committed anywhere has come to the feed of this
    /// process, and when that was so. For an engine of one process it is so at any time.
    fn confirmed_revision(&self) -> (Revision, Instant) {
        (0, Instant::now())
    }

    /// Clause 8. It need not have come to the feed of this process yet.
    async fn latest_revision(&self) -> Result<Revision, StoreError>;

    /// Tells the time of this process that is certain, in Unix milliseconds, for others to compare
    /// theirs with.
    fn report_wall_clock(&self, now_ms: u64) {
        let _ = now_ms;
    }

    /// How far the time of this process is ahead of that of the other processes over this store, in
    /// milliseconds: of their median. Nothing where there are no others, or nothing is known of
    /// them yet.
    fn clock_skew_ms(&self) -> Option<i64> {
        None
    }

    /// Whether there was time to compare the wall clock of this process with those of the others.
    /// Before that nothing is known of it.
    fn has_compared_clocks(&self) -> bool {
        true
    }

    /// Ends when the store is not the one any more that was read, so that this process has to begin
    /// anew. An engine of one process always is.
    async fn fatal_error(&self) -> StoreError {
        std::future::pending().await
    }

    /// Waits for what is being committed, and marks the stop as an orderly one. Nothing may be
    /// committed after it.
    async fn close(&self) -> Result<(), StoreError>;
}

/// Which engine keeps the records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// Embedded, in the data directory: one process.
    #[default]
    Sled,
    /// An etcd cluster: any number of processes.
    Etcd,
}

/// Where records are kept.
#[derive(Clone, Debug)]
pub enum Location {
    /// By the embedded engine, in a directory.
    Directory {
        /// Created where there is none.
        path: PathBuf,
        /// What it may keep in memory.
        memory: Memory,
    },
    /// By a cluster.
    Cluster(ClusterConfig),
}

/// How a cluster is reached.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// URLs of its members.
    pub endpoints: Vec<String>,
    /// All keys begin with it, so that a cluster may serve others too.
    pub prefix: String,
    /// Who to log in as, where it wants a login.
    pub user: Option<ClusterUser>,
    /// For `https` endpoints.
    pub tls: Option<ClusterTls>,
    /// What connects to a member in the place of TCP.
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
    /// Whose certificates the members have.
    pub ca: String,
    /// Our own certificate and its key, where the cluster wants one.
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
    /// A directory, with what memory an engine takes where nobody says.
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

/// For how long and how many events are kept. Older ones go many at a time, so that somewhat more
/// than these may be there.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// The newest so many, unless they are too old.
    pub events: u64,
    /// Those that are not older than this, in milliseconds.
    pub age_ms: u64,
}

/// What an engine may keep in memory, beside its records' view.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Pages of the database.
    pub cache_bytes: u64,
    /// Commits that are in the journal only. At most five times as much while the database does not
    /// keep up.
    pub journal_bytes: u64,
}

impl Default for Memory {
    /// Reads come from the view, so the cache serves writes and the start only. A journal of 4 MiB
    /// is some 20,000 mutes: a larger one writes less to the database, and takes longer to read
    /// back.
    fn default() -> Self {
        Self { cache_bytes: 8 << 20, journal_bytes: 4 << 20 }
    }
}
