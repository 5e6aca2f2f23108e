//! The tree of the embedded engine, on sled 0.34: what the journal has handed over. The only file
//! that knows the word.
//!
//! # Layout
//! One tree, because only within one is a sled batch atomic: `p FENCE` -> a page of records: those
//! from this key on, up to the next fence; `e REVISION` -> a chunk of events, from this commit on;
//! `n` -> the newest revision, and the tally of all records: their number and the sum of their
//! checksums. Whoever reads all records is compared with it at the end, because sled may leave out
//! what it cannot read.
//!
//! # Durability
//! sled calls a write durable after `flush()`, and on Linux that is `sync_file_range`: a power cut
//! may take back what it flushed. So after each flush our own handle of the database file is
//! synced, and the files beside it, and only then the journal lets go of what was written. sled's
//! own flush timer is off.
//!
//! But sled builds on what it believes to be durable. It writes a segment over as soon as what was
//! in it has been written elsewhere; and the header of a segment tells how far those before it are
//! whole, which a start does not check again. Both are two segments behind what is being written.
//! So that they are true after a power cut, less than one segment is ever written between two
//! syncs: the tree is written in batches that are small, each with a sync of its own.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io,
    ops::{Bound, Range},
    os::unix::fs::FileExt as _,
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    time::{Duration, Instant},
};

use super::{
    data_dir::failed,
    event_log,
    memtable::{Memtable, Mutation},
    page::{self, Record, RecordChecksum},
};
use crate::store::{Retention, Revision, StoreError, StoredEvent, codec::corrupt};

/// sled puts a page of its own of more than a quarter of this in a file by itself, a blob, which
/// costs a sync of its own. It holds at most 17 of our values, and few are longer than a chunk that
/// ends with the event of a hundred users with the longest ids, 43 KiB.
const SEGMENT_BYTES: usize = 4 << 20;
/// After how long another flush is begun, and then after twice as long.
const FLUSH_RETRY_DELAY: Duration = Duration::from_millis(500);
/// Records that are read at once where all are.
const READ_RECORDS: usize = 1_024;
/// A file is read and written again in pieces of this size.
const REWRITTEN_BYTES: usize = 1 << 20;
/// For how long sled's own lock is waited for, under ours.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
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

/// An open tree. A handle: cheap to clone.
#[derive(Clone)]
pub(super) struct Tree {
    db: sled::Db,
    /// Our own handle of the database file, to sync it.
    file: Arc<File>,
    /// Where sled puts what is too long for the database file.
    blobs: PathBuf,
    touched: Arc<Mutex<TouchedPages>>,
}

impl Tree {
    /// Opens the tree, creating it where there is none, and puts on the disk what is not there yet.
    /// A file that `is_suspect`, because a sync of it has failed, is written again as it is read:
    /// the kernel holds pages for synced that may not be on the disk. Errors: [`StoreError::Full`],
    /// [`StoreError::Corrupt`], [`StoreError::Unavailable`].
    pub(super) fn open(
        path: &Path,
        cache_bytes: u64,
        is_suspect: bool,
    ) -> Result<Self, StoreError> {
        intact(|| {
            remove_unfinished(path).map_err(|error| failed(path, &error))?;
            if is_suspect {
                rewrite(path).map_err(|error| failed(path, &error))?;
            }
            let config = sled::Config::new()
                .path(path)
                .segment_size(SEGMENT_BYTES)
                .cache_capacity(cache_bytes);
            let sync = |place: &Path| {
                let synced = File::open(place).and_then(|handle| handle.sync_all());
                synced.map_err(|error| failed(place, &error))
            };
            // What a process that was killed has written and not synced is on the disk before sled
            // builds on it.
            if path.join("db").exists() {
                sync(&path.join("db"))?;
            }
            let db = open_when_free(&config.flush_every_ms(None))?;
            flush(&db)?;
            let file = File::open(path.join("db")).map_err(|error| failed(path, &error))?;
            // And what sled has made of it, or created, before it counts.
            for place in [&path.join("db"), &path.join("conf"), path, path.parent().unwrap_or(path)]
            {
                sync(place)?;
            }
            Ok(Self {
                db,
                file: Arc::new(file),
                blobs: path.join("blobs"),
                touched: Arc::default(),
            })
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
            let Some(value) = self.db.get(LATEST).map_err(failure)? else {
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
            touched.add(&self.db, &first)?;
            records.retain(|record| record.key[..] >= *from);
            for pair in self.db.range((Bound::Excluded(first), Bound::Excluded(vec![PAGE + 1]))) {
                let (fence, value) = pair.map_err(failure)?;
                if records.len() >= count {
                    return Ok((records, Some(fence[1..].to_vec())));
                }
                touched.add(&self.db, &fence)?;
                records.extend(page::decode(&fence, &value)?);
            }
            touched.collect(&self.db)?;
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
                self.write(batch)?;
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
                self.write(batch)?;
            }
            if chunks.is_empty() {
                let mut batch = sled::Batch::default();
                batch.insert(LATEST, tally.value(memtable.revision.max(revision)));
                self.write(batch)?;
            }
            collect_garbage(changes.len() + chunks.len());
            Ok(())
        })
    }

