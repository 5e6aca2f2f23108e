//! All records as of one revision: those of the tree, with what the generations have changed.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::mpsc;

use super::{Change, Entry, Generation, StoreError, Tree};
use crate::store::page::Record;

/// Records in one page of a snapshot.
const PAGE: usize = 1_024;

/// The records of the tree with what the generations have changed. Ends early where nobody reads on.
pub(super) fn send_pages(
    tree: &Tree,
    generations: &[Arc<Generation>],
    pages: &mpsc::Sender<Result<Vec<Entry>, StoreError>>,
) -> Result<(), StoreError> {
    let changes: BTreeMap<&Vec<u8>, &Change> = generations.iter().flat_map(|generation| &generation.changes).collect();
    let mut changes = changes.into_iter().peekable();
    let mut page = Vec::with_capacity(PAGE);
    let mut send = |entry: Entry| {
        page.push(entry);
        page.len() < PAGE || pages.blocking_send(Ok(std::mem::replace(&mut page, Vec::with_capacity(PAGE)))).is_ok()
    };
    let mut alive = true;
    tree.walk(|record| {
        while let Some((key, change)) = changes.next_if(|(key, _)| **key < record.key) {
            alive = alive && changed(key, change).is_none_or(&mut send);
        }
        let replaced = changes.next_if(|(key, _)| **key == record.key);
        let Record { key, revision, value } = record;
        let entry = replaced.map_or(Some(Entry { key, value, revision }), |(key, change)| changed(key, change));
        alive = alive && entry.is_none_or(&mut send);
        alive
    })?;
    if alive && changes.filter_map(|(key, change)| changed(key, change)).all(send) {
        let _ = pages.blocking_send(Ok(page));
    }
    Ok(())
}

fn changed(key: &[u8], change: &Change) -> Option<Entry> {
    let (revision, value) = change.clone()?;
    Some(Entry { key: key.to_vec(), value, revision })
}
