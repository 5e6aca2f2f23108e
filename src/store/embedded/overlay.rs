//! All records as of one revision, read piece by piece while commits go on: neither the writer nor
//! the tree waits for who reads.
//!
//! The tree stands still while a piece is read, and is written between two. So a snapshot keeps
//! what keys that it has not read yet said at its revision, where the tree says something else: to
//! begin with what the memtables have changed; and before the tree takes a memtable, the records
//! that it is about to change (copy-on-write). What it has read is added up, with what has been
//! changed in it since, so that at the end the sum is that of the tree.
//!
//! A reader that is slow while much is written makes it keep more and more; beyond [`KEPT_BYTES`]
//! it ends with an error.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use super::{
    memtable::{Mutation, Mutations},
    page::{Record, RecordChecksum},
    tree::Tree,
};
use crate::store::{Entry, StoreError};

/// Records in one page of a snapshot.
pub(super) const PAGE: usize = 1_024;
/// Memory of old records, roughly, beyond that of the memtables: 300,000 small ones.
pub(super) const KEPT_BYTES: usize = 64 << 20;
/// What one entry of a map costs beside its bytes, roughly.
const ENTRY_BYTES: usize = 128;

/// The snapshots that are being read.
#[derive(Default)]
pub(super) struct Snapshots(Mutex<Vec<Weak<Mutex<Overlay>>>>);

/// What a snapshot has beside the tree.
pub(super) struct Overlay {
    /// Keys from this one on are still to be read; nothing where all are read.
    next: Option<Vec<u8>>,
    /// What keys that are still to be read say, whatever the tree says.
    kept: Mutations,
    /// Memory of `kept`, and how much of it there may be.
    bytes: usize,
    max_bytes: usize,
    /// The tree's records that were read, as they are now.
    tally: RecordChecksum,
    /// Why it cannot be read any further.
    error: Option<StoreError>,
}

impl Snapshots {
    /// Before the tree takes these changes. Nobody may read it. Errors: those of the tree.
    pub(super) fn keep(&self, tree: &Tree, changes: &Mutations) -> Result<(), StoreError> {
        self.open().iter().try_for_each(|overlay| lock(overlay).keep(tree, changes))
    }

    /// Ends all of them: what the tree was is not known any more.
    pub(super) fn end(&self, error: &StoreError) {
        for overlay in self.open() {
            lock(&overlay).error = Some(error.clone());
        }
    }

    pub(super) fn add(&self, overlay: &Arc<Mutex<Overlay>>) {
        lock(&self.0).push(Arc::downgrade(overlay));
    }

    fn open(&self) -> Vec<Arc<Mutex<Overlay>>> {
        let mut overlays = lock(&self.0);
        overlays.retain(|overlay| overlay.strong_count() > 0);
        overlays.iter().filter_map(Weak::upgrade).collect()
    }
}

impl Overlay {
    pub(super) fn new(kept: Mutations, more_bytes: usize) -> Self {
        let bytes = kept.iter().map(|(key, change)| size(key, change)).sum();
        let max_bytes = more_bytes.saturating_add(bytes);
        Self {
            next: Some(Vec::new()),
            kept,
            bytes,
            max_bytes,
            tally: RecordChecksum::default(),
            error: None,
        }
    }

    fn keep(&mut self, tree: &Tree, changes: &Mutations) -> Result<(), StoreError> {
        for (key, change) in changes {
            if self.error.is_some() {
                return Ok(());
            }
            let is_read = self.next.as_ref().is_none_or(|next| key < next);
            if is_read {
                tree.record(key)?.iter().for_each(|old| self.tally.remove(old));
                let new = change.clone().map(|(revision, value)| Record {
                    key: key.clone(),
                    revision,
                    value,
                });
                new.iter().for_each(|new| self.tally.add(new));
            } else if !self.kept.contains_key(key) {
                let old = tree.record(key)?.map(|old| (old.revision, old.value));
                self.bytes += size(key, &old);
                self.kept.insert(key.clone(), old);
            }
            if self.bytes > self.max_bytes {
                self.kept.clear();
                self.error = Some(StoreError::Unavailable(
                    "a snapshot was read too slowly while much was written".to_owned(),
                ));
            }
        }
        Ok(())
    }

    /// The next records, some or none; nothing after the last.
    pub(super) fn read(&mut self, tree: &Tree) -> Result<Option<Vec<Entry>>, StoreError> {
        if let Some(error) = &self.error {
            return Err(error.clone());
        }
        let Some(from) = self.next.take() else { return Ok(None) };
        let (records, next) = tree.read(&from, PAGE)?;
        records.iter().for_each(|record| self.tally.add(record));
        self.next = next;
        if self.next.is_none() {
            tree.compare(self.tally)?;
        }
        Ok(Some(self.merge(records)))
    }

    /// The records of the tree up to the next ones, with what is kept of their keys.
    fn merge(&mut self, records: Vec<Record>) -> Vec<Entry> {
        if !self.keeps_any_before_next() {
            return records
                .into_iter()
                .map(|Record { key, value, revision }| Entry { key, value, revision })
                .collect();
        }
        let mut page: BTreeMap<_, _> = records
            .into_iter()
            .map(|record| (record.key, (record.revision, record.value)))
            .collect();
        while self.keeps_any_before_next()
            && let Some((key, change)) = self.kept.pop_first()
        {
            self.bytes -= size(&key, &change);
            match change {
                Some(value) => drop(page.insert(key, value)),
                None => drop(page.remove(&key)),
            }
        }
        page.into_iter().map(|(key, (revision, value))| Entry { key, value, revision }).collect()
    }

    fn keeps_any_before_next(&self) -> bool {
        self.kept.keys().next().is_some_and(|key| self.next.as_ref().is_none_or(|next| key < next))
    }
}

fn size(key: &[u8], change: &Mutation) -> usize {
    ENTRY_BYTES + key.len() + change.as_ref().map_or(0, |(_, value)| value.len())
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_keeps_old_records_up_to_a_bound() {
        let directory = tempfile::tempdir().unwrap();
        let tree = Tree::open(&directory.path().join("store"), 1 << 20, false).unwrap();
        let changes: Mutations =
            (0..100_u8).map(|key| (vec![key], Some((1, vec![0; 100])))).collect();
        // The tree has none of them, so that of each the key is kept.
        let enough = 100 * (ENTRY_BYTES + 1);
        let mut overlay = Overlay::new(Mutations::new(), enough);
        overlay.keep(&tree, &changes).unwrap();
        assert_eq!((overlay.kept.len(), overlay.bytes), (100, enough));
        assert_eq!(overlay.read(&tree).unwrap(), Some(Vec::new()));
        assert_eq!((overlay.kept.len(), overlay.bytes), (0, 0));
        let mut overlay = Overlay::new(Mutations::new(), enough - 1);
        overlay.keep(&tree, &changes).unwrap();
        assert!(
            overlay.kept.is_empty()
                && matches!(overlay.read(&tree), Err(StoreError::Unavailable(_)))
        );
    }
}
