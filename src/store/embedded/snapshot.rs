//! Begins and sends snapshots; `overlay.rs` is what one of them has beside the tree.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::mpsc;

use super::{
    overlay::{KEPT_BYTES, Overlay, PAGE, lock},
    shared::{Shared, closed},
};
use crate::store::{Entry, Revision, StoreError};

/// Begins a snapshot of what is durable now.
pub(super) fn begin(shared: &Shared) -> (Revision, Arc<Mutex<Overlay>>) {
    let _still = shared.flush_lock.read().unwrap_or_else(PoisonError::into_inner);
    let memtables = shared.pending().copy();
    let revision = memtables.last().map_or(0, |active| active.revision);
    let changes = memtables.iter().flat_map(|memtable| &memtable.changes);
    let kept = changes.map(|(key, change)| (key.clone(), change.clone())).collect();
    let overlay = Arc::new(Mutex::new(Overlay::new(kept, KEPT_BYTES)));
    shared.snapshots.add(&overlay);
    (revision, overlay)
}

/// Sends the records of a snapshot, as long as somebody reads them. Holds nothing of the store
/// while it waits for the reader.
pub(super) fn send_pages(
    store: &Weak<Shared>,
    overlay: &Mutex<Overlay>,
    pages: &mpsc::Sender<Result<Vec<Entry>, StoreError>>,
) -> Result<(), StoreError> {
    loop {
        let read = {
            let shared = store.upgrade().ok_or_else(closed)?;
            let _still = shared.flush_lock.read().unwrap_or_else(PoisonError::into_inner);
            shared.with_tree(|tree| lock(overlay).read(tree))?
        };
        let Some(mut entries) = read else { return Ok(()) };
        while !entries.is_empty() {
            let rest = entries.split_off(entries.len().min(PAGE));
            if pages.blocking_send(Ok(std::mem::replace(&mut entries, rest))).is_err() {
                return Ok(());
            }
        }
    }
}
