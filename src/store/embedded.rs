//! The embedded engine: one process, one directory.
//!
//! # The path of a commit
//! One thread writes. It takes all queued commits, appends them to the journal in one write, syncs
//! once, and then answers all of them (group commit). A memtable keeps their changes in memory
//! until the tree has them. A memtable that reaches its size limit is sealed, and the next one
//! begins, with a journal file of its own. Another thread writes the sealed memtable into the tree,
//! syncs the tree, and removes the journal file. So a commit costs one sync of one file. It waits
//! for the tree in two cases only: the tree is four memtables behind, or the commit looks up a key
//! in the tree while a small batch is written there.
//!
//! A lookup takes the newest memtable that has the key, else the tree. An open replays the journal
//! into memtables. `data_dir.rs` describes the other files of the directory. An open after an
//! unclean stop checks the whole event log before it answers.
//!
//! # The change feed
//! All watchers share one buffer of the latest commits, which holds synced commits only. Each reads
//! from its own position. A watcher that falls behind the buffer, or asks for commits from before
//! the start, gets [`StoreError::Compacted`].
//!
//! # When the disk fails
//! After a failed sync the state of the file is unknown: a later sync that succeeds does not cover
//! pages that an earlier one has lost. So a failed sync of the journal stops the writer: commits
//! are refused until a restart has read what is on the disk, and reads continue from the view. On a
//! full disk the journal writes nothing, so each commit tries again. A tree that fails is reopened
//! until that succeeds; the journal has all that the tree lacks. Commits are refused while it lacks
//! too much. A file that may have been through a failed sync, of journal or tree, is rewritten as
//! it is read, before anything builds on it.

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
    commit_group::replay_journal,
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
    EncodedBatch, EventRange, Feed, Memory, Retention, Revision, Snapshot, Store, StoreError,
    StoredEvent, Update, Updates, feed_buffer::FeedBuffer,
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

/// Jobs in the queue of the writer; further callers wait for a free slot. 4,096 is several full
/// groups.
const QUEUE_JOBS: usize = 4_096;

/// An open data directory.
pub(super) struct Embedded {
    shared: Arc<Shared>,
    /// `None` only while this is dropped.
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
        let store = directory.path().join("store");
        let journal = directory.path().join("journal");
        let tree = directory
            .while_suspect(|| Tree::open(&store, memory.cache_bytes, directory.was_suspect))?;
        let memtables = replay_journal(&tree, &journal)?;
        let revision = memtables.active.revision;
        if revision < directory.durable_revision {
            let what = format!(
                "its latest revision is {revision}, but revision {} was acknowledged",
                directory.durable_revision
            );
            return Err(StoreError::Corrupt {
                place: directory.path().display().to_string(),
                what,
            });
        }
        if directory.was_unclean {
            tracing::warn!(revision, "the last stop was unclean; checking the event log");
            tree.check_events(tree.latest()?.0)?;
        }
        let journal_file = Journal::create(&journal, revision)?;
        directory.save_durable_revision(revision)?;
        let shared = Arc::new(Shared {
            tree: RwLock::new(Some(tree)),
            flush_lock: RwLock::default(),
            snapshots: Snapshots::default(),
            memtables: Mutex::new(memtables),
            state_changed: Condvar::new(),
            feed_buffer: Arc::new(FeedBuffer::after(revision)),
            journal,
            directory,
        });
        let (queue, jobs) = mpsc::channel(QUEUE_JOBS);
        let memtable_bytes = usize::try_from(memory.journal_bytes).unwrap_or(usize::MAX);
        let writer = Writer::new(shared.clone(), journal_file, jobs, memtable_bytes);
        let flusher =
            Flusher { shared: shared.clone(), store, cache_bytes: memory.cache_bytes, retention };
        let threads = vec![
            spawn("store-writer", || writer.run())?,
            spawn("store-flusher", || flusher.run())?,
        ];
        Ok(Self { shared, queue: Some(queue), threads })
    }

    async fn send(&self, job: impl FnOnce(CommitReply) -> Job) -> Result<Revision, StoreError> {
        let (reply, replied) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or_else(closed)?;
        queue.send(job(reply)).await.map_err(|_| closed())?;
        replied.await.map_err(|_| closed())?
    }
}

impl Drop for Embedded {
    /// Waits until the writer has finished all queued jobs, so that the next open finds the
    /// directory unlocked.
    fn drop(&mut self) {
        self.queue.take();
        self.shared.memtables().is_abandoned = true;
        self.shared.state_changed.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a store thread panicked");
            }
        }
    }
}

#[async_trait]
impl Store for Embedded {
    async fn commit(&self, batch: EncodedBatch) -> Result<Revision, StoreError> {
        self.send(|reply| Job::Commit(batch, reply)).await
    }

    async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let shared = self.shared.clone();
        let (revision, overlay) =
            tokio::task::spawn_blocking(move || begin(&shared)).await.map_err(|_| closed())?;
        let (sender, receiver) = mpsc::channel(4);
        let shared = Arc::downgrade(&self.shared);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = send_pages(&shared, &overlay, &sender) {
                let _ = sender.blocking_send(Err(error));
            }
        });
        Ok(Snapshot { revision, pages: ReceiverStream::new(receiver).boxed() })
    }

    async fn watch(&self, after: Revision) -> Result<Feed, StoreError> {
        Ok(self.shared.feed_buffer.watch(after))
    }

    async fn follow(&self) -> Result<Updates, StoreError> {
        let (_, feed) = self.shared.feed_buffer.watch_paced();
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
        Ok(self.shared.feed_buffer.latest_revision())
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.send(Job::Close).await?;
        self.shared.directory.close()
    }
}

/// Clause 9. The feed must begin before the snapshot, and must never lose a commit.
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
