//! The tree of the embedded engine, on sled 0.34: what the journal has handed over. Only this
//! file and those below it know the word.
//!
//! # Layout
//! One tree, because only within one is a sled batch atomic: `p FENCE` -> a page of records: those
//! from this key on, up to the next fence; `e REVISION` -> a chunk of events, from this commit on;
//! `n` -> the newest revision, and the tally of all records: their number and the sum of their
//! checksums. Whoever reads all records is compared with it at the end, because sled may leave out
//! what it cannot read.

use std::{
    ops::{Bound, Range},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use self::{
    cache::{TouchedPages, collect_garbage},
    database::{Database, failure, intact},
};
use super::{
    event_log,
    memtable::{Memtable, Mutation},
    page::{self, Record, RecordChecksum},
};
use crate::store::{Retention, Revision, StoreError, StoredEvent, codec::corrupt};

mod cache;
mod database;

/// Records that are read at once where all are.
const READ_RECORDS: usize = 1_024;
/// A batch of records is closed beyond this many bytes, which are some 64 pages. For each sled may
/// write a page of its own, and move another one out of a segment that it wants to use again, with
/// up to 17 of ours each: all in all half a segment.
const BATCH_BYTES: usize = 64 << 10;
/// Chunks of events that are written in one batch. A chunk has up to 43 KiB, and sled writes a page
/// of its own for every tenth.
const CHUNKS: usize = 8;
/// Old chunks of events that go with one batch, beside as many as come with it: so that none pays
/// for many.
const PRUNED: usize = 2;

const PAGE: u8 = b'p';
const EVENTS: u8 = b'e';
const LATEST: &[u8] = b"n";

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

    /// Lets go of it. sled syncs once more, and panics where it cannot; nothing rests on that sync.
    pub(super) fn close(self) {
        let closed = intact(|| {
            drop(self);
            Ok(())
        });
        if let Err(error) = closed {
            tracing::warn!(%error, "the tree of the store could not be closed");
        }
    }

    /// The newest commit that the tree has, and what its records add up to.
    pub(super) fn latest(&self) -> Result<(Revision, RecordChecksum), StoreError> {
        intact(|| {
            let Some(value) = self.database.db.get(LATEST).map_err(failure)? else {
                return Ok((0, RecordChecksum::default()));
            };
            match value.as_chunks::<8>() {
                ([revision, records, sum], []) => {
                    let tally = RecordChecksum {
                        records: u64::from_be_bytes(*records),
                        sum: u64::from_be_bytes(*sum),
                    };
                    Ok((Revision::from_be_bytes(*revision), tally))
                }
                _ => Err(corrupt(LATEST, "no newest revision of this version")),
            }
        })
    }

    /// The record of this key.
    pub(super) fn record(&self, key: &[u8]) -> Result<Option<Record>, StoreError> {
        intact(|| {
            let (_, records) = self.page_of(key)?;
            Ok(records.into_iter().find(|record| record.key == key))
        })
    }

    /// The commit that last wrote this key.
    pub(super) fn revision_of(&self, key: &[u8]) -> Result<Option<Revision>, StoreError> {
        Ok(self.record(key)?.map(|record| record.revision))
    }

    /// The records from this key on, at least so many where there are, and the key from which on to
    /// read the next; nothing after the last. Nothing may be written meanwhile.
    pub(super) fn read(
        &self,
        from: &[u8],
        count: usize,
    ) -> Result<(Vec<Record>, Option<Vec<u8>>), StoreError> {
        intact(|| {
            let mut touched = self.touched();
            let (first, mut records) = self.page_of(from)?;
            touched.add(&self.database.db, &first)?;
            records.retain(|record| record.key[..] >= *from);
            for pair in
                self.database.db.range((Bound::Excluded(first), Bound::Excluded(vec![PAGE + 1])))
            {
                let (fence, value) = pair.map_err(failure)?;
                if records.len() >= count {
                    return Ok((records, Some(fence[1..].to_vec())));
                }
                touched.add(&self.database.db, &fence)?;
                records.extend(page::decode(&fence, &value)?);
            }
            touched.collect(&self.database.db)?;
            Ok((records, None))
        })
    }

    /// Reads every record. Nothing may be written meanwhile. Errors: those of [`Self::compare`].
    pub(super) fn check_records(&self) -> Result<(), StoreError> {
        let (mut tally, mut from) = (RecordChecksum::default(), Some(Vec::new()));
        while let Some(key) = from {
            let (records, next) = self.read(&key, READ_RECORDS)?;
            records.iter().for_each(|record| tally.add(record));
            from = next;
        }
        self.compare(tally)
    }

    /// Whether this is what all records add up to. Errors: [`StoreError::Corrupt`], something is
    /// missing.
    pub(super) fn compare(&self, tally: RecordChecksum) -> Result<(), StoreError> {
        let (_, expected) = self.latest()?;
        if tally == expected {
            return Ok(());
        }
        Err(corrupt(
            LATEST,
            &format!("{} records can be read, and there were {}", tally.records, expected.records),
        ))
    }

    /// Takes in a memtable, and has it on stable storage when it returns. Whatever a stop leaves of
    /// it is written again by the next attempt: the newest revision stays where it was until the
    /// records are there, and then goes with the events.
    pub(super) fn take(&self, memtable: &Memtable, kept: Retention) -> Result<(), StoreError> {
        intact(|| {
            let (revision, mut tally) = self.latest()?;
            let mut touched = self.touched();
            let changes: Vec<_> = memtable.changes.iter().collect();
            let mut rest = &changes[..];
            while !rest.is_empty() {
                let mut batch = sled::Batch::default();
                rest = self.put_some(&mut batch, rest, &mut tally, &mut touched)?;
                batch.insert(LATEST, tally.value(revision));
                self.database.write(batch)?;
            }
            let known = memtable.events.partition_point(|event| event.revision <= revision);
            let chunks = event_log::chunks(&memtable.events[known..]);
            for some in chunks.chunks(CHUNKS) {
                let mut batch = sled::Batch::default();
                for (revision, events) in some {
                    let key = events_key(*revision);
                    batch.insert(&key, event_log::encode(&key, *revision, events));
                    batch.insert(LATEST, tally.value(revision + events.len() as Revision - 1));
                }
                self.prune(&mut batch, kept, memtable, some.len() + PRUNED)?;
                self.database.write(batch)?;
            }
            if chunks.is_empty() {
                let mut batch = sled::Batch::default();
                batch.insert(LATEST, tally.value(memtable.revision.max(revision)));
                self.database.write(batch)?;
            }
            collect_garbage(changes.len() + chunks.len());
            Ok(())
        })
    }

    /// Makes the first of the changes, a batch full of pages. Answers the rest.
    fn put_some<'a>(
        &self,
        batch: &mut sled::Batch,
        mut rest: &'a [(&'a Vec<u8>, &'a Mutation)],
        tally: &mut RecordChecksum,
        touched: &mut TouchedPages,
    ) -> Result<&'a [(&'a Vec<u8>, &'a Mutation)], StoreError> {
        let mut bytes = 0;
        while bytes < BATCH_BYTES
            && let Some((key, _)) = rest.first()
        {
            let (fence, records) = self.page_of(key)?;
            touched.add(&self.database.db, &fence)?;
            let end = self.fence_after(&fence)?;
            let here =
                end.map_or(rest.len(), |end| rest.partition_point(|(key, _)| key[..] < end[1..]));
            let fitting = fitting(&rest[..here]);
            let (changes, after) = rest.split_at(fitting);
            bytes += put_pages(batch, &fence, records, changes, tally);
            rest = after;
            if fitting < here {
                // The rest of this page's changes belong to pages that the batch has yet to bring.
                break;
            }
        }
        Ok(rest)
    }

    /// The first commit whose event is kept; nothing where none is.
    pub(super) fn oldest_event(&self) -> Result<Option<Revision>, StoreError> {
        intact(|| {
            let Some(pair) = self.database.db.scan_prefix([EVENTS]).next() else { return Ok(None) };
            let (key, value) = pair.map_err(failure)?;
            Ok(event_log::decode(&key, &value)?.first().map(|event| event.revision))
        })
    }

    /// The events of these commits, at least one. Those that go meanwhile may be there or not.
    pub(super) fn events(
        &self,
        revisions: &Range<Revision>,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        intact(|| {
            let mut events = Vec::new();
            // A walk has it for long, and looks after the cache itself.
            let mut touched = self.touched.try_lock().ok();
            // The first of them may stand in the middle of a chunk.
            let start = events_key(revisions.start);
            let first = self
                .database
                .db
                .range(events_key(0)..=start)
                .next_back()
                .transpose()
                .map_err(failure)?;
            let first = first.map_or(start.as_slice().into(), |(key, _)| key);
            for pair in self.database.db.range(first..events_key(revisions.end).as_slice().into()) {
                let (key, value) = pair.map_err(failure)?;
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

    /// Every event is whole, and none is missing up to the newest.
    pub(super) fn check_events(&self, newest: Revision) -> Result<(), StoreError> {
        intact(|| {
            let mut last = None;
            for pair in self.database.db.scan_prefix([EVENTS]) {
                let (key, value) = pair.map_err(failure)?;
                let events = event_log::decode(&key, &value)?;
                if last.is_some_and(|last| {
                    events.first().is_some_and(|first| first.revision != last + 1)
                }) {
                    return Err(corrupt(&key, "a gap in the log of events"));
                }
                last = events.last().map(|event| event.revision);
            }
            if last.unwrap_or(newest) == newest {
                Ok(())
            } else {
                Err(corrupt(LATEST, "the newest revision is not that of the log of events"))
            }
        })
    }

    /// The page that a key belongs to: its key in the tree, and its records. The first page has no
    /// key of its own where there is none yet.
    fn page_of(&self, key: &[u8]) -> Result<(Vec<u8>, Vec<Record>), StoreError> {
        let key = [&[PAGE], key].concat();
        match self.database.db.range(vec![PAGE]..=key).next_back() {
            None => Ok((vec![PAGE], Vec::new())),
            Some(pair) => {
                let (fence, value) = pair.map_err(failure)?;
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
        next.map(|pair| pair.map(|(fence, _)| fence).map_err(failure)).transpose()
    }

    /// Cuts the log of events where it is too long or too old, by whole chunks.
    fn prune(
        &self,
        batch: &mut sled::Batch,
        kept: Retention,
        memtable: &Memtable,
        most: usize,
    ) -> Result<(), StoreError> {
        for pair in self.database.db.scan_prefix([EVENTS]).take(most) {
            let (key, value) = pair.map_err(failure)?;
            let events = event_log::decode(&key, &value)?;
            let is_old = events.last().is_some_and(|last| {
                let too_many = memtable.revision.saturating_sub(last.revision) >= kept.events;
                too_many || last.at_ms.saturating_add(kept.age_ms) < memtable.newest_ms()
            });
            if !is_old {
                break;
            }
            batch.remove(key);
        }
        Ok(())
    }
}

/// How many of the changes one batch can make.
fn fitting(changes: &[(&Vec<u8>, &Mutation)]) -> usize {
    let mut bytes = 0;
    let fits = |(key, change): &&(&Vec<u8>, &Mutation)| {
        let fits = bytes < BATCH_BYTES;
        bytes += key.len() + change.as_ref().map_or(0, |(_, value)| value.len());
        fits
    };
    changes.iter().take_while(fits).count()
}

/// Writes the records of a page, as changed, in as many pages as they need. Answers their bytes.
fn put_pages(
    batch: &mut sled::Batch,
    fence: &[u8],
    old: Vec<Record>,
    changes: &[(&Vec<u8>, &Mutation)],
    tally: &mut RecordChecksum,
) -> usize {
    let records = page::merge(old, changes, tally);
    if records.is_empty() {
        batch.remove(fence);
        // sled writes as much for a page that goes.
        return page::FULL_BYTES;
    }
    let mut bytes = 0;
    for (number, records) in page::split(&records).into_iter().enumerate() {
        let fence = match records.first() {
            Some(first) if number > 0 => [&[PAGE], &first.key[..]].concat(),
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
