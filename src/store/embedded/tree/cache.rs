//! Keeps the memory of sled within its bounds: its cache, and the pages that batches replace.

use std::collections::VecDeque;

use super::database::failure;
use crate::store::StoreError;

/// Which values of the tree were looked at, so that sled's cache is held to its bound.
///
/// sled notes accesses in 256 queues, by page, and looks whether a queue's pages are to go only
/// when 64 accesses are in it. So up to 16,384 pages stay in memory whatever the bound: with ours,
/// 100 MiB and more. Looking 64 times at some of the pages of each queue makes it look.
#[derive(Default)]
pub(super) struct TouchedPages {
    /// The newest of them, and those before, so that all queues are met.
    keys: VecDeque<Vec<u8>>,
    count: usize,
}

impl TouchedPages {
    const ACCESSES: usize = 64;
    /// Two pages for each queue.
    const PAGES: usize = 512;
    /// A page of sled's holds some ten values, so one page of two is kept.
    const VALUES: usize = 20;

    pub(super) fn add(&mut self, db: &sled::Db, key: &[u8]) -> Result<(), StoreError> {
        self.count += 1;
        if !self.count.is_multiple_of(Self::VALUES) {
            return Ok(());
        }
        self.keys.push_back(key.to_vec());
        if self.keys.len() > Self::PAGES {
            self.keys.pop_front();
        }
        if self.count.is_multiple_of(Self::VALUES * Self::PAGES) {
            self.collect(db)
        } else {
            Ok(())
        }
    }

    pub(super) fn collect(&self, db: &sled::Db) -> Result<(), StoreError> {
        for key in &self.keys {
            for _ in 0..Self::ACCESSES {
                db.get(key).map_err(failure)?;
            }
        }
        Ok(())
    }
}

/// Frees the pages that a batch has replaced. sled leaves them to crossbeam's epochs, which collect
/// a little with every 128th batch, so that large batches leave gigabytes behind; each flush here
/// frees about 500 pages, and a change replaces one or two.
pub(super) fn collect_garbage(changes: usize) {
    for _ in 0..changes / 128 + 1 {
        crossbeam_epoch::pin().flush();
    }
}
