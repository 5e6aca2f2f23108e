//! The flusher: writes sealed memtables into the tree, the oldest first, and reopens a tree that
//! has failed.

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

/// Between two attempts to reopen a failed tree.
const RETRY_DELAY: Duration = Duration::from_millis(250);

/// The only thread that writes the tree.
pub(super) struct Flusher {
    pub(super) shared: Arc<Shared>,
    /// The directory of the database.
    pub(super) store: PathBuf,
    pub(super) cache_bytes: u64,
    pub(super) retention: Retention,
}

impl Flusher {
    pub(super) fn run(self) {
        while let Some(memtable) = self.next() {
            match self.flush(&memtable) {
                Ok(()) => self.truncate(memtable.revision),
                Err(error) => self.reopen(error, &memtable),
            }
        }
    }

    /// Waits for the oldest sealed memtable; `None` when the store is dropped.
    fn next(&self) -> Option<Arc<Memtable>> {
        let is_idle =
            |memtables: &mut Memtables| memtables.sealed.is_empty() && !memtables.is_abandoned;
        let memtables = self
            .shared
            .state_changed
            .wait_while(self.shared.memtables(), is_idle)
            .unwrap_or_else(PoisonError::into_inner);
        memtables.sealed.front().filter(|_| !memtables.is_abandoned).cloned()
    }

    fn flush(&self, memtable: &Memtable) -> Result<(), StoreError> {
        let _exclusive = self.shared.flush_lock.write().unwrap_or_else(PoisonError::into_inner);
        self.shared.with_tree(|tree| {
            self.shared.snapshots.preserve(tree, &memtable.changes)?;
            self.shared.directory.while_suspect(|| tree.write(memtable, self.retention))
        })
    }

    /// Removes the memtables that the tree has, with all commits up to this one, and their journal
    /// files. The files go first: a close waits until the memtables are removed.
    fn truncate(&self, revision: Revision) {
        let Some(flushed) = self.shared.memtables().last_flushed(revision) else { return };
        if let Err(error) = Journal::remove_before(&self.shared.journal, flushed) {
            tracing::warn!(%error, "an obsolete journal file could not be removed");
        }
        self.shared.memtables().truncate(flushed);
        self.shared.state_changed.notify_all();
    }

    /// Reopens a failed tree, which cannot be read until then. It must have at least all commits
    /// before this memtable.
    fn reopen(&self, mut error: StoreError, memtable: &Memtable) {
        // A full disk has written nothing. After any other error, pages that the kernel takes for
        // synced may not be on the disk.
        let mut is_suspect = false;
        self.shared.snapshots.end(&error);
        loop {
            is_suspect = is_suspect || !matches!(error, StoreError::Full(_));
            if is_suspect {
                self.shared.directory.set_suspect(true);
            }
            tracing::warn!(%error, "the tree of the store has failed; reopening it");
            self.shared.memtables().flush_error = Some(error);
            self.shared.state_changed.notify_all();
            // The file cannot be opened while the old tree is open.
            self.shared.set_tree(None);
            let (memtables, _) = self
                .shared
                .state_changed
                .wait_timeout_while(self.shared.memtables(), RETRY_DELAY, |memtables| {
                    !memtables.is_abandoned
                })
                .unwrap_or_else(PoisonError::into_inner);
            if memtables.is_abandoned {
                return;
            }
            drop(memtables);
            match self.open(memtable.after, is_suspect) {
                Ok((tree, revision)) => {
                    self.shared.directory.set_suspect(false);
                    tracing::info!(revision, "the tree of the store is open again");
                    self.shared.set_tree(Some(tree));
                    self.shared.memtables().flush_error = None;
                    self.truncate(revision);
                    return;
                }
                Err(open_error) => error = open_error,
            }
        }
    }

    fn open(&self, expected: Revision, is_suspect: bool) -> Result<(Tree, Revision), StoreError> {
        let tree = Tree::open(&self.store, self.cache_bytes, is_suspect)?;
        let (revision, _) = tree.latest()?;
        if revision >= expected {
            return Ok((tree, revision));
        }
        let what = format!("its latest revision is {revision}, but it had revision {expected}");
        Err(StoreError::Corrupt { place: self.store.display().to_string(), what })
    }
}
