//! The database of the tree: how sled is opened, and how what it writes becomes durable.
//!
//! # Durability
//! sled calls a write durable after `flush()`, which is `sync_file_range` on Linux: a power cut may
//! lose what it flushed. So after each flush we sync the database file, through a handle of our
//! own, and the files beside it; only then may journal files be removed. sled's own flush timer is
//! off.
//!
//! sled also relies on its flushed writes. It reuses a segment as soon as the contents have been
//! written elsewhere, and the header of a segment says up to where the earlier ones are complete,
//! which an open does not check again. Both refer to data that is two segments behind the current
//! write. To keep them true after a power cut, less than one segment is written between two syncs:
//! batches are small, and each has its own sync.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    sync::mpsc,
    time::{Duration, Instant},
};

use crate::store::{StoreError, embedded::data_dir::io_error};

/// sled writes a page of more than a quarter of this size to a file of its own, a blob, which costs
/// another sync. A page has at most 17 of our values, and few values are longer than 43 KiB: a
/// chunk that ends with the event of a hundred users with the longest ids.
const SEGMENT_BYTES: usize = 4 << 20;
/// The first delay before another flush begins; it doubles each time.
const FLUSH_RETRY_DELAY: Duration = Duration::from_millis(500);
const REWRITE_CHUNK_BYTES: usize = 1 << 20;
/// How long an open waits for sled's own lock.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// An open database.
pub(super) struct Database {
    pub(super) db: sled::Db,
    /// Our own handle of the database file, to sync it.
    file: File,
    /// The directory of sled's blobs: pages that are too large for the database file.
    blobs: PathBuf,
}

impl Database {
    /// Opens or creates the database, and syncs all of it. If `is_suspect`, a sync of it has
    /// failed: then its files are rewritten as they are read, because pages that the kernel takes
    /// for synced may not be on the disk. Errors: [`StoreError::Full`], [`StoreError::Corrupt`],
    /// [`StoreError::Unavailable`].
    pub(super) fn open(
        path: &Path,
        cache_bytes: u64,
        is_suspect: bool,
    ) -> Result<Self, StoreError> {
        catch_panic(|| {
            remove_unfinished(path).map_err(|error| io_error(path, &error))?;
            if is_suspect {
                rewrite(path).map_err(|error| io_error(path, &error))?;
            }
            let config = sled::Config::new()
                .path(path)
                .segment_size(SEGMENT_BYTES)
                .cache_capacity(cache_bytes);
            // A process that was killed may have written without a sync. That must be on the disk
            // before sled relies on it.
            if path.join("db").exists() {
                sync(&path.join("db"))?;
            }
            let db = open_when_unlocked(&config.flush_every_ms(None))?;
            flush(&db)?;
            let file = File::open(path.join("db")).map_err(|error| io_error(path, &error))?;
            // The same holds for what sled has recovered or created.
            let parent = path.parent().unwrap_or(path);
            for path in [&path.join("db"), &path.join("conf"), path, parent] {
                sync(path)?;
            }
            Ok(Self { db, file, blobs: path.join("blobs") })
        })
    }

    /// Writes a batch, and returns when it is on stable storage.
    pub(super) fn write(&self, batch: sled::Batch) -> Result<(), StoreError> {
        self.db.apply_batch(batch).map_err(store_error)?;
        flush(&self.db)?;
        self.sync()
    }

    /// Syncs the database file, and the blobs, which sled never syncs.
    fn sync(&self) -> Result<(), StoreError> {
        self.file
            .sync_data()
            .and_then(|()| self.sync_blobs())
            .map_err(|error| StoreError::Unavailable(format!("fdatasync: {error}")))
    }

    fn sync_blobs(&self) -> io::Result<()> {
        let blobs = fs::read_dir(&self.blobs)?
            .map(|blob| Ok(blob?.path()))
            .collect::<io::Result<Vec<_>>>()?;
        let directory = if blobs.is_empty() { None } else { Some(&self.blobs) };
        blobs.iter().chain(directory).try_for_each(|path| File::open(path)?.sync_all())
    }
}

fn sync(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|error| io_error(path, &error))
}

/// Writes all of sled's buffers. When a write on one of sled's own threads fails, sled records the
/// error but wakes no waiting flush, so that a flush may wait forever; the next flush wakes all of
/// them. So while a flush takes long, others begin.
fn flush(db: &sled::Db) -> Result<(), StoreError> {
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        let mut retry_delay = FLUSH_RETRY_DELAY;
        loop {
            let sender = sender.clone();
            let flush = move || {
                let flushed = catch_panic(|| db.flush().map(drop).map_err(store_error));
                drop(sender.send(flushed));
            };
            // If no thread can be spawned, the next round tries again.
            let _ = std::thread::Builder::new()
                .name("store-flush".to_owned())
                .spawn_scoped(scope, flush);
            if let Ok(flushed) = receiver.recv_timeout(retry_delay) {
                return flushed;
            }
            retry_delay *= 2;
        }
    })
}

/// Removes files of an interrupted open that sled takes for damage: a snapshot of its own that was
/// not renamed yet, and a half written `conf`. sled writes `conf` again, always with the same
/// settings.
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

/// Rewrites every file of a directory with its own contents, so that a sync puts all of it on the
/// disk.
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
        let mut chunk = vec![0; REWRITE_CHUNK_BYTES];
        let mut offset = 0;
        loop {
            let read = file.read_at(&mut chunk, offset)?;
            if read == 0 {
                break;
            }
            file.write_all_at(&chunk[..read], offset)?;
            offset += read as u64;
        }
        file.sync_all()?;
    }
    File::open(path)?.sync_all()
}

/// Opens the database, and waits for sled's own lock. We hold the lock of the data directory, so
/// sled's can be taken only by threads of a database that this process has dropped and that are
/// still closing it.
fn open_when_unlocked(config: &sled::Config) -> Result<sled::Db, StoreError> {
    let started = Instant::now();
    loop {
        match config.open() {
            Err(error)
                if started.elapsed() < LOCK_TIMEOUT
                    && error.to_string().contains("could not acquire lock") =>
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            opened => return opened.map_err(store_error),
        }
    }
}

/// Runs a function that uses sled, which panics on a damaged page. Errors: those of the function;
/// [`StoreError::Corrupt`] for a panic.
pub(super) fn catch_panic<T>(
    read: impl FnOnce() -> Result<T, StoreError>,
) -> Result<T, StoreError> {
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

pub(super) fn store_error(error: sled::Error) -> StoreError {
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
