//! The data directory of an embedded engine, beside its database: who has it open, how the last
//! stop was, and how far it was synced.
//!
//! `LOCK` is held while a process has the directory open. `RUNNING` is there from an open to an
//! orderly close. `DURABLE_REVISION` has the newest revision that was synced: written after each
//! sync and not synced itself, so that it is never ahead of the database, and survives every stop
//! of the process. A database that holds less than that was damaged, or is not the one that was
//! here. It appears whole, under its name, or not at all. `RESTORING` is there while a backup is
//! being put back: what it stands beside is no store yet.
//!
//! `RUNNING` also says whether the database is suspect, because a sync of it has failed. That is
//! not synced either: after a power cut the kernel has nothing that is not on the disk.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::store::{Revision, StoreError};

/// For how long a directory in use is waited for.
const LOCK_TIMEOUT: Duration = Duration::from_millis(500);

pub(super) struct Directory {
    path: PathBuf,
    /// The last stop was not an orderly one.
    pub(super) unclean: bool,
    /// The newest revision that an earlier process has synced.
    pub(super) durable_revision: Revision,
    /// An earlier process has left the database suspect.
    pub(super) was_suspect: bool,
    synced: File,
    running: File,
    /// Held, not read: dropping it lets the next process in.
    _lock: File,
}

const LOCK: &str = "LOCK";
const RUNNING: &str = "RUNNING";
const DURABLE_REVISION: &str = "SYNCED";
const DURABLE_REVISION_NEW: &str = "SYNCED.new";
const RESTORING: &str = "RESTORING";
/// What `RUNNING` says; as long as each other.
const SOUND: &[u8] = b"sound\n";
const SUSPECT: &[u8] = b"doubt\n";
/// What a new file system has in its root.
const LOST_AND_FOUND: &str = "lost+found";

