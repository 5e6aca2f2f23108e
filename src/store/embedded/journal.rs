//! The journal of an embedded engine: the write-ahead log. A commit is in it, and synced, before it
//! is answered, and stays until the tree has it.
//!
//! A file has the commits of one memtable, and is named by the last commit before them. An entry is
//! a length (4 bytes, little-endian) and a framed `JournalEntry`; a length of 0 ends the file.
//! Zeros are preallocated, because a sync that changes the size of a file takes twice as long.
//!
//! Replay of a file stops at the first truncated, damaged or out-of-order entry. That may be a torn
//! write of the last group: a group is one write and one sync, and a power cut may keep any of its
//! pages, so intact entries of an unacknowledged group may follow a damaged one. To tell a torn
//! write from damage, each entry has the last revision that was synced before its group was
//! written. If it names a commit that cannot be read, a synced commit was damaged:
//! [`StoreError::Corrupt`]. Damage with no entry after it is found by the caller, who compares the
//! last commit with the durable revision.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::data_dir::{self, io_error};
use crate::{
    proto::store_v1 as pb,
    store::{
        Commit, Operation, Revision, StoreError,
        codec::{self, corrupt},
    },
};

/// Also the most disk space that the journal wastes.
const PREALLOCATED_BYTES: usize = 1 << 20;
const LENGTH_BYTES: usize = 4;
/// A part of the checksum of each entry, so that no other record is taken for one.
const FRAME_KEY: &[u8] = b"journal";

/// The writer of the journal, with its current file.
pub(super) struct Journal {
    directory: PathBuf,
    /// To sync the directory. It stays open, because a later open may fail for lack of descriptors.
    directory_file: File,
    path: PathBuf,
    file: File,
    /// The offset of the next entry.
    length: u64,
    /// The end of the preallocated zeros.
    preallocated_end: u64,
    buffer: Vec<u8>,
}

impl Journal {
    /// Begins a file for the commits after this one. Errors: [`StoreError::Full`],
    /// [`StoreError::Unavailable`].
    pub(super) fn create(directory: &Path, after: Revision) -> Result<Self, StoreError> {
        data_dir::create(directory)?;
        let directory_file = File::open(directory).map_err(|error| io_error(directory, &error))?;
        let (path, file) = create_file(directory, after)?;
        directory_file.sync_all().map_err(|error| io_error(directory, &error))?;
        Ok(Self {
            directory: directory.to_path_buf(),
            directory_file,
            path,
            file,
            length: 0,
            preallocated_end: 0,
            buffer: Vec::new(),
        })
    }

    /// Begins a new file, for the commits after this one, and continues in it.
    pub(super) fn rotate(&mut self, after: Revision) -> Result<(), RotateError> {
        let (path, file) = create_file(&self.directory, after).map_err(RotateError::NotCreated)?;
        if let Err(error) = self.directory_file.sync_all() {
            let _ = fs::remove_file(&path);
            return Err(RotateError::NotSynced(StoreError::Unavailable(format!(
                "fsync of {}: {error}",
                self.directory.display()
            ))));
        }
        self.path = path;
        self.file = file;
        self.length = 0;
        self.preallocated_end = 0;
        Ok(())
    }

    /// Puts commits on stable storage; all up to `synced` are there already. Errors:
    /// [`StoreError::Full`]: none of them is there, and the caller may try again;
    /// [`StoreError::Unavailable`]: it is unknown which of them are there.
    pub(super) fn append(
        &mut self,
        commits: &[Arc<Commit>],
        synced: Revision,
    ) -> Result<(), StoreError> {
        self.buffer.clear();
        for commit in commits {
            let entry = codec::frame(FRAME_KEY, &entry(commit, synced));
            let length = u32::try_from(entry.len())
                .map_err(|_| StoreError::Unavailable("a commit is larger than 4 GiB".to_owned()))?;
            self.buffer.extend_from_slice(&length.to_le_bytes());
            self.buffer.extend_from_slice(&entry);
        }
        if let Err(error) = self.file.write_all_at(&self.buffer, self.length) {
            let error = io_error(&self.path, &error);
            self.truncate()?;
            // The first of several commits may have been written completely. It must not come back
            // after its caller got an error, so the truncation is synced.
            self.sync()?;
            return Err(error);
        }
        self.length += self.buffer.len() as u64;
        if self.length + LENGTH_BYTES as u64 > self.preallocated_end {
            self.preallocate()?;
        }
        self.sync()
    }

