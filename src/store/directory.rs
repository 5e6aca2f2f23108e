//! The data directory of an embedded engine, beside its database: who has it open, how the last stop was, and how far it was synced.
//!
//! `LOCK` is held while a process has the directory open. `RUNNING` is there from an open to an orderly close. `SYNCED` has the newest revision
//! that was synced: written after each sync and not synced itself, so that it is never ahead of the database, and survives every stop of the
//! process. A database that holds less than that was damaged, or is not the one that was here. `RESTORING` is there while a backup is being put
//! back: what it stands beside is no store yet.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{Revision, StoreError};

/// For how long a directory in use is waited for.
const LETTING_GO: Duration = Duration::from_millis(500);

pub(super) struct Directory {
    path: PathBuf,
    /// The last stop was not an orderly one.
    pub(super) unclean: bool,
    /// The newest revision that an earlier process has synced.
    pub(super) noted: Revision,
    synced: File,
    /// Held, not read: dropping it lets the next process in.
    _lock: File,
}

const LOCK: &str = "LOCK";
const RUNNING: &str = "RUNNING";
const SYNCED: &str = "SYNCED";
const RESTORING: &str = "RESTORING";
/// What a new file system has in its root.
const OF_THE_DISK: &str = "lost+found";

impl Directory {
    /// Errors: [`StoreError::InUse`], [`StoreError::Corrupt`] where `SYNCED` is damaged or a restore has not come to its end,
    /// [`StoreError::Unavailable`].
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        create(path)?;
        let lock = lock(path)?;
        if path.join(RESTORING).exists() {
            let what = "a restore into it has not come to its end; empty it first".to_owned();
            return Err(StoreError::Corrupt { place: path.display().to_string(), what });
        }
        Self::enter(path, lock)
    }

    /// Takes an empty directory, or makes it, for a backup to be put in: it is no store before [`Self::complete`], whatever happens.
    /// Errors: [`StoreError::NotEmpty`], [`StoreError::InUse`], [`StoreError::Full`], [`StoreError::Unavailable`].
    pub(super) fn begin_restore(path: &Path) -> Result<Self, StoreError> {
        create(path)?;
        for entry in fs::read_dir(path).map_err(|error| failed(path, &error))? {
            if entry.map_err(|error| failed(path, &error))?.file_name() != OF_THE_DISK {
                return Err(StoreError::NotEmpty { directory: path.display().to_string() });
            }
        }
        // Of two that find it empty one makes this file.
        let marker = path.join(RESTORING);
        let marked = File::create_new(&marker).and_then(|file| file.sync_all()).and_then(|()| sync_directory(path));
        marked.map_err(|error| failed(&marker, &error))?;
        Self::enter(path, lock(path)?)
    }

    /// Makes it a store that ends with this revision, once all else is on the disk.
    pub(super) fn complete(&self, revision: Revision) -> Result<(), StoreError> {
        self.note(revision)?;
        self.close()?;
        let completed = sync_directory(&self.path).and_then(|()| fs::remove_file(self.path.join(RESTORING)));
        completed.and_then(|()| sync_directory(&self.path)).map_err(|error| failed(&self.path, &error))
    }

    /// Empties a directory that was not completed. Where that fails too, it stays marked, and is refused.
    pub(super) fn abandon(self) {
        let Self { path, .. } = self;
        let emptied = fs::remove_dir_all(path.join("store"))
            .and_then(|()| [RUNNING, SYNCED, LOCK, RESTORING].iter().try_for_each(|name| fs::remove_file(path.join(name))));
        if let Err(error) = emptied {
            tracing::warn!(%error, directory = %path.display(), "what an unfinished restore has left could not be removed");
        }
    }

    fn enter(path: &Path, lock: File) -> Result<Self, StoreError> {
        let marker = path.join(RUNNING);
        let unclean = marker.exists();
        File::create(&marker).and_then(|file| file.sync_all()).map_err(|error| failed(&marker, &error))?;
        let (synced, noted) = open_synced(&path.join(SYNCED))?;
        Ok(Self { path: path.to_path_buf(), unclean, noted, synced, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Notes a revision that was synced.
    pub(super) fn note(&self, revision: Revision) -> Result<(), StoreError> {
        self.synced.write_all_at(&digits(revision), 0).map_err(|error| failed(&self.path, &error))
    }

    /// Marks the stop as an orderly one.
    pub(super) fn close(&self) -> Result<(), StoreError> {
        let closed = self.synced.sync_all().and_then(|()| fs::remove_file(self.path.join(RUNNING)));
        closed.map_err(|error| failed(&self.path, &error))
    }
}

/// Whether a store was ever opened here.
pub(super) fn is_store(path: &Path) -> bool {
    path.join(SYNCED).exists()
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Always as long, so that one write in place replaces the whole.
fn digits(revision: Revision) -> Vec<u8> {
    format!("{revision:020}\n").into_bytes()
}

fn open_synced(path: &Path) -> Result<(File, Revision), StoreError> {
    let known = path.exists();
    let file = File::options().create(true).truncate(false).read(true).write(true).open(path);
    let file = file.map_err(|error| failed(path, &error))?;
    if !known {
        file.write_all_at(&digits(0), 0).and_then(|()| file.sync_all()).map_err(|error| failed(path, &error))?;
        return Ok((file, 0));
    }
    let text = fs::read_to_string(path).unwrap_or_default();
    let noted = text
        .trim_end()
        .parse()
        .map_err(|_| StoreError::Corrupt { place: path.display().to_string(), what: "it holds no revision".to_owned() })?;
    Ok((file, noted))
}

fn lock(path: &Path) -> Result<File, StoreError> {
    let file = File::options().create(true).truncate(false).write(true).open(path.join(LOCK));
    let file = file.map_err(|error| failed(path, &error))?;
    let started = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            // Whoever has just been told to stop may need a moment.
            Err(fs::TryLockError::WouldBlock) if started.elapsed() < LETTING_GO => std::thread::sleep(Duration::from_millis(5)),
            Err(fs::TryLockError::WouldBlock) => return Err(StoreError::InUse { directory: path.display().to_string() }),
            Err(fs::TryLockError::Error(error)) => return Err(failed(path, &error)),
        }
    }
}

/// Creates a directory where there is none, and those that lead to it, so that they are there after a power cut too.
pub(super) fn create(path: &Path) -> Result<(), StoreError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !parent.exists() {
        create(parent)?;
    }
    let synced = || sync_directory(parent);
    let created = match fs::create_dir(path) {
        // Whoever has created it may have been killed before this. Where its parent cannot be read, another user has created it.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            synced().or_else(|error| if error.kind() == io::ErrorKind::PermissionDenied { Ok(()) } else { Err(error) })
        }
        created => created.and_then(|()| synced()),
    };
    created.map_err(|error| failed(path, &error))
}

/// An error of the file system at this path.
pub(super) fn failed(path: &Path, error: &io::Error) -> StoreError {
    match error.kind() {
        io::ErrorKind::StorageFull => StoreError::Full(format!("{}: {error}", path.display())),
        _ => StoreError::Unavailable(format!("{}: {error}", path.display())),
    }
}