impl Directory {
    /// Errors: [`StoreError::InUse`], [`StoreError::Corrupt`] where `DURABLE_REVISION` is damaged
    /// or a restore has not come to its end, [`StoreError::Unavailable`].
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        create(path)?;
        // One that was there may be anybody's to read. Where it is another's, that one has seen to
        // it.
        let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o700));
        let lock = lock(path)?;
        if path.join(RESTORING).exists() {
            let what = "a restore into it has not come to its end; empty it first".to_owned();
            return Err(StoreError::Corrupt { place: path.display().to_string(), what });
        }
        Self::open_locked(path, lock)
    }

    /// Takes an empty directory, or makes it, for a backup to be put in: it is no store before
    /// [`Self::complete`], whatever happens. Errors: [`StoreError::NotEmpty`],
    /// [`StoreError::InUse`], [`StoreError::Full`], [`StoreError::Unavailable`].
    pub(super) fn begin_restore(path: &Path) -> Result<Self, StoreError> {
        create(path)?;
        for entry in fs::read_dir(path).map_err(|error| failed(path, &error))? {
            if entry.map_err(|error| failed(path, &error))?.file_name() != LOST_AND_FOUND {
                return Err(StoreError::NotEmpty { directory: path.display().to_string() });
            }
        }
        // Of two that find it empty one makes this file.
        let marker = path.join(RESTORING);
        let file = File::create_new(&marker).map_err(|error| failed(&marker, &error))?;
        let marked = file
            .sync_all()
            .and_then(|()| sync_directory(path))
            .map_err(|error| failed(&marker, &error));
        let lock =
            marked.and_then(|()| lock(path)).inspect_err(|_| drop(fs::remove_file(&marker)))?;
        Self::open_locked(path, lock).inspect_err(|_| empty(path))
    }

    /// Makes it a store that ends with this revision, once all else is on the disk.
    pub(super) fn complete(&self, revision: Revision) -> Result<(), StoreError> {
        self.save_durable_revision(revision)?;
        self.close()?;
        let completed =
            sync_directory(&self.path).and_then(|()| fs::remove_file(self.path.join(RESTORING)));
        completed
            .and_then(|()| sync_directory(&self.path))
            .map_err(|error| failed(&self.path, &error))
    }

    /// Empties a directory that was not completed. Where that fails too, it stays marked, and is
    /// refused.
    pub(super) fn abandon(self) {
        empty(&self.path);
    }

    fn open_locked(path: &Path, lock: File) -> Result<Self, StoreError> {
        let marker = path.join(RUNNING);
        let unclean = marker.exists();
        let (running, was_suspect) =
            open_running(&marker).map_err(|error| failed(&marker, &error))?;
        let (synced, durable_revision) = open_durable_revision(path)?;
        Ok(Self {
            path: path.to_path_buf(),
            unclean,
            durable_revision,
            was_suspect,
            synced,
            running,
            _lock: lock,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Notes a revision that was synced.
    pub(super) fn save_durable_revision(&self, revision: Revision) -> Result<(), StoreError> {
        self.synced.write_all_at(&digits(revision), 0).map_err(|error| failed(&self.path, &error))
    }

    /// Does what writes the database and syncs it. It is suspect from before until it was synced: a
    /// process that is killed in between, after a sync has failed and before anybody knows, leaves
    /// pages that the kernel holds for synced and the disk may not have.
    pub(super) fn while_suspect<T>(
        &self,
        sync: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.set_suspect(true);
        let synced = sync()?;
        self.set_suspect(false);
        Ok(synced)
    }

    /// Says whether the database is suspect; a process that starts after a kill is told. As good as
    /// it goes: the disk is one that fails.
    pub(super) fn set_suspect(&self, is_suspect: bool) {
        if let Err(error) = self.running.write_all_at(if is_suspect { SUSPECT } else { SOUND }, 0) {
            tracing::warn!(%error, "the state of the database could not be noted");
        }
    }

    /// Marks the stop as an orderly one.
    pub(super) fn close(&self) -> Result<(), StoreError> {
        let closed = self.synced.sync_all().and_then(|()| fs::remove_file(self.path.join(RUNNING)));
        closed.map_err(|error| failed(&self.path, &error))
    }
}

/// Whether a store was ever opened here.
pub(in crate::store) fn is_store(path: &Path) -> bool {
    path.join(DURABLE_REVISION).exists()
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Always as long, so that one write in place replaces the whole.
fn digits(revision: Revision) -> Vec<u8> {
    format!("{revision:020}\n").into_bytes()
}

/// Whether an earlier process has left it, and has found the database suspect.
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
        create_durable_revision(directory).map_err(|error| failed(&path, &error))?;
    }
    let file = File::options()
        .read(true)
        .write(true)
        .open(&path)
        .map_err(|error| failed(&path, &error))?;
    let text = fs::read_to_string(&path).map_err(|error| failed(&path, &error))?;
    let durable_revision = text.trim_end().parse().map_err(|_| StoreError::Corrupt {
        place: path.display().to_string(),
        what: "it holds no revision".to_owned(),
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

/// Removes what an unfinished restore has made, the mark last. Where that fails the mark stays.
fn empty(path: &Path) {
    let gone = |removed: io::Result<()>| {
        removed.or_else(
            |error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) },
        )
    };
    let files = [RUNNING, DURABLE_REVISION_NEW, DURABLE_REVISION, LOCK, RESTORING];
    let emptied = gone(fs::remove_dir_all(path.join("store")))
        .and_then(|()| files.iter().try_for_each(|name| gone(fs::remove_file(path.join(name)))));
    if let Err(error) = emptied {
        tracing::warn!(%error, directory = %path.display(), "what an unfinished restore has left could not be removed");
    }
}

fn lock(path: &Path) -> Result<File, StoreError> {
    let file = File::options().create(true).truncate(false).write(true).open(path.join(LOCK));
    let file = file.map_err(|error| failed(path, &error))?;
    let started = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            // Whoever has just been told to stop may need a moment.
            Err(fs::TryLockError::WouldBlock) if started.elapsed() < LOCK_TIMEOUT => {
                std::thread::sleep(Duration::from_millis(5))
            }
            Err(fs::TryLockError::WouldBlock) => {
                return Err(StoreError::InUse { directory: path.display().to_string() });
            }
            Err(fs::TryLockError::Error(error)) => return Err(failed(path, &error)),
        }
    }
}

/// Creates a directory where there is none, and those that lead to it, so that they are there after
/// a power cut too.
pub(super) fn create(path: &Path) -> Result<(), StoreError> {
    let parent =
        path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !parent.exists() {
        create(parent)?;
    }
    let synced = || sync_directory(parent);
    let created = match fs::create_dir(path) {
        // Whoever has created it may have been killed before this. Where its parent cannot be read,
        // another user has created it.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => synced().or_else(|error| {
            if error.kind() == io::ErrorKind::PermissionDenied { Ok(()) } else { Err(error) }
        }),
        created => created.and_then(|()| synced()),
    };
    created.map_err(|error| failed(path, &error))
}

/// An error of the file system at this path.
pub(super) fn failed(path: &Path, error: &io::Error) -> StoreError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            StoreError::Full(format!("{}: {error}", path.display()))
        }
        _ => StoreError::Unavailable(format!("{}: {error}", path.display())),
    }
}
