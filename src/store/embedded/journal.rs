//! The journal of an embedded engine: every commit is in it, and synced, before it is answered, and
//! stays until the tree has it.
//!
//! A file holds the commits of one memtable and is named after the commit before the first of them.
//! An entry is its length (4 bytes, little-endian) and a sealed `JournalEntry`; a length of 0 ends
//! a file. Files are written with zeros ahead, because a sync that has to change the size of a file
//! takes twice as long.
//!
//! Replay of a file stops at the first entry that is truncated, damaged or out of order. A group is
//! one write and one sync, and a power cut may keep any of the pages that were not synced, so that
//! whole entries may follow a damaged one of the last group, which was not answered. Each entry
//! says up to which commit everything was synced before its group was written. So one that says
//! this of a commit which cannot be read proves that the file was damaged: [`StoreError::Corrupt`].
//! Where nothing follows the damage, whoever opens the journal knows what was acknowledged.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::data_dir::{self, failed};
use crate::{
    proto::store_v1 as pb,
    store::{
        Commit, Operation, Revision, StoreError,
        codec::{self, corrupt},
    },
};

/// Zeros that are written ahead. At most this much of a disk is taken for nothing.
const AHEAD: usize = 1 << 20;
const LENGTH_BYTES: usize = 4;
/// In the checksum of each entry, so that no other record passes for one.
const FRAME_KEY: &[u8] = b"journal";

/// The file that is being written.
pub(super) struct Journal {
    directory: PathBuf,
    /// Of the directory, to sync it: one that is open already can't be refused.
    entries: File,
    path: PathBuf,
    file: File,
    /// Where the next entry goes.
    length: u64,
    /// How far the file is written with zeros.
    ahead: u64,
    buffer: Vec<u8>,
}

impl Journal {
    /// A journal whose file is for the commits after this one. Errors: [`StoreError::Full`],
    /// [`StoreError::Unavailable`].
    pub(super) fn create(directory: &Path, after: Revision) -> Result<Self, StoreError> {
        data_dir::create(directory)?;
        let entries = File::open(directory).map_err(|error| failed(directory, &error))?;
        let (path, file) = new_file(directory, after)?;
        entries.sync_all().map_err(|error| failed(directory, &error))?;
        Ok(Self {
            directory: directory.to_path_buf(),
            entries,
            path,
            file,
            length: 0,
            ahead: 0,
            buffer: Vec::new(),
        })
    }

    /// Goes on in a new file, for the commits after this one.
    pub(super) fn rotate(&mut self, after: Revision) -> Result<(), RotateError> {
        let (path, file) = new_file(&self.directory, after).map_err(RotateError::NotCreated)?;
        if let Err(error) = self.entries.sync_all() {
            let _ = fs::remove_file(&path);
            return Err(RotateError::NotSynced(StoreError::Unavailable(format!(
                "fsync of {}: {error}",
                self.directory.display()
            ))));
        }
        (self.path, self.file, self.length, self.ahead) = (path, file, 0, 0);
        Ok(())
    }

    /// Puts commits on stable storage; all up to `synced` are there already. Errors:
    /// [`StoreError::Full`], after which none of them is there and it may be tried again;
    /// [`StoreError::Unavailable`], after which nobody knows what is there.
    pub(super) fn append(
        &mut self,
        commits: &[Arc<Commit>],
        synced: Revision,
    ) -> Result<(), StoreError> {
        self.buffer.clear();
        for commit in commits {
            let entry = codec::frame(FRAME_KEY, &entry(commit, synced));
            let length = u32::try_from(entry.len())
                .map_err(|_| StoreError::Unavailable("a commit of 4 GiB".to_owned()))?;
            self.buffer.extend_from_slice(&length.to_le_bytes());
            self.buffer.extend_from_slice(&entry);
        }
        if let Err(error) = self.file.write_all_at(&self.buffer, self.length) {
            let error = failed(&self.path, &error);
            self.truncate()?;
            // Whoever is refused is refused for good: the first of several may have been written
            // whole.
            self.sync()?;
            return Err(error);
        }
        self.length += self.buffer.len() as u64;
        if self.length + LENGTH_BYTES as u64 > self.ahead {
            self.preallocate()?;
        }
        self.sync()
    }

