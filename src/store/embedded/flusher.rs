//! The way into the tree: takes one full memtable after the other, and opens a tree anew that has
//! failed.

use std::{
    path::PathBuf,
    sync::{Arc, PoisonError},
    time::Duration,
};

use super::{
    journal::Journal,
    memtable::{Memtable, Memtables},
    shared::Shared,
    tree::Tree,
};
use crate::store::{Retention, Revision, StoreError};

/// How often a tree that has failed is opened anew.
const RETRY_DELAY: Duration = Duration::from_millis(250);

/// The one thread that writes the tree.
pub(super) struct Flusher {
    pub(super) shared: Arc<Shared>,
    pub(super) store: PathBuf,
    pub(super) cache_bytes: u64,
    pub(super) retention: Retention,
}

impl Flusher {
    pub(super) fn run(self) {
        while let Some(memtable) = self.next() {
            match self.take(&memtable) {
                Ok(()) => self.truncate(memtable.revision),
                Err(error) => self.open_anew(error, &memtable),
            }
        }
    }

    /// The oldest full memtable; nothing when this is dropped.
    fn next(&self) -> Option<Arc<Memtable>> {
        let idle = |pending: &mut Memtables| pending.full.is_empty() && !pending.abandoned;
        let pending = self
            .shared
            .state_changed
            .wait_while(self.shared.pending(), idle)
            .unwrap_or_else(PoisonError::into_inner);
        pending.full.front().filter(|_| !pending.abandoned).cloned()
    }

    fn take(&self, memtable: &Memtable) -> Result<(), StoreError> {
        let _alone = self.shared.flush_lock.write().unwrap_or_else(PoisonError::into_inner);
        self.shared.with_tree(|tree| {
            self.shared.snapshots.keep(tree, &memtable.changes)?;
            self.shared.directory.while_suspect(|| tree.take(memtable, self.retention))
        })
    }

    /// Forgets what the tree has up to this commit; its files first, because who closes the store
    /// waits until it is forgotten.
    fn truncate(&self, revision: Revision) {
        let Some(after) = self.shared.pending().in_tree(revision) else { return };
        if let Err(error) = Journal::remove_before(&self.shared.journal, after) {
            tracing::warn!(%error, "a file of the journal that is not needed any more could not be removed");
        }
        self.shared.pending().truncate(after);
        self.shared.state_changed.notify_all();
    }

    /// A tree that has failed says nothing true until it is opened anew, which has to find at least
    /// what it had before this memtable.
    fn open_anew(&self, mut error: StoreError, memtable: &Memtable) {
        // A disk that is full has written nothing. After anything else, what the kernel holds for
        // synced may not be on the disk.
        let mut is_suspect = false;
        self.shared.snapshots.end(&error);
        loop {
            is_suspect = is_suspect || !matches!(error, StoreError::Full(_));
            if is_suspect {
                self.shared.directory.set_suspect(true);
            }
            tracing::warn!(%error, "the tree of the store has failed; opening it anew");
            self.shared.pending().flush_error = Some(error);
            self.shared.state_changed.notify_all();
            // The old one has to be let go before its file can be opened again.
            self.shared.set_tree(None);
            let (pending, _) = self
                .shared
                .state_changed
                .wait_timeout_while(self.shared.pending(), RETRY_DELAY, |pending| {
                    !pending.abandoned
                })
                .unwrap_or_else(PoisonError::into_inner);
            if pending.abandoned {
                return;
            }
            drop(pending);
            match self.open(memtable.after, is_suspect) {
                Ok((tree, revision)) => {
                    self.shared.directory.set_suspect(false);
                    tracing::info!(revision, "the tree of the store is open again");
                    self.shared.set_tree(Some(tree));
                    self.shared.pending().flush_error = None;
                    self.truncate(revision);
                    return;
                }
                Err(again) => error = again,
            }
        }
    }

    fn open(
        &self,
        acknowledged: Revision,
        is_suspect: bool,
    ) -> Result<(Tree, Revision), StoreError> {
        let tree = Tree::open(&self.store, self.cache_bytes, is_suspect)?;
        let (revision, _) = tree.latest()?;
        if revision >= acknowledged {
            return Ok((tree, revision));
        }
        let what = format!("it ends with revision {revision}, and had revision {acknowledged}");
        Err(StoreError::Corrupt { place: self.store.display().to_string(), what })
    }
}
