//! The tree of the embedded engine, on sled 0.34: all commits that were flushed from memtables.
//! Only this file and those below it use sled.
//!
//! # Layout
//! A single sled tree, because a sled batch is atomic within one tree only:
//!
//! | key | value |
//! | --- | --- |
//! | `p FENCE` | a page: the records from key `FENCE` up to the next fence |
//! | `e REVISION` | a chunk of events, from this commit on |
//! | `n` | the latest revision, and the checksum of all records |
//!
//! A reader of all records compares their checksum at the end, because sled may silently leave out
//! a value that it cannot read.

use std::{
    ops::{Bound, Range},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use self::{
    cache::{TouchedPages, collect_garbage},
    database::{Database, catch_panic, store_error},
};
use super::{
    event_log,
    memtable::{Memtable, Mutation},
    page::{self, Record, RecordChecksum},
};
use crate::{
    counted::counted,
    store::{Retention, Revision, StoreError, StoredEvent, codec::corrupt},
};

mod cache;
mod database;

/// Records in one read of [`Tree::check_records`].
const CHECK_RECORDS: usize = 1_024;
/// A batch of records beyond this size is written: some 64 pages. For each of them sled may write
/// one of its own pages, and move another out of a segment that it reuses, with up to 17 of our
/// pages each: together half a segment.
const BATCH_BYTES: usize = 64 << 10;
/// Chunks of events in one batch. A chunk has up to 43 KiB, and sled writes one of its own pages
/// for every tenth.
const BATCH_CHUNKS: usize = 8;
/// A batch with `n` chunks of events prunes at most `n` and this many old ones, so that no flush
/// pays for a long history.
const EXTRA_PRUNED_CHUNKS: usize = 2;

const PAGE: u8 = b'p';
const EVENTS: u8 = b'e';
const LATEST: &[u8] = b"n";

/// Changes in key order.
type Changes<'a> = &'a [(&'a Vec<u8>, &'a Mutation)];

/// An open tree.
pub(super) struct Tree {
    database: Database,
    touched: Mutex<TouchedPages>,
}

impl Tree {
    /// See [`Database::open`].
    pub(super) fn open(
        path: &Path,
        cache_bytes: u64,
        is_suspect: bool,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            database: Database::open(path, cache_bytes, is_suspect)?,
            touched: Mutex::default(),
        })
    }

    /// Closes the tree. sled syncs once more, and panics if that fails. Everything is synced
    /// before, so the error is only logged.
    pub(super) fn close(self) {
        let closed = catch_panic(|| {
            drop(self);
            Ok(())
        });
        if let Err(error) = closed {
            tracing::warn!(%error, "the tree of the store could not be closed");
        }
    }

    /// The latest commit in the tree, and the checksum of its records.
    pub(super) fn latest(&self) -> Result<(Revision, RecordChecksum), StoreError> {
        catch_panic(|| {
            let Some(value) = self.database.db.get(LATEST).map_err(store_error)? else {
                return Ok((0, RecordChecksum::default()));
            };
            match value.as_chunks::<8>() {
                ([revision, records, sum], []) => {
                    let checksum = RecordChecksum {
                        records: u64::from_be_bytes(*records),
                        sum: u64::from_be_bytes(*sum),
                    };
                    Ok((Revision::from_be_bytes(*revision), checksum))
                }
                _ => {
                    Err(corrupt(LATEST, "the latest revision is not in the format of this version"))
                }
            }
        })
    }

    /// The record of this key.
    pub(super) fn record(&self, key: &[u8]) -> Result<Option<Record>, StoreError> {
        catch_panic(|| {
            let (_, records) = self.page_of(key)?;
            Ok(records.into_iter().find(|record| record.key == key))
        })
    }

    /// The commit that last wrote this key.
    pub(super) fn revision_of(&self, key: &[u8]) -> Result<Option<Revision>, StoreError> {
        Ok(self.record(key)?.map(|record| record.revision))
    }

    /// At least `count` records from this key on, if there are so many, and the key to continue
    /// from if there are more. The caller must keep the tree from being written meanwhile.
    pub(super) fn read(
        &self,
        from: &[u8],
        count: usize,
    ) -> Result<(Vec<Record>, Option<Vec<u8>>), StoreError> {
        catch_panic(|| {
            let mut touched = self.touched();
            let (first, mut records) = self.page_of(from)?;
            touched.add(&self.database.db, &first)?;
            records.retain(|record| record.key[..] >= *from);
            for pair in
                self.database.db.range((Bound::Excluded(first), Bound::Excluded(vec![PAGE + 1])))
            {
                let (fence, value) = pair.map_err(store_error)?;
                if records.len() >= count {
                    return Ok((records, Some(fence[1..].to_vec())));
                }
                touched.add(&self.database.db, &fence)?;
                records.extend(page::decode(&fence, &value)?);
            }
            touched.evict(&self.database.db)?;
            Ok((records, None))
        })
    }

    /// Reads every record, and verifies their checksum. The caller must keep the tree from being
    /// written meanwhile. Errors: those of [`Self::verify_checksum`].
    pub(super) fn check_records(&self) -> Result<(), StoreError> {
        let mut checksum = RecordChecksum::default();
        let mut from = Some(Vec::new());
        while let Some(key) = from {
            let (records, next) = self.read(&key, CHECK_RECORDS)?;
            records.iter().for_each(|record| checksum.add(record));
            from = next;
        }
        self.verify_checksum(checksum)
    }

    /// Compares the checksum of all records that were read with the stored one. Errors:
    /// [`StoreError::Corrupt`] if they differ: a record is missing or outdated.
    pub(super) fn verify_checksum(&self, checksum: RecordChecksum) -> Result<(), StoreError> {
        let (_, expected) = self.latest()?;
        if checksum == expected {
            return Ok(());
        }
        let what = format!(
            "it has {}, and was written with {}, or their contents differ",
            counted(checksum.records, "record"),
            expected.records
        );
        Err(corrupt(LATEST, &what))
    }

    /// Writes a memtable, and returns when it is on stable storage. After an interrupted write the
    /// caller writes the same memtable again: the latest revision stays as it was until the records
    /// are written, and then advances with the events.
    pub(super) fn write(
        &self,
        memtable: &Memtable,
        retention: Retention,
    ) -> Result<(), StoreError> {
        catch_panic(|| {
            let (latest, mut checksum) = self.latest()?;
            let mut touched = self.touched();
            let changes: Vec<_> = memtable.changes.iter().collect();
            let mut rest = &changes[..];
            while !rest.is_empty() {
                let mut batch = sled::Batch::default();
                rest = self.fill_batch(&mut batch, rest, &mut checksum, &mut touched)?;
                batch.insert(LATEST, checksum.encode(latest));
                self.database.write(batch)?;
            }
            let already_written = memtable.events.partition_point(|event| event.revision <= latest);
            let chunks = event_log::split(&memtable.events[already_written..]);
            for chunks in chunks.chunks(BATCH_CHUNKS) {
                let mut batch = sled::Batch::default();
                for (first, events) in chunks {
                    let key = events_key(*first);
                    let last = first + events.len() as Revision - 1;
                    batch.insert(&key, event_log::encode(&key, *first, events));
                    batch.insert(LATEST, checksum.encode(last));
                }
                let max_pruned = chunks.len() + EXTRA_PRUNED_CHUNKS;
                self.prune(&mut batch, retention, memtable, max_pruned)?;
                self.database.write(batch)?;
            }
            if chunks.is_empty() {
                let mut batch = sled::Batch::default();
                batch.insert(LATEST, checksum.encode(memtable.revision.max(latest)));
                self.database.write(batch)?;
            }
            collect_garbage(changes.len() + chunks.len());
            Ok(())
        })
    }

    /// Fills a batch with the pages of the first changes. Returns the other changes.
    fn fill_batch<'a>(
        &self,
        batch: &mut sled::Batch,
        mut rest: Changes<'a>,
        checksum: &mut RecordChecksum,
        touched: &mut TouchedPages,
    ) -> Result<Changes<'a>, StoreError> {
        let mut bytes = 0;
        while bytes < BATCH_BYTES
            && let Some((key, _)) = rest.first()
        {
            let (fence, records) = self.page_of(key)?;
            touched.add(&self.database.db, &fence)?;
            let next_fence = self.fence_after(&fence)?;
            let in_page = next_fence.map_or(rest.len(), |next_fence| {
                rest.partition_point(|(key, _)| key[..] < next_fence[1..])
            });
            let fitting = count_fitting(&rest[..in_page]);
            let (changes, after) = rest.split_at(fitting);
            bytes += put_pages(batch, &fence, records, changes, checksum);
            rest = after;
            if fitting < in_page {
                // The other changes of this page may belong to pages that this batch creates.
                break;
            }
        }
        Ok(rest)
    }

    /// The first commit whose event is in the tree.
    pub(super) fn oldest_event(&self) -> Result<Option<Revision>, StoreError> {
        catch_panic(|| {
            let Some(pair) = self.database.db.scan_prefix([EVENTS]).next() else { return Ok(None) };
            let (key, value) = pair.map_err(store_error)?;
            Ok(event_log::decode(&key, &value)?.first().map(|event| event.revision))
        })
    }

    /// The events of these commits; the range is not empty. Events that are pruned meanwhile may be
    /// missing.
    pub(super) fn events(
        &self,
        revisions: &Range<Revision>,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        catch_panic(|| {
            let mut events = Vec::new();
            // A long scan may hold the lock; then it bounds the cache itself.
            let mut touched = self.touched.try_lock().ok();
            // The first event may be in the middle of a chunk.
            let start = events_key(revisions.start);
            let first = self
                .database
                .db
                .range(events_key(0)..=start)
                .next_back()
                .transpose()
                .map_err(store_error)?;
            let first = first.map_or(start.as_slice().into(), |(key, _)| key);
            for pair in self.database.db.range(first..events_key(revisions.end).as_slice().into()) {
                let (key, value) = pair.map_err(store_error)?;
                if let Some(touched) = &mut touched {
                    touched.add(&self.database.db, &key)?;
                }
                events.extend(
                    event_log::decode(&key, &value)?
                        .into_iter()
                        .filter(|event| revisions.contains(&event.revision)),
                );
            }
            Ok(events)
        })
    }

    /// Reads every event. Errors: [`StoreError::Corrupt`] if one is damaged, or one is missing
    /// before the latest revision.
    pub(super) fn check_events(&self, latest: Revision) -> Result<(), StoreError> {
        catch_panic(|| {
            let mut last = None;
            for pair in self.database.db.scan_prefix([EVENTS]) {
                let (key, value) = pair.map_err(store_error)?;
                let events = event_log::decode(&key, &value)?;
                if last.is_some_and(|last| {
                    events.first().is_some_and(|first| first.revision != last + 1)
                }) {
                    return Err(corrupt(&key, "a gap in the event log"));
                }
                last = events.last().map(|event| event.revision);
            }
            if last.unwrap_or(latest) == latest {
                Ok(())
            } else {
                Err(corrupt(LATEST, "the latest revision is not that of the last event"))
            }
        })
    }

    /// The page that a key belongs to: its fence, and its records. An empty tree has one empty
    /// page, which is not stored.
    fn page_of(&self, key: &[u8]) -> Result<(Vec<u8>, Vec<Record>), StoreError> {
        let key = [&[PAGE], key].concat();
        match self.database.db.range(vec![PAGE]..=key).next_back() {
            None => Ok((vec![PAGE], Vec::new())),
            Some(pair) => {
                let (fence, value) = pair.map_err(store_error)?;
                let records = page::decode(&fence, &value)?;
                Ok((fence.to_vec(), records))
            }
        }
    }

    fn touched(&self) -> MutexGuard<'_, TouchedPages> {
        self.touched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fence_after(&self, fence: &[u8]) -> Result<Option<sled::IVec>, StoreError> {
        let next = self
            .database
            .db
            .range::<&[u8], _>((Bound::Excluded(fence), Bound::Excluded(&[PAGE + 1][..])))
            .next();
        next.map(|pair| pair.map(|(fence, _)| fence).map_err(store_error)).transpose()
    }

    /// Adds to the batch the removal of the oldest chunks, if all their events are beyond the
    /// retention.
    fn prune(
        &self,
        batch: &mut sled::Batch,
        retention: Retention,
        memtable: &Memtable,
        max_chunks: usize,
    ) -> Result<(), StoreError> {
        for pair in self.database.db.scan_prefix([EVENTS]).take(max_chunks) {
            let (key, value) = pair.map_err(store_error)?;
            let events = event_log::decode(&key, &value)?;
            let is_expired = events.last().is_some_and(|last| {
                let newer_events = memtable.revision.saturating_sub(last.revision);
                newer_events >= retention.events
                    || last.at_ms.saturating_add(retention.age_ms) < memtable.last_event_ms()
            });
            if !is_expired {
                break;
            }
            batch.remove(key);
        }
        Ok(())
    }
}

