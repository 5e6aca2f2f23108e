//! The data directory of an embedded engine, except for its database and journal: the lock, how the
//! last stop was, and which revision is durable.
//!
//! | file | meaning |
//! | --- | --- |
//! | `LOCK` | locked while a process has the directory open |
//! | `RUNNING` | exists from an open to a clean close; says whether the database is suspect |
//! | `SYNCED` | the durable revision: the latest one that was synced |
//! | `RESTORING` | exists during a restore: the directory is not a store yet |
//!
//! `SYNCED` is written after each sync and not synced itself, so it is never ahead of the database,
//! and it survives every stop of the process. A database with an older revision is damaged, or is
//! not the one that was here. The file is created by a rename, so it is never half written.
//!
//! The database is suspect when a sync of it has failed. `RUNNING` need not be synced to record
//! that: after a power cut the page cache is empty, and what is read is on the disk.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::store::{Revision, StoreError};

/// How long an open waits for the lock.
const LOCK_TIMEOUT: Duration = Duration::from_millis(500);

/// An open data directory. Dropping it releases the lock.
pub(super) struct Directory {
    path: PathBuf,
    /// The last stop was unclean.
    pub(super) was_unclean: bool,
    /// The latest revision that an earlier process has synced.
    pub(super) durable_revision: Revision,
    /// An earlier process has left the database suspect.
    pub(super) was_suspect: bool,
    durable_revision_file: File,
    running_file: File,
    /// Keeps the directory locked.
    _lock_file: File,
}

const LOCK: &str = "LOCK";
const RUNNING: &str = "RUNNING";
const DURABLE_REVISION: &str = "SYNCED";
const DURABLE_REVISION_NEW: &str = "SYNCED.new";
const RESTORING: &str = "RESTORING";
/// The contents of `RUNNING`. They have the same length, so that one write in place replaces the
/// other.
const SOUND: &[u8] = b"sound\n";
const SUSPECT: &[u8] = b"doubt\n";
/// The root of a new file system has this directory.
const LOST_AND_FOUND: &str = "lost+found";