    /// Every error is [`StoreError::Unavailable`], a full disk too: what a failed sync leaves in
    /// the page cache may never reach the disk.
    fn sync(&self) -> Result<(), StoreError> {
        self.file
            .sync_data()
            .map_err(|error| StoreError::Unavailable(format!("fdatasync: {error}")))
    }

    /// Writes zeros after the last entry. A disk without space for them may have space for the next
    /// entry, so failing to write them is not an error.
    fn preallocate(&mut self) -> Result<(), StoreError> {
        match self.file.write_all_at(&vec![0; PREALLOCATED_BYTES], self.length) {
            Ok(()) => self.preallocated_end = self.length + PREALLOCATED_BYTES as u64,
            Err(_) => self.truncate()?,
        }
        Ok(())
    }

    /// Removes a partial write after the last entry.
    fn truncate(&mut self) -> Result<(), StoreError> {
        self.preallocated_end = self.length;
        self.file
            .set_len(self.length)
            .map_err(|error| StoreError::Unavailable(format!("{}: {error}", self.path.display())))
    }

    /// Removes the files of earlier memtables than the one that begins after this commit. A file is
    /// chosen by its own name: the name of the next does not say where it ends, because the next
    /// may be an empty file of a failed rotation.
    pub(super) fn remove_before(directory: &Path, after: Revision) -> Result<(), StoreError> {
        files(directory)?
            .iter()
            .filter(|(file_after, _)| *file_after < after)
            .try_for_each(|(_, path)| fs::remove_file(path).map_err(|error| io_error(path, &error)))
    }

    /// Removes all files. The tree must have every commit.
    pub(super) fn remove_all(directory: &Path) -> Result<(), StoreError> {
        files(directory)?
            .iter()
            .try_for_each(|(_, path)| fs::remove_file(path).map_err(|error| io_error(path, &error)))
    }

    /// The commits of each file that has commits after this one; a file may begin with older ones.
    /// Errors: [`StoreError::Corrupt`] if a file is missing between two others, or one is damaged
    /// before its last group.
    pub(super) fn replay(
        directory: &Path,
        after: Revision,
    ) -> Result<Vec<Vec<Commit>>, StoreError> {
        let mut latest = after;
        let mut replayed = Vec::new();
        for (after, path) in files(directory)? {
            if after > latest {
                return Err(StoreError::Corrupt {
                    place: path.display().to_string(),
                    what: format!("commits {} to {after} are missing before this file", latest + 1),
                });
            }
            let bytes = read_synced(&path).map_err(|error| io_error(&path, &error))?;
            let (commits, rest) = commits(&bytes, after).ok_or_else(|| earlier_version(&path))?;
            let last = commits.last().map_or(after, |commit| commit.revision);
            if proves_synced(rest, last + 1) {
                let what = format!(
                    "commit {} was synced, but cannot be read at byte {}",
                    last + 1,
                    bytes.len() - rest.len()
                );
                return Err(StoreError::Corrupt { place: path.display().to_string(), what });
            }
            if last > latest {
                latest = last;
                replayed.push(commits);
            }
        }
        Ok(replayed)
    }
}

/// Why a new file was not begun.
pub(super) enum RotateError {
    /// There is no new file, or an empty one. The caller may try again.
    NotCreated(StoreError),
    /// A power cut may leave the directory in any state.
    NotSynced(StoreError),
}

