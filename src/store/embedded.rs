//! The embedded engine: one process, one directory.
//!
//! # The way of a commit
//! One thread writes. It takes all commits that wait, appends them to the journal in one write,
//! syncs that once, and only then answers all of them (group commit). What they have changed is
//! kept in memory, as a memtable, until the tree has it. When a memtable is large enough the next
//! one begins, with a journal file of its own; another thread puts the full one into the tree,
//! syncs that, and lets go of the file. So a commit costs one sync of one file. It waits for the
//! tree only where that is four memtables behind, or for one small batch where it looks for a key
//! there.
//!
//! Who looks for a key finds it in the newest memtable that knows it, else in the tree. An open
//! reads the journal back into memtables. `data_dir.rs` says what is beside it; who opens after a
//! stop that was not an orderly one checks the whole log of events before the first answer.
//!
//! # The change feed
//! The newest commits are kept in memory, for all watchers together; each takes from there what is
//! after its own place, never more than what is synced. One that has fallen behind what is kept, or
//! asks for what was before the start, is told that it is compacted.
//!
//! # When the disk fails
//! After a failed sync nothing is certain: a later sync that succeeds says nothing about pages that
//! an earlier one has lost. So a failed sync of the journal is the last: commits are refused until
//! a restart finds what is truly there, while reads go on from the view. A journal that is full has
//! written nothing, so each commit simply tries again. A tree that fails is opened anew, again and
//! again; the journal has all that it lacks. While it lacks too much, commits are refused. Whatever
//! may have been through a failed sync, the journal or the tree, is written once more, as it is
//! read, before it is built on.

use std::{
    path::Path,
    sync::{Arc, Condvar, Mutex, RwLock},
    thread::JoinHandle,
};

use async_trait::async_trait;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

use self::{
    commit_group::read_back,
    data_dir::Directory,
    flusher::Flusher,
    journal::Journal,
    overlay::Snapshots,
    shared::{CommitReply, Job, Shared, closed},
    snapshot::{begin, send_pages},
    tree::Tree,
    writer::Writer,
};
use super::{
    Batch, EventRange, Feed, Memory, Retention, Revision, Snapshot, Store, StoreError, StoredEvent,
    Update, Updates, feed_buffer::FeedBuffer,
};

mod commit_group;
mod data_dir;
mod event_log;
mod flusher;
mod history;
mod journal;
mod memtable;
mod overlay;
pub(super) mod page;
mod restore;
mod shared;
mod snapshot;
mod tree;
mod writer;

pub(super) use self::{data_dir::is_store, restore::restore};

/// Commits that may wait for the writer; those beyond wait for a place. 4,096 is several full
/// groups.
const QUEUE: usize = 4_096;

/// An open data directory.
pub(super) struct Embedded {
    shared: Arc<Shared>,
    /// Taken only when this is dropped.
    queue: Option<mpsc::Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Embedded {
    pub(super) fn open(
        directory: &Path,
        memory: Memory,
        retention: Retention,
    ) -> Result<Self, StoreError> {
        let directory = Directory::open(directory)?;
        let (store, journal) = (directory.path().join("store"), directory.path().join("journal"));
        let tree = directory
            .while_suspect(|| Tree::open(&store, memory.cache_bytes, directory.was_suspect))?;
        let pending = read_back(&tree, &journal)?;
        let revision = pending.active.revision;
        if revision < directory.durable_revision {
            let what = format!(
                "it ends with revision {revision}, and revision {} was acknowledged",
                directory.durable_revision
            );
            return Err(StoreError::Corrupt {
                place: directory.path().display().to_string(),
                what,
            });
        }
        if directory.unclean {
            tracing::warn!(
                revision,
                "the last stop was not an orderly one; checking the log of events"
            );
            tree.check_events(tree.latest()?.0)?;
        }
        let file = Journal::create(&journal, revision)?;
        directory.save_durable_revision(revision)?;
        let shared = Arc::new(Shared {
            tree: RwLock::new(Some(tree)),
            flush_lock: RwLock::default(),
            snapshots: Snapshots::default(),
            pending: Mutex::new(pending),
            state_changed: Condvar::new(),
            recent: Arc::new(FeedBuffer::after(revision)),
            journal,
            directory,
        });
        let (queue, jobs) = mpsc::channel(QUEUE);
        let memtable_bytes = usize::try_from(memory.journal_bytes).unwrap_or(usize::MAX);
        let writer = Writer::new(shared.clone(), file, jobs, memtable_bytes);
        let flusher =
            Flusher { shared: shared.clone(), store, cache_bytes: memory.cache_bytes, retention };
        let threads = vec![
            spawn("store-writer", || writer.run())?,
            spawn("store-flusher", || flusher.run())?,
        ];
        Ok(Self { shared, queue: Some(queue), threads })
    }

    async fn send(&self, job: impl FnOnce(CommitReply) -> Job) -> Result<Revision, StoreError> {
        let (answer, answered) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or_else(closed)?;
        queue.send(job(answer)).await.map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }
}

impl Drop for Embedded {
    /// Lets the writer finish what is queued, so that whoever opens the directory next finds it
    /// free.
    fn drop(&mut self) {
        self.queue.take();
        self.shared.pending().abandoned = true;
        self.shared.state_changed.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the store has panicked");
            }
        }
    }
}

#[async_trait]
impl Store for Embedded {
    async fn commit(&self, batch: Batch) -> Result<Revision, StoreError> {
        self.send(|answer| Job::Commit(batch, answer)).await
    }

    async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let shared = self.shared.clone();
        let (revision, overlay) =
            tokio::task::spawn_blocking(move || begin(&shared)).await.map_err(|_| closed())?;
        let (pages, read) = mpsc::channel(4);
        let store = Arc::downgrade(&self.shared);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = send_pages(&store, &overlay, &pages) {
                let _ = pages.blocking_send(Err(error));
            }
        });
        Ok(Snapshot { revision, pages: ReceiverStream::new(read).boxed() })
    }

    async fn watch(&self, after: Revision) -> Result<Feed, StoreError> {
        Ok(self.shared.recent.follow(after))
    }

    async fn follow(&self) -> Result<Updates, StoreError> {
        let (_, feed) = self.shared.recent.follow_paced();
        let snapshot = self.snapshot().await?;
        Ok(updates(snapshot, feed))
    }

    async fn events(
        &self,
        range: EventRange,
        newest_first: bool,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let shared = self.shared.clone();
        let read = move || shared.events(range, newest_first, limit);
        tokio::task::spawn_blocking(read).await.map_err(|_| closed())?
    }

    async fn latest_revision(&self) -> Result<Revision, StoreError> {
        Ok(self.shared.recent.latest_revision())
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.send(Job::Close).await?;
        self.shared.directory.close()
    }
}

/// Clause 9. The feed began before the snapshot, and never loses a commit.
fn updates(snapshot: Snapshot, feed: Feed) -> Updates {
    let Snapshot { revision, pages } = snapshot;
    let begin = stream::iter([Ok(Update::Reset)]);
    let complete = stream::iter([Ok(Update::Complete(revision))]);
    let later = feed.try_filter(move |commit| std::future::ready(commit.revision > revision));
    begin
        .chain(pages.map_ok(Update::Records))
        .chain(complete)
        .chain(later.map_ok(Update::Commit))
        .boxed()
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StoreError> {
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run);
    thread.map_err(|error| StoreError::Unavailable(error.to_string()))
}