impl Directory {
    /// Opens and locks a directory, and creates it if it does not exist. Errors:
    /// [`StoreError::InUse`]; [`StoreError::Corrupt`] if `SYNCED` is damaged or a restore was
    /// interrupted; [`StoreError::Unavailable`].
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        create(path)?;
        // An existing directory may be readable by everyone. The call fails if another user owns
        // it; then its permissions are that user's concern.
        let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o700));
        let lock_file = lock(path)?;
        if path.join(RESTORING).exists() {
            let what = "a restore into it was interrupted; empty the directory and restore again"
                .to_owned();
            return Err(StoreError::Corrupt { place: path.display().to_string(), what });
        }
        Self::open_locked(path, lock_file)
    }

    /// Prepares an empty or new directory for a restore. It is not a store before
    /// [`Self::complete`], whatever happens. Errors: [`StoreError::NotEmpty`],
    /// [`StoreError::InUse`], [`StoreError::Full`], [`StoreError::Unavailable`].
    pub(super) fn begin_restore(path: &Path) -> Result<Self, StoreError> {
        create(path)?;
        for entry in fs::read_dir(path).map_err(|error| io_error(path, &error))? {
            if entry.map_err(|error| io_error(path, &error))?.file_name() != LOST_AND_FOUND {
                return Err(StoreError::NotEmpty { directory: path.display().to_string() });
            }
        }
        // Two restores may find the directory empty; only one of them creates this file.
        let marker = path.join(RESTORING);
        let file = File::create_new(&marker).map_err(|error| io_error(&marker, &error))?;
        let marked = file
            .sync_all()
            .and_then(|()| sync_directory(path))
            .map_err(|error| io_error(&marker, &error));
        let lock_file =
            marked.and_then(|()| lock(path)).inspect_err(|_| drop(fs::remove_file(&marker)))?;
        Self::open_locked(path, lock_file).inspect_err(|_| remove_restored(path))
    }

    /// Makes the directory a store whose latest revision is this one. All other files must be on
    /// the disk.
    pub(super) fn complete(&self, revision: Revision) -> Result<(), StoreError> {
        self.save_durable_revision(revision)?;
        self.close()?;
        let completed =
            sync_directory(&self.path).and_then(|()| fs::remove_file(self.path.join(RESTORING)));
        completed
            .and_then(|()| sync_directory(&self.path))
            .map_err(|error| io_error(&self.path, &error))
    }

    /// Empties the directory after a failed restore. If that fails too, the marker stays, and an
    /// open refuses the directory.
    pub(super) fn abandon(self) {
        remove_restored(&self.path);
    }

    fn open_locked(path: &Path, lock_file: File) -> Result<Self, StoreError> {
        let marker = path.join(RUNNING);
        let was_unclean = marker.exists();
        let (running_file, was_suspect) =
            open_running(&marker).map_err(|error| io_error(&marker, &error))?;
        let (durable_revision_file, durable_revision) = open_durable_revision(path)?;
        Ok(Self {
            path: path.to_path_buf(),
            was_unclean,
            durable_revision,
            was_suspect,
            durable_revision_file,
            running_file,
            _lock_file: lock_file,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Records that everything up to this revision is synced.
    pub(super) fn save_durable_revision(&self, revision: Revision) -> Result<(), StoreError> {
        self.durable_revision_file
            .write_all_at(&digits(revision), 0)
            .map_err(|error| io_error(&self.path, &error))
    }

    /// Runs a function that writes and syncs the database, and marks the database as suspect from
    /// before it until it succeeds. A process that is killed between a failed sync and its report
    /// leaves pages that the kernel takes for synced and that may not be on the disk.
    pub(super) fn while_suspect<T>(
        &self,
        write_and_sync: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.set_suspect(true);
        let written = write_and_sync()?;
        self.set_suspect(false);
        Ok(written)
    }

    /// Records whether the database is suspect, for the next process. Best effort: this runs on a
    /// disk that fails.
    pub(super) fn set_suspect(&self, is_suspect: bool) {
        let state = if is_suspect { SUSPECT } else { SOUND };
        if let Err(error) = self.running_file.write_all_at(state, 0) {
            tracing::warn!(%error, "the state of the database could not be recorded in RUNNING");
        }
    }

    /// Marks the stop as clean.
    pub(super) fn close(&self) -> Result<(), StoreError> {
        self.durable_revision_file
            .sync_all()
            .and_then(|()| fs::remove_file(self.path.join(RUNNING)))
            .map_err(|error| io_error(&self.path, &error))
    }
}

/// Whether the directory holds a store, or a part of an interrupted restore, which an open refuses.
pub(in crate::store) fn is_store(path: &Path) -> bool {
    path.join(DURABLE_REVISION).exists()
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Fixed length, so that one write in place replaces the whole.
fn digits(revision: Revision) -> Vec<u8> {
    format!("{revision:020}\n").into_bytes()
}

/// Opens or creates the file, and returns whether an earlier process left the database suspect.
fn open_running(path: &Path) -> io::Result<(File, bool)> {
    let file = File::options().create(true).truncate(false).read(true).write(true).open(path)?;
    let was_suspect = fs::read(path)? == SUSPECT;
    if !was_suspect {
        file.write_all_at(SOUND, 0)?;
    }
    file.sync_all()?;
    Ok((file, was_suspect))
}

fn open_durable_revision(directory: &Path) -> Result<(File, Revision), StoreError> {
    let path = directory.join(DURABLE_REVISION);
    if !path.exists() {
        create_durable_revision(directory).map_err(|error| io_error(&path, &error))?;
    }
    let file = File::options()
        .read(true)
        .write(true)
        .open(&path)
        .map_err(|error| io_error(&path, &error))?;
    let text = fs::read_to_string(&path).map_err(|error| io_error(&path, &error))?;
    let durable_revision = text.trim_end().parse().map_err(|_| StoreError::Corrupt {
        place: path.display().to_string(),
        what: "it does not contain a revision".to_owned(),
    })?;
    Ok((file, durable_revision))
}

fn create_durable_revision(directory: &Path) -> io::Result<()> {
    let new = directory.join(DURABLE_REVISION_NEW);
    let file = File::create(&new)?;
    file.write_all_at(&digits(0), 0)?;
    file.sync_all()?;
    fs::rename(&new, directory.join(DURABLE_REVISION))?;
    sync_directory(directory)
}

/// Removes the files of an unfinished restore, the marker last, so that the marker stays if another
/// file cannot be removed.
fn remove_restored(path: &Path) {
    let files = [RUNNING, DURABLE_REVISION_NEW, DURABLE_REVISION, LOCK, RESTORING];
    let removed = ignore_not_found(fs::remove_dir_all(path.join("store"))).and_then(|()| {
        files.iter().try_for_each(|name| ignore_not_found(fs::remove_file(path.join(name))))
    });
    if let Err(error) = removed {
        tracing::warn!(%error, directory = %path.display(), "the files of an unfinished restore could not be removed; empty the directory");
    }
}

fn ignore_not_found(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn lock(path: &Path) -> Result<File, StoreError> {
    let file = File::options().create(true).truncate(false).write(true).open(path.join(LOCK));
    let file = file.map_err(|error| io_error(path, &error))?;
    let started = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            // The process that holds the lock may be about to stop.
            Err(fs::TryLockError::WouldBlock) if started.elapsed() < LOCK_TIMEOUT => {
                std::thread::sleep(Duration::from_millis(5))
            }
            Err(fs::TryLockError::WouldBlock) => {
                return Err(StoreError::InUse { directory: path.display().to_string() });
            }
            Err(fs::TryLockError::Error(error)) => return Err(io_error(path, &error)),
        }
    }
}

/// Creates a directory and its parents if they do not exist, and syncs them, so that they survive a
/// power cut.
pub(super) fn create(path: &Path) -> Result<(), StoreError> {
    let parent =
        path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !parent.exists() {
        create(parent)?;
    }
    let created = match fs::create_dir(path) {
        // The process that created it may have been killed before its sync. A parent that cannot be
        // read means that another user created the directory.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            match sync_directory(parent) {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
                synced => synced,
            }
        }
        created => created.and_then(|()| sync_directory(parent)),
    };
    created.map_err(|error| io_error(path, &error))
}

/// The store's error for an error of the file system at this path.
pub(super) fn io_error(path: &Path, error: &io::Error) -> StoreError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            StoreError::Full(format!("{}: {error}", path.display()))
        }
        _ => StoreError::Unavailable(format!("{}: {error}", path.display())),
    }
}
