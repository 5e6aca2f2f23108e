//! Keeps sled's memory bounded: its cache, and the pages that batches replace.

use std::collections::VecDeque;

use super::database::store_error;
use crate::store::StoreError;

/// The keys that were last accessed, so that sled's cache can be kept within its capacity.
///
/// sled records accesses in 256 queues, by page, and evicts pages of a queue only when the queue
/// has 64 accesses. So up to 16,384 pages stay in memory whatever the capacity: 100 MiB and more
/// with our pages. Reading some pages of each queue 64 times makes sled evict.
#[derive(Default)]
pub(super) struct TouchedPages {
    /// A sample, long enough to have pages of all queues.
    keys: VecDeque<Vec<u8>>,
    accesses: usize,
}

impl TouchedPages {
    const QUEUE_ACCESSES: usize = 64;
    /// Two keys for each queue.
    const KEYS_MAX: usize = 512;
    /// A page of sled has some ten values, so a scan samples one page of two.
    const SAMPLE_INTERVAL: usize = 20;

    /// Counts an access to this key, and evicts from time to time.
    pub(super) fn add(&mut self, db: &sled::Db, key: &[u8]) -> Result<(), StoreError> {
        self.accesses += 1;
        if !self.accesses.is_multiple_of(Self::SAMPLE_INTERVAL) {
            return Ok(());
        }
        self.keys.push_back(key.to_vec());
        if self.keys.len() > Self::KEYS_MAX {
            self.keys.pop_front();
        }
        if self.accesses.is_multiple_of(Self::SAMPLE_INTERVAL * Self::KEYS_MAX) {
            self.evict(db)
        } else {
            Ok(())
        }
    }

    /// Makes sled evict pages beyond its capacity.
    pub(super) fn evict(&self, db: &sled::Db) -> Result<(), StoreError> {
        for key in &self.keys {
            for _ in 0..Self::QUEUE_ACCESSES {
                db.get(key).map_err(store_error)?;
            }
        }
        Ok(())
    }
}

/// Frees the pages that batches have replaced. sled leaves them to crossbeam's epochs, which
/// collect a few with every 128th batch, so that large batches leave gigabytes behind. Each flush
/// here frees about 500 pages; a change replaces one or two.
pub(super) fn collect_garbage(changes: usize) {
    for _ in 0..changes / 128 + 1 {
        crossbeam_epoch::pin().flush();
    }
}
