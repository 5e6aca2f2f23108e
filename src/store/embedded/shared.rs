//! What the threads of an open data directory share, and what they are asked for.

use std::{
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock},
};

use tokio::sync::oneshot;

use super::{data_dir::Directory, memtable::Memtables, overlay::Snapshots, tree::Tree};
use crate::store::{Batch, Revision, StoreError, feed_buffer::FeedBuffer};

pub(super) struct Shared {
    /// Nothing while it is opened anew.
    pub(super) tree: RwLock<Option<Tree>>,
    /// Held for reading while the tree has to stand still, never for longer than a piece of it
    /// takes to read; for writing while it is written.
    pub(super) flush_lock: RwLock<()>,
    /// Told what the tree is about to lose.
    pub(super) snapshots: Snapshots,
    /// What the tree does not have yet. Changed by the writer, and by the flusher when the tree has
    /// it.
    pub(super) pending: Mutex<Memtables>,
    /// Told when a memtable is full, when the tree has one, and when this is dropped.
    pub(super) state_changed: Condvar,
    /// The newest commits, up to the newest revision that is on stable storage. Written by the
    /// writer.
    pub(super) recent: Arc<FeedBuffer>,
    pub(super) journal: PathBuf,
    /// Let go after the tree.
    pub(super) directory: Directory,
}

pub(super) type CommitReply = oneshot::Sender<Result<Revision, StoreError>>;

/// What the writer is asked for.
pub(super) enum Job {
    Commit(Batch, CommitReply),
    /// Answered when everything before it is in the tree; everything after it is refused.
    Close(CommitReply),
}

impl Shared {
    pub(super) fn pending(&self) -> MutexGuard<'_, Memtables> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Errors: why there is no tree, where there is none.
    pub(super) fn with_tree<T>(
        &self,
        read: impl FnOnce(&Tree) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match &*self.tree.read().unwrap_or_else(PoisonError::into_inner) {
            Some(tree) => read(tree),
            None => Err(self.pending().flush_error.clone().unwrap_or_else(closed)),
        }
    }

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