    /// Whatever the reason, even a full disk: what a failed sync leaves in the page cache may never
    /// reach the disk.
    fn sync(&self) -> Result<(), StoreError> {
        self.file
            .sync_data()
            .map_err(|error| StoreError::Unavailable(format!("fdatasync: {error}")))
    }

    /// Where there is no room for zeros there may be room for the next entry.
    fn preallocate(&mut self) -> Result<(), StoreError> {
        match self.file.write_all_at(&vec![0; AHEAD], self.length) {
            Ok(()) => self.ahead = self.length + AHEAD as u64,
            Err(_) => self.truncate()?,
        }
        Ok(())
    }

    /// Cuts off what was written by half.
    fn truncate(&mut self) -> Result<(), StoreError> {
        self.ahead = self.length;
        self.file
            .set_len(self.length)
            .map_err(|error| StoreError::Unavailable(format!("{}: {error}", self.path.display())))
    }

    /// Removes the files before the one of the commits after this one. What a file holds at most is
    /// not seen from the name of the next, which may have been left behind empty.
    pub(super) fn remove_before(directory: &Path, after: Revision) -> Result<(), StoreError> {
        let mut files =
            files(directory)?.into_iter().filter(|(first_after, _)| *first_after < after);
        files
            .try_for_each(|(_, path)| fs::remove_file(&path).map_err(|error| failed(&path, &error)))
    }

    /// Removes all files: the tree has everything.
    pub(super) fn remove_all(directory: &Path) -> Result<(), StoreError> {
        files(directory)?
            .iter()
            .try_for_each(|(_, path)| fs::remove_file(path).map_err(|error| failed(path, &error)))
    }

    /// The commits of each file that holds more than what is up to this one. Errors:
    /// [`StoreError::Corrupt`] where a file is missing between two others, or damaged before its
    /// last group.
    pub(super) fn replay(
        directory: &Path,
        newest: Revision,
    ) -> Result<Vec<Vec<Commit>>, StoreError> {
        let (mut newest, mut replayed) = (newest, Vec::new());
        for (after, path) in files(directory)? {
            if after > newest {
                return Err(StoreError::Corrupt {
                    place: path.display().to_string(),
                    what: format!("commits from {} to {after} are missing before it", newest + 1),
                });
            }
            let bytes = read_synced(&path).map_err(|error| failed(&path, &error))?;
            let (commits, rest) = commits(&bytes, after).ok_or_else(|| earlier_version(&path))?;
            let last = commits.last().map_or(after, |commit| commit.revision);
            if says_was_synced(rest, last + 1) {
                let what = format!(
                    "commit {} was synced, and cannot be read at byte {}",
                    last + 1,
                    bytes.len() - rest.len()
                );
                return Err(StoreError::Corrupt { place: path.display().to_string(), what });
            }
            if last > newest {
                newest = last;
                replayed.push(commits);
            }
        }
        Ok(replayed)
    }
}

/// Why there is no new file.
pub(super) enum RotateError {
    /// And none is left behind, or an empty one: it may be tried again.
    NotCreated(StoreError),
    /// Nobody knows what a power cut would leave.
    NotSynced(StoreError),
}

fn new_file(directory: &Path, after: Revision) -> Result<(PathBuf, File), StoreError> {
    let path = directory.join(format!("{after:020}"));
    let file = File::create(&path).map_err(|error| failed(&path, &error))?;
    Ok((path, file))
}

/// The files by the commit before their first, in that order.
fn files(directory: &Path) -> Result<Vec<(Revision, PathBuf)>, StoreError> {
    let mut files = Vec::new();
    if !directory.exists() {
        return Ok(files);
    }
    for entry in fs::read_dir(directory).map_err(|error| failed(directory, &error))? {
        let path = entry.map_err(|error| failed(directory, &error))?.path();
        let after = path.file_name().and_then(|name| name.to_str()?.parse().ok());
        files.push((
            after.ok_or_else(|| {
                corrupt(path.as_os_str().as_encoded_bytes(), "no file of the journal")
            })?,
            path,
        ));
    }
    files.sort();
    Ok(files)
}

/// What is read is on the disk before it counts. Written again, because after a sync that has
/// failed the kernel holds pages for synced that never came to the disk.
fn read_synced(path: &Path) -> io::Result<Vec<u8>> {
    let (mut file, mut bytes) = (File::options().read(true).write(true).open(path)?, Vec::new());
    file.read_to_end(&mut bytes)?;
    file.write_all_at(&bytes, 0)?;
    file.sync_all()?;
    Ok(bytes)
}