/// How many of the first changes fit into one batch.
fn count_fitting(changes: Changes<'_>) -> usize {
    let mut bytes = 0;
    let fits = |(key, change): &&(&Vec<u8>, &Mutation)| {
        let fits = bytes < BATCH_BYTES;
        bytes += key.len() + change.as_ref().map_or(0, |(_, value)| value.len());
        fits
    };
    changes.iter().take_while(fits).count()
}

/// Applies changes to the records of a page, and adds the pages that they need to the batch.
/// Returns the bytes added.
fn put_pages(
    batch: &mut sled::Batch,
    fence: &[u8],
    old: Vec<Record>,
    changes: Changes<'_>,
    checksum: &mut RecordChecksum,
) -> usize {
    let records = page::merge(old, changes, checksum);
    if records.is_empty() {
        batch.remove(fence);
        // sled writes as much to remove a page.
        return page::SPLIT_BYTES;
    }
    let mut bytes = 0;
    for (index, records) in page::split(&records).into_iter().enumerate() {
        let fence = match records.first() {
            Some(first) if index > 0 => [&[PAGE], &first.key[..]].concat(),
            _ => fence.to_vec(),
        };
        let page = page::encode(&fence, records);
        bytes += fence.len() + page.len();
        batch.insert(fence, page);
    }
    bytes
}

fn events_key(revision: Revision) -> [u8; 9] {
    let mut key = [EVENTS; 9];
    key[1..].copy_from_slice(&revision.to_be_bytes());
    key
}
