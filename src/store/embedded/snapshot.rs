//! Begins snapshots and sends their pages. `overlay.rs` explains how they are read.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::mpsc;

use super::{
    overlay::{OVERLAY_MAX_BYTES, Overlay, PAGE_RECORDS, lock},
    shared::{Shared, closed},
};
use crate::store::{Entry, Revision, StoreError};

/// Begins a snapshot at the durable revision.
pub(super) fn begin(shared: &Shared) -> (Revision, Arc<Mutex<Overlay>>) {
    let _no_flush = shared.flush_lock.read().unwrap_or_else(PoisonError::into_inner);
    let memtables = shared.memtables().copy();
    let revision = memtables.last().map_or(0, |active| active.revision);
    let changes = memtables.iter().flat_map(|memtable| &memtable.changes);
    let records = changes.map(|(key, change)| (key.clone(), change.clone())).collect();
    let overlay = Arc::new(Mutex::new(Overlay::new(records, OVERLAY_MAX_BYTES)));
    shared.snapshots.add(&overlay);
    (revision, overlay)
}

/// Sends the pages of a snapshot until its receiver is dropped. Holds no lock, and does not keep
/// the store alive, while it waits for the reader.
pub(super) fn send_pages(
    shared: &Weak<Shared>,
    overlay: &Mutex<Overlay>,
    pages: &mpsc::Sender<Result<Vec<Entry>, StoreError>>,
) -> Result<(), StoreError> {
    loop {
        let page = {
            let shared = shared.upgrade().ok_or_else(closed)?;
            let _no_flush = shared.flush_lock.read().unwrap_or_else(PoisonError::into_inner);
            shared.with_tree(|tree| lock(overlay).read(tree))?
        };
        let Some(mut entries) = page else { return Ok(()) };
        while !entries.is_empty() {
            let rest = entries.split_off(entries.len().min(PAGE_RECORDS));
            if pages.blocking_send(Ok(std::mem::replace(&mut entries, rest))).is_err() {
                return Ok(());
            }
        }
    }
}
