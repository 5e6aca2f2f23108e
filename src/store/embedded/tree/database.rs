//! The database of the tree: how sled is opened, and how what it writes becomes durable.
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
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    sync::mpsc,
    time::{Duration, Instant},
};

use crate::store::{StoreError, embedded::data_dir::failed};

/// sled puts a page of its own of more than a quarter of this in a file by itself, a blob, which
/// costs a sync of its own. It holds at most 17 of our values, and few are longer than a chunk that
/// ends with the event of a hundred users with the longest ids, 43 KiB.
const SEGMENT_BYTES: usize = 4 << 20;
/// After how long another flush is begun, and then after twice as long.
const FLUSH_RETRY_DELAY: Duration = Duration::from_millis(500);
/// A file is read and written again in pieces of this size.
const REWRITTEN_BYTES: usize = 1 << 20;
/// For how long sled's own lock is waited for, under ours.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// An open database.
pub(super) struct Database {
    pub(super) db: sled::Db,
    /// Our own handle of the database file, to sync it.
    file: File,
    /// Where sled puts what is too long for the database file.
    blobs: PathBuf,
}

impl Database {
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
            Ok(Self { db, file, blobs: path.join("blobs") })
        })
    }

    /// Puts a batch on stable storage.
    pub(super) fn write(&self, batch: sled::Batch) -> Result<(), StoreError> {
        self.db.apply_batch(batch).map_err(failure)?;
        flush(&self.db)?;
        self.sync()
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
pub(super) fn intact<T>(read: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
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

pub(super) fn failure(error: sled::Error) -> StoreError {
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
