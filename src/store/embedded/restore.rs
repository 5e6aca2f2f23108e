//! Restores a backup: creates a store from its records, in an empty directory.

use std::path::Path;

use super::{data_dir::Directory, memtable::Memtable, tree::Tree};
use crate::store::{Entry, Memory, Retention, Revision, StoreError};

/// Creates a store from these records, in key order, in an empty or new directory. Its latest
/// revision is this one, and it has no events: a watch from an older revision gets
/// [`StoreError::Compacted`]. If the restore is interrupted, the directory is empty, or an open
/// refuses it; it never opens as a part of the store. Errors: [`StoreError::NotEmpty`], those of
/// the records, and those of an open.
pub(in crate::store) fn restore<E: From<StoreError>>(
    directory: &Path,
    memory: Memory,
    records: impl Iterator<Item = Result<Vec<Entry>, E>>,
    revision: Revision,
) -> Result<(), E> {
    let directory = Directory::begin_restore(directory)?;
    match fill(&directory.path().join("store"), memory, records, revision) {
        Ok(()) => Ok(directory.complete(revision)?),
        Err(error) => {
            directory.abandon();
            Err(error)
        }
    }
}

fn fill<E: From<StoreError>>(
    store: &Path,
    memory: Memory,
    records: impl Iterator<Item = Result<Vec<Entry>, E>>,
    revision: Revision,
) -> Result<(), E> {
    let tree = Tree::open(store, memory.cache_bytes, false)?;
    let keep_all = Retention { events: u64::MAX, age_ms: u64::MAX };
    let mut memtable = Memtable::after(revision);
    for page in records {
        memtable.extend(
            &[],
            page?
                .into_iter()
                .map(|entry| (entry.key, Some((entry.revision, entry.value))))
                .collect(),
        );
        if memtable.bytes as u64 >= memory.journal_bytes {
            tree.write(&memtable, keep_all)?;
            memtable = Memtable::after(revision);
        }
    }
    tree.write(&memtable, keep_all)?;
    Ok(tree.check_records()?)
}
