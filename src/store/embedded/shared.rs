//! The state that the threads of an embedded engine share, and the jobs of its writer.

use std::{
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock},
};

use tokio::sync::oneshot;

use super::{data_dir::Directory, memtable::Memtables, overlay::Snapshots, tree::Tree};
use crate::store::{EncodedBatch, Revision, StoreError, feed_buffer::FeedBuffer};

pub(super) struct Shared {
    /// `None` while the flusher reopens it.
    pub(super) tree: RwLock<Option<Tree>>,
    /// The flusher holds it for writing while it writes the tree. A snapshot holds it for reading
    /// while it reads one chunk, and never longer, so that the tree does not change meanwhile.
    pub(super) flush_lock: RwLock<()>,
    /// The flusher preserves in them the records that it is about to replace.
    pub(super) snapshots: Snapshots,
    /// The commits that the tree does not have yet. The writer adds them, and the flusher removes
    /// them after a flush.
    pub(super) memtables: Mutex<Memtables>,
    /// Notified when a memtable is sealed, when one is flushed, when the tree fails, and when the
    /// store is dropped.
    pub(super) state_changed: Condvar,
    /// The latest durable commits. Only the writer adds to it.
    pub(super) feed_buffer: Arc<FeedBuffer>,
    /// The directory of the journal.
    pub(super) journal: PathBuf,
    /// Unlocked after the tree is closed.
    pub(super) directory: Directory,
}

pub(super) type CommitReply = oneshot::Sender<Result<Revision, StoreError>>;

/// A job of the writer.
pub(super) enum Job {
    Commit(EncodedBatch, CommitReply),
    /// Answered when the tree has everything before it. Everything after it is refused.
    Close(CommitReply),
}

impl Shared {
    pub(super) fn memtables(&self) -> MutexGuard<'_, Memtables> {
        self.memtables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the tree. Errors: those of `read`; while there is no tree, the reason.
    pub(super) fn with_tree<T>(
        &self,
        read: impl FnOnce(&Tree) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match &*self.tree.read().unwrap_or_else(PoisonError::into_inner) {
            Some(tree) => read(tree),
            None => Err(self.memtables().flush_error.clone().unwrap_or_else(closed)),
        }
    }

    /// Replaces the tree, and closes the old one.
    pub(super) fn set_tree(&self, tree: Option<Tree>) {
        let old = std::mem::replace(
            &mut *self.tree.write().unwrap_or_else(PoisonError::into_inner),
            tree,
        );
        if let Some(old) = old {
            old.close();
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.set_tree(None);
    }
}

pub(super) fn closed() -> StoreError {
    StoreError::Unavailable("the store is closed".to_owned())
}