fn earlier_version(path: &Path) -> StoreError {
    let what = "it has commits of an earlier version; start that version once more and stop it in order, then start this one";
    StoreError::Unavailable(format!("{}: {what}", path.display()))
}

/// The commits from the beginning up to the first entry that is not whole or not the next, and the
/// bytes from there on. Nothing where one is of a version before tombstones.
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

/// The entry that these bytes begin with, if it is whole, and what follows it.
fn first_entry(bytes: &[u8]) -> Option<(pb::JournalEntry, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<LENGTH_BYTES>()?;
    let length = u32::from_le_bytes(*length) as usize;
    let (entry, rest) = rest.split_at_checked(length).filter(|_| length > 0)?;
    Some((codec::unframe(FRAME_KEY, entry).ok()?, rest))
}

/// Whether a whole entry somewhere in these bytes says that this commit was synced before it.
fn says_was_synced(bytes: &[u8], revision: Revision) -> bool {
    // Nothing begins in the zeros that a file ends with.
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let says = |(entry, _): (pb::JournalEntry, &[u8])| entry.synced_revision >= revision;
    (0..end).any(|at| first_entry(&bytes[at..]).is_some_and(says))
}

fn entry(commit: &Commit, synced: Revision) -> pb::JournalEntry {
    let operation = |operation: &Operation| match operation {
        Operation::Put { key, value } => {
            pb::Operation { key: key.clone(), value: Some(value.clone()), is_prefix: false }
        }
        Operation::Delete { key } => {
            pb::Operation { key: key.clone(), value: None, is_prefix: false }
        }
    };
    pb::JournalEntry {
        revision: commit.revision,
        at_ms: commit.at_ms,
        event: commit.event.clone(),
        operations: commit.operations.iter().map(operation).collect(),
        synced_revision: synced,
    }
}

fn commit(entry: pb::JournalEntry) -> Commit {
    let operation = |operation: pb::Operation| match operation {
        pb::Operation { key, value: Some(value), .. } => Operation::Put { key, value },
        pb::Operation { key, .. } => Operation::Delete { key },
    };
    let operations = entry.operations.into_iter().map(operation).collect();
    Commit { revision: entry.revision, operations, event: entry.event, at_ms: entry.at_ms }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;

    fn write(journal: &mut Journal, revisions: std::ops::RangeInclusive<Revision>) -> Range<usize> {
        let (start, synced) = (journal.length as usize, revisions.start() - 1);
        let commit = |revision| Commit { event: vec![7; 40], ..Commit::nothing(revision) };
        let commits: Vec<_> = revisions.map(|revision| Arc::new(commit(revision))).collect();
        journal.append(&commits, synced).unwrap();
        start..journal.length as usize
    }

    /// A file of three groups, of three commits each: the bytes of each group.
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
    fn damage_before_the_last_group_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let (path, groups) = three_groups(directory.path());
        assert_eq!(replay(directory.path()).unwrap(), 9);
        let bytes = fs::read(&path).unwrap();
        for at in (groups[0].start..groups[1].end).step_by(7) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x40;
            fs::write(&path, damaged).unwrap();
            match replay(directory.path()) {
                Err(StoreError::Corrupt { place, .. }) => {
                    assert_eq!(place, path.display().to_string())
                }
                other => panic!("damaged at {at}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_torn_last_group_ends_the_replay_whichever_of_its_pages_are_there() {
        let directory = tempfile::tempdir().unwrap();
        let (path, groups) = three_groups(directory.path());
        let bytes = fs::read(&path).unwrap();
        let entry_bytes = groups[2].len() / 3;
        for (torn, newest) in [(0, 6), (1, 7), (2, 8)] {
            let mut damaged = bytes.clone();
            damaged[groups[2].start + torn * entry_bytes..][..entry_bytes].fill(0);
            fs::write(&path, damaged).unwrap();
            assert_eq!(replay(directory.path()).unwrap(), newest);
        }
    }

    #[test]
    fn replay_passes_over_no_gap() {
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
    fn a_file_that_is_left_empty_takes_no_other_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(directory.path(), 0).unwrap();
        write(&mut journal, 1..=3);
        // A file that was created for the commits after 3, and could not be used.
        drop(new_file(directory.path(), 3).unwrap());
        write(&mut journal, 4..=6);
        // The tree has the first commits of the file, and no more.
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
