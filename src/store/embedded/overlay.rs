//! A snapshot: all records as of one revision, read in chunks while commits continue. Neither the
//! writer nor the flusher waits for the reader.
//!
//! The tree does not change while a chunk is read; the flusher writes it between two. So a snapshot
//! has an overlay: for each unread key whose record in the tree differs from that at the snapshot's
//! revision, the record at that revision. It begins with the changes of the memtables. Before the
//! flusher writes a memtable, the overlay gets the records that are about to change
//! (copy-on-write). The snapshot keeps a checksum of the tree's records that it has read, updated
//! with every later change of them, so that at the end it must be the checksum of the tree.
//!
//! A slow reader and many writes make the overlay grow; beyond [`OVERLAY_MAX_BYTES`] the snapshot
//! ends with an error.

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
pub(super) const PAGE_RECORDS: usize = 1_024;
/// Estimated memory of an overlay beyond that of the memtables: some 300,000 small records.
pub(super) const OVERLAY_MAX_BYTES: usize = 64 << 20;
/// Estimated memory of a map entry beside its key and value.
const ENTRY_BYTES: usize = 128;

/// The snapshots that are being read.
#[derive(Default)]
pub(super) struct Snapshots(Mutex<Vec<Weak<Mutex<Overlay>>>>);

/// The state of a snapshot that is being read.
pub(super) struct Overlay {
    /// The first unread key; `None` after the last.
    next: Option<Vec<u8>>,
    /// The records of unread keys at the snapshot's revision, where those of the tree may differ.
    records: Mutations,
    /// Estimated memory of `records`.
    bytes: usize,
    max_bytes: usize,
    /// Of the tree's records that were read, as they are in the tree now.
    checksum: RecordChecksum,
    /// Why it cannot be read further.
    error: Option<StoreError>,
}

impl Snapshots {
    /// Preserves the records that these changes are about to replace in the tree. The caller holds
    /// the flush lock for writing. Errors: those of the tree.
    pub(super) fn preserve(&self, tree: &Tree, changes: &Mutations) -> Result<(), StoreError> {
        self.open().iter().try_for_each(|overlay| lock(overlay).preserve(tree, changes))
    }

    /// Ends all snapshots with this error, because the old state of the tree is lost.
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
    /// Begins with the changes of the memtables, and may grow by `extra_bytes`.
    pub(super) fn new(records: Mutations, extra_bytes: usize) -> Self {
        let bytes = records.iter().map(|(key, change)| size(key, change)).sum();
        let max_bytes = extra_bytes.saturating_add(bytes);
        Self {
            next: Some(Vec::new()),
            records,
            bytes,
            max_bytes,
            checksum: RecordChecksum::default(),
            error: None,
        }
    }

    fn preserve(&mut self, tree: &Tree, changes: &Mutations) -> Result<(), StoreError> {
        for (key, change) in changes {
            if self.error.is_some() {
                return Ok(());
            }
            let is_read = self.next.as_ref().is_none_or(|next| key < next);
            if is_read {
                tree.record(key)?.iter().for_each(|old| self.checksum.remove(old));
                let new = change.clone().map(|(revision, value)| Record {
                    key: key.clone(),
                    revision,
                    value,
                });
                new.iter().for_each(|new| self.checksum.add(new));
            } else if !self.records.contains_key(key) {
                let old = tree.record(key)?.map(|old| (old.revision, old.value));
                self.bytes += size(key, &old);
                self.records.insert(key.clone(), old);
            }
            if self.bytes > self.max_bytes {
                self.records.clear();
                self.error = Some(StoreError::Unavailable(
                    "the snapshot was read too slowly during many writes; try again".to_owned(),
                ));
            }
        }
        Ok(())
    }

    /// The next page, which may be empty; `None` after the last. The caller holds the flush lock.
    pub(super) fn read(&mut self, tree: &Tree) -> Result<Option<Vec<Entry>>, StoreError> {
        if let Some(error) = &self.error {
            return Err(error.clone());
        }
        let Some(from) = self.next.take() else { return Ok(None) };
        let (records, next) = tree.read(&from, PAGE_RECORDS)?;
        records.iter().for_each(|record| self.checksum.add(record));
        self.next = next;
        if self.next.is_none() {
            tree.verify_checksum(self.checksum)?;
        }
        Ok(Some(self.merge(records)))
    }

    /// The tree's records of a page, with those of the overlay in their place.
    fn merge(&mut self, records: Vec<Record>) -> Vec<Entry> {
        if !self.has_records_before_next() {
            return records
                .into_iter()
                .map(|Record { key, value, revision }| Entry { key, value, revision })
                .collect();
        }
        let mut page: BTreeMap<_, _> = records
            .into_iter()
            .map(|record| (record.key, (record.revision, record.value)))
            .collect();
        while self.has_records_before_next()
            && let Some((key, change)) = self.records.pop_first()
        {
            self.bytes -= size(&key, &change);
            match change {
                Some(value) => drop(page.insert(key, value)),
                None => drop(page.remove(&key)),
            }
        }
        page.into_iter().map(|(key, (revision, value))| Entry { key, value, revision }).collect()
    }

    fn has_records_before_next(&self) -> bool {
        let first = self.records.keys().next();
        first.is_some_and(|key| self.next.as_ref().is_none_or(|next| key < next))
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
    fn an_overlay_beyond_its_bound_ends_the_snapshot() {
        let directory = tempfile::tempdir().unwrap();
        let tree = Tree::open(&directory.path().join("store"), 1 << 20, false).unwrap();
        let changes: Mutations =
            (0..100_u8).map(|key| (vec![key], Some((1, vec![0; 100])))).collect();
        // The tree has none of them, so the overlay has only their keys.
        let enough = 100 * (ENTRY_BYTES + 1);
        let mut overlay = Overlay::new(Mutations::new(), enough);
        overlay.preserve(&tree, &changes).unwrap();
        assert_eq!((overlay.records.len(), overlay.bytes), (100, enough));
        assert_eq!(overlay.read(&tree).unwrap(), Some(Vec::new()));
        assert_eq!((overlay.records.len(), overlay.bytes), (0, 0));
        let mut overlay = Overlay::new(Mutations::new(), enough - 1);
        overlay.preserve(&tree, &changes).unwrap();
        assert!(
            overlay.records.is_empty()
                && matches!(overlay.read(&tree), Err(StoreError::Unavailable(_)))
        );
    }
}