fn create_file(directory: &Path, after: Revision) -> Result<(PathBuf, File), StoreError> {
    let path = directory.join(format!("{after:020}"));
    let file = File::create(&path).map_err(|error| io_error(&path, &error))?;
    Ok((path, file))
}

/// All files in order, each with the commit that it is named by.
fn files(directory: &Path) -> Result<Vec<(Revision, PathBuf)>, StoreError> {
    let mut files = Vec::new();
    if !directory.exists() {
        return Ok(files);
    }
    for entry in fs::read_dir(directory).map_err(|error| io_error(directory, &error))? {
        let path = entry.map_err(|error| io_error(directory, &error))?.path();
        let after = path.file_name().and_then(|name| name.to_str()?.parse().ok());
        files.push((
            after.ok_or_else(|| {
                corrupt(path.as_os_str().as_encoded_bytes(), "it is not a journal file")
            })?,
            path,
        ));
    }
    files.sort();
    Ok(files)
}

/// Reads a file, and makes sure that what it reads is on the disk. The file is rewritten, because
/// after a failed sync the kernel takes pages for synced that never reached the disk.
fn read_synced(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::options().read(true).write(true).open(path)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    file.write_all_at(&bytes, 0)?;
    file.sync_all()?;
    Ok(bytes)
}

fn earlier_version(path: &Path) -> StoreError {
    let what = "it has commits of an earlier version; start that version again and stop it cleanly, then start this one";
    StoreError::Unavailable(format!("{}: {what}", path.display()))
}

/// The commits up to the first entry that is not intact or not the next, and the bytes from there
/// on. `None` if an entry is of a version before tombstones.
fn commits(mut bytes: &[u8], mut after: Revision) -> Option<(Vec<Commit>, &[u8])> {
    let mut commits = Vec::new();
    while let Some((entry, rest)) =
        first_entry(bytes).filter(|(entry, _)| entry.revision == after + 1)
    {
        if entry.operations.iter().any(|operation| operation.is_prefix) {
            return None;
        }
        after = entry.revision;
        commits.push(commit(entry));
        bytes = rest;
    }
    Some((commits, bytes))
}

/// The entry at the beginning of these bytes, if it is intact, and the bytes after it.
fn first_entry(bytes: &[u8]) -> Option<(pb::JournalEntry, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<LENGTH_BYTES>()?;
    let length = u32::from_le_bytes(*length) as usize;
    let (entry, rest) = rest.split_at_checked(length).filter(|_| length > 0)?;
    Some((codec::unframe(FRAME_KEY, entry).ok()?, rest))
}

/// Whether an intact entry at any offset of these bytes has a synced revision that includes this
/// commit.
fn proves_synced(bytes: &[u8], revision: Revision) -> bool {
    // No entry begins in the preallocated zeros.
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    (0..end).any(|offset| {
        first_entry(&bytes[offset..]).is_some_and(|(entry, _)| entry.synced_revision >= revision)
    })
}

fn entry(commit: &Commit, synced: Revision) -> pb::JournalEntry {
    pb::JournalEntry {
        revision: commit.revision,
        at_ms: commit.at_ms,
        event: commit.event.clone(),
        operations: commit.operations.iter().map(encode_operation).collect(),
        synced_revision: synced,
    }
}

fn encode_operation(operation: &Operation) -> pb::Operation {
    match operation {
        Operation::Put { key, value } => {
            pb::Operation { key: key.clone(), value: Some(value.clone()), is_prefix: false }
        }
        Operation::Delete { key } => {
            pb::Operation { key: key.clone(), value: None, is_prefix: false }
        }
    }
}

fn decode_operation(operation: pb::Operation) -> Operation {
    match operation {
        pb::Operation { key, value: Some(value), .. } => Operation::Put { key, value },
        pb::Operation { key, .. } => Operation::Delete { key },
    }
}

