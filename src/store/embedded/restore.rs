//! Makes a store of the records of a backup, in an empty directory.

use std::path::Path;

use super::{data_dir::Directory, memtable::Memtable, tree::Tree};
use crate::store::{Entry, Memory, Retention, Revision, StoreError};

/// Makes a store of these records, which are in the order of keys, in an empty directory. It has no
/// events, and its newest revision is this one: who watches from an older one is told that it is
/// compacted. Whatever stops it, what is there is refused or empty, and never a part of a store.
/// Errors: [`StoreError::NotEmpty`], those of the records, and those of an open.
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
    let no_events = Retention { events: u64::MAX, age_ms: u64::MAX };
    let mut some = Memtable::after(revision);
    for page in records {
        some.extend(
            &[],
            page?
                .into_iter()
                .map(|entry| (entry.key, Some((entry.revision, entry.value))))
                .collect(),
        );
        if some.bytes as u64 >= memory.journal_bytes {
            tree.take(&some, no_events)?;
            some = Memtable::after(revision);
        }
    }
    tree.take(&some, no_events)?;
    // Reads everything back, and compares it with the tally.
    Ok(tree.check_records()?)
}