    /// Puts a batch on stable storage.
    fn write(&self, batch: sled::Batch) -> Result<(), StoreError> {
        self.db.apply_batch(batch).map_err(failure)?;
        flush(&self.db)?;
        self.sync()
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
            touched.add(&self.db, &fence)?;
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

    /// Puts the database file on the disk, and the blobs, which sled never syncs.
    fn sync(&self) -> Result<(), StoreError> {
        let blobs = || {
            let places = fs::read_dir(&self.blobs)?
                .map(|blob| Ok(blob?.path()))
                .collect::<io::Result<Vec<_>>>()?;
            let more = if places.is_empty() { None } else { Some(&self.blobs) };
            places.iter().chain(more).try_for_each(|place| File::open(place)?.sync_all())
        };
        let synced = self.file.sync_data().and_then(|()| blobs());
        synced.map_err(|error| StoreError::Unavailable(format!("fdatasync: {error}")))
    }

    /// The first commit whose event is kept; nothing where none is.
    pub(super) fn oldest_event(&self) -> Result<Option<Revision>, StoreError> {
        intact(|| {
            let Some(pair) = self.db.scan_prefix([EVENTS]).next() else { return Ok(None) };
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
            let first =
                self.db.range(events_key(0)..=start).next_back().transpose().map_err(failure)?;
            let first = first.map_or(start.as_slice().into(), |(key, _)| key);
            for pair in self.db.range(first..events_key(revisions.end).as_slice().into()) {
                let (key, value) = pair.map_err(failure)?;
                if let Some(touched) = &mut touched {
                    touched.add(&self.db, &key)?;
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
            for pair in self.db.scan_prefix([EVENTS]) {
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
        match self.db.range(vec![PAGE]..=key).next_back() {
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
        for pair in self.db.scan_prefix([EVENTS]).take(most) {
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

/// Which values of the tree were looked at, so that sled's cache is held to its bound.
///
/// sled notes accesses in 256 queues, by page, and looks whether a queue's pages are to go only
/// when 64 accesses are in it. So up to 16,384 pages stay in memory whatever the bound: with ours,
/// 100 MiB and more. Looking 64 times at some of the pages of each queue makes it look.
#[derive(Default)]
struct TouchedPages {
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

    fn add(&mut self, db: &sled::Db, key: &[u8]) -> Result<(), StoreError> {
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

    fn collect(&self, db: &sled::Db) -> Result<(), StoreError> {
        for key in &self.keys {
            for _ in 0..Self::ACCESSES {
                db.get(key).map_err(failure)?;
            }
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

/// Writes all that sled has in its buffers. A write of one of sled's own threads that fails notes
/// its error and wakes nobody, so that a flush may wait for it for ever; whoever flushes after that
/// wakes all. So while a flush takes long, others are begun.
fn flush(db: &sled::Db) -> Result<(), StoreError> {
    std::thread::scope(|scope| {
        let (tell, told) = mpsc::channel();
        let mut retry_delay = FLUSH_RETRY_DELAY;
        loop {
            let tell = tell.clone();
            let flush = move || drop(tell.send(intact(|| db.flush().map(drop).map_err(failure))));
            // Where no thread can be made now, the next turn tries again.
            let _ = std::thread::Builder::new()
                .name("store-flush".to_owned())
                .spawn_scoped(scope, flush);
            if let Ok(flushed) = told.recv_timeout(retry_delay) {
                return flushed;
            }
            retry_delay *= 2;
        }
    })
}

/// Removes what an open that was broken off has left half written, and sled takes for damage: a
/// file of its own snapshot that was not renamed yet, and its settings, which are always the same.
fn remove_unfinished(path: &Path) -> io::Result<()> {
    if !path.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_unfinished = match name.to_str() {
            Some("conf") => {
                fs::read(entry.path())?.split_last_chunk().is_none_or(|(settings, sum)| {
                    crc32fast::hash(settings) != u32::from_le_bytes(*sum)
                })
            }
            name => {
                name.is_some_and(|name| name.starts_with("snap.") && name.ends_with(".generating"))
            }
        };
        if is_unfinished {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Writes every file of a tree again as it is read, so that a sync puts all of it on the disk.
fn rewrite(path: &Path) -> io::Result<()> {
    if !path.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        let entry = entry?.path();
        if entry.is_dir() {
            rewrite(&entry)?;
            continue;
        }
        let file = File::options().read(true).write(true).open(&entry)?;
        let (mut bytes, mut at) = (vec![0; REWRITTEN_BYTES], 0);
        loop {
            let read = file.read_at(&mut bytes, at)?;
            if read == 0 {
                break;
            }
            file.write_all_at(&bytes[..read], at)?;
            at += read as u64;
        }
        file.sync_all()?;
    }
    File::open(path)?.sync_all()
}

fn events_key(revision: Revision) -> [u8; 9] {
    let mut key = [EVENTS; 9];
    key[1..].copy_from_slice(&revision.to_be_bytes());
    key
}

/// Frees the pages that a batch has replaced. sled leaves them to crossbeam's epochs, which collect
/// a little with every 128th batch, so that large batches leave gigabytes behind; each flush here
/// frees about 500 pages, and a change replaces one or two.
fn collect_garbage(changes: usize) {
    for _ in 0..changes / 128 + 1 {
        crossbeam_epoch::pin().flush();
    }
}

/// We hold the lock of the directory, so if sled's own is taken, the threads of a store that this
/// process has dropped are still letting it go.
fn open_when_free(config: &sled::Config) -> Result<sled::Db, StoreError> {
    let started = Instant::now();
    loop {
        match config.open() {
            Err(error)
                if started.elapsed() < LOCK_TIMEOUT
                    && error.to_string().contains("could not acquire lock") =>
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            opened => return opened.map_err(failure),
        }
    }
}

/// sled panics where it meets a damaged page.
fn intact<T>(read: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    std::panic::catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|panic| {
        let what = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or(panic.downcast_ref::<&str>().copied());
        Err(StoreError::Corrupt {
            place: "the database file".to_owned(),
            what: what.unwrap_or("it cannot be read").to_owned(),
        })
    })
}

fn failure(error: sled::Error) -> StoreError {
    match error {
        sled::Error::Io(error) if error.kind() == io::ErrorKind::StorageFull => {
            StoreError::Full(error.to_string())
        }
        sled::Error::Corruption { at, .. } => StoreError::Corrupt {
            place: format!("{at:?} of the database file"),
            what: "sled found a damaged page".to_owned(),
        },
        other => StoreError::Unavailable(other.to_string()),
    }
}