fn commit(entry: pb::JournalEntry) -> Commit {
    let operations = entry.operations.into_iter().map(decode_operation).collect();
    Commit { revision: entry.revision, operations, event: entry.event, at_ms: entry.at_ms }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;

    fn write(journal: &mut Journal, revisions: std::ops::RangeInclusive<Revision>) -> Range<usize> {
        let start = journal.length as usize;
        let synced = revisions.start() - 1;
        let commits: Vec<_> = revisions
            .map(|revision| Commit { event: vec![7; 40], ..Commit::empty(revision) })
            .map(Arc::new)
            .collect();
        journal.append(&commits, synced).unwrap();
        start..journal.length as usize
    }

    /// Writes a file of three groups of three commits. Returns the byte range of each group.
    fn three_groups(directory: &Path) -> (PathBuf, [Range<usize>; 3]) {
        let mut journal = Journal::create(directory, 0).unwrap();
        let groups = [1..=3, 4..=6, 7..=9].map(|revisions| write(&mut journal, revisions));
        (journal.path, groups)
    }

    fn replay(directory: &Path) -> Result<Revision, StoreError> {
        Ok(Journal::replay(directory, 0)?
            .iter()
            .flatten()
            .last()
            .map_or(0, |commit| commit.revision))
    }

    #[test]
    fn damage_before_the_last_group_names_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let (path, groups) = three_groups(directory.path());
        assert_eq!(replay(directory.path()).unwrap(), 9);
        let bytes = fs::read(&path).unwrap();
        for offset in (groups[0].start..groups[1].end).step_by(7) {
            let mut damaged = bytes.clone();
            damaged[offset] ^= 0x40;
            fs::write(&path, damaged).unwrap();
            match replay(directory.path()) {
                Err(StoreError::Corrupt { place, .. }) => {
                    assert_eq!(place, path.display().to_string())
                }
                other => panic!("damaged at {offset}: {other:?}"),
            }
        }
    }

    #[test]
    fn replay_ends_at_a_torn_write_of_the_last_group() {
        let directory = tempfile::tempdir().unwrap();
        let (path, groups) = three_groups(directory.path());
        let bytes = fs::read(&path).unwrap();
        let entry_bytes = groups[2].len() / 3;
        for (torn, latest) in [(0, 6), (1, 7), (2, 8)] {
            let mut damaged = bytes.clone();
            damaged[groups[2].start + torn * entry_bytes..][..entry_bytes].fill(0);
            fs::write(&path, damaged).unwrap();
            assert_eq!(replay(directory.path()).unwrap(), latest);
        }
    }

    #[test]
    fn replay_does_not_skip_a_gap() {
        let directory = tempfile::tempdir().unwrap();
        let (path, groups) = three_groups(directory.path());
        let bytes = fs::read(&path).unwrap();
        let entry_bytes = groups[2].len() / 3;
        fs::write(
            &path,
            [&bytes[..groups[2].start + entry_bytes], &bytes[groups[2].start + 2 * entry_bytes..]]
                .concat(),
        )
        .unwrap();
        assert_eq!(replay(directory.path()).unwrap(), 7);
        fs::write(&path, [&bytes[..groups[1].start], &bytes[groups[2].start..]].concat()).unwrap();
        assert!(matches!(replay(directory.path()), Err(StoreError::Corrupt { .. })));
    }

    #[test]
    fn an_empty_file_does_not_cause_removal_of_others() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(directory.path(), 0).unwrap();
        write(&mut journal, 1..=3);
        // A file that was created for the commits after 3, and not used.
        drop(create_file(directory.path(), 3).unwrap());
        write(&mut journal, 4..=6);
        // The tree has only the first commits of the file.
        Journal::remove_before(directory.path(), 0).unwrap();
        assert_eq!(replay(directory.path()).unwrap(), 6);
        assert!(journal.rotate(6).is_ok());
        Journal::remove_before(directory.path(), 6).unwrap();
        assert_eq!(
            files(directory.path()).unwrap().iter().map(|(after, _)| *after).collect::<Vec<_>>(),
            [6]
        );
    }
}
