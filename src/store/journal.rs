//! The journal of an embedded engine: every commit is in it, and synced, before it is answered, and stays until the tree has it.
//!
//! A file holds the commits of one generation and is named after the commit before the first of them. An entry is its length (4 bytes,
//! little-endian) and a sealed `JournalEntry`; a length of 0 ends a file. Files are written with zeros ahead, because a sync that has to change
//! the size of a file takes twice as long.
//!
//! A file ends where an entry is not whole or not the next one: that is what a stop leaves of a group that was not answered. An earlier end is
//! found out by whoever opens the journal, who knows what was acknowledged.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Commit, Operation, Revision, StoreError,
    codec::{self, corrupt},
    directory::{self, failed},
};
use crate::proto::store_v1 as pb;

/// Zeros that are written ahead. At most this much of a disk is taken for nothing.
const AHEAD: usize = 1 << 20;
const LENGTH_BYTES: usize = 4;
/// In the checksum of each entry, so that no other record passes for one.
const SEAL: &[u8] = b"journal";

/// The file that is being written.
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    /// Where the next entry goes.
    length: u64,
    /// How far the file is written with zeros.
    ahead: u64,
    buffer: Vec<u8>,
}

impl Journal {
    /// A file for the commits after this one. Errors: [`StoreError::Full`], [`StoreError::Unavailable`].
    pub(super) fn create(directory: &Path, after: Revision) -> Result<Self, StoreError> {
        directory::create(directory)?;
        let path = directory.join(format!("{after:020}"));
        let file = File::create(&path).map_err(|error| failed(&path, &error))?;
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(|error| failed(directory, &error))?;
        Ok(Self { path, file, length: 0, ahead: 0, buffer: Vec::new() })
    }

    /// Puts commits on stable storage. Errors: [`StoreError::Full`], after which none of them is there and it may be tried again;
    /// [`StoreError::Unavailable`], after which nobody knows what is there.
    pub(super) fn append(&mut self, commits: &[Arc<Commit>]) -> Result<(), StoreError> {
        self.buffer.clear();
        for commit in commits {
            let entry = codec::seal(SEAL, &entry(commit));
            let length = u32::try_from(entry.len()).map_err(|_| StoreError::Unavailable("a commit of 4 GiB".to_owned()))?;
            self.buffer.extend_from_slice(&length.to_le_bytes());
            self.buffer.extend_from_slice(&entry);
        }
        if let Err(error) = self.file.write_all_at(&self.buffer, self.length) {
            let error = failed(&self.path, &error);
            self.cut_back()?;
            return Err(error);
        }
        self.length += self.buffer.len() as u64;
        if self.length + LENGTH_BYTES as u64 > self.ahead {
            self.write_ahead()?;
        }
        // Whatever the reason, even a full disk: what a failed sync leaves in the page cache may never reach the disk.
        self.file.sync_data().map_err(|error| StoreError::Unavailable(format!("fdatasync: {error}")))
    }

    /// Where there is no room for zeros there may be room for the next entry.
    fn write_ahead(&mut self) -> Result<(), StoreError> {
        match self.file.write_all_at(&vec![0; AHEAD], self.length) {
            Ok(()) => self.ahead = self.length + AHEAD as u64,
            Err(_) => self.cut_back()?,
        }
        Ok(())
    }

    /// Cuts off what was written by half.
    fn cut_back(&mut self) -> Result<(), StoreError> {
        self.ahead = self.length;
        self.file.set_len(self.length).map_err(|error| StoreError::Unavailable(format!("{}: {error}", self.path.display())))
    }

    /// Removes the files of commits up to this one.
    pub(super) fn remove_up_to(directory: &Path, revision: Revision) -> Result<(), StoreError> {
        let files = files(directory)?;
        let ends = files.iter().skip(1).map(|(after, _)| *after);
        for ((_, path), _) in files.iter().zip(ends).filter(|(_, end)| *end <= revision) {
            fs::remove_file(path).map_err(|error| failed(path, &error))?;
        }
        Ok(())
    }

    /// Removes all files: the tree has everything.
    pub(super) fn remove_all(directory: &Path) -> Result<(), StoreError> {
        files(directory)?.iter().try_for_each(|(_, path)| fs::remove_file(path).map_err(|error| failed(path, &error)))
    }

    /// The commits of each file that holds more than what is up to this one. Errors: [`StoreError::Corrupt`] where a file is missing between two others.
    pub(super) fn replay(directory: &Path, newest: Revision) -> Result<Vec<Vec<Commit>>, StoreError> {
        let (mut newest, mut replayed) = (newest, Vec::new());
        for (after, path) in files(directory)? {
            if after > newest {
                return Err(StoreError::Corrupt {
                    place: path.display().to_string(),
                    what: format!("commits from {} to {after} are missing before it", newest + 1),
                });
            }
            let bytes = read_synced(&path).map_err(|error| failed(&path, &error))?;
            let commits = commits(&bytes, after).ok_or_else(|| earlier_version(&path))?;
            let last = commits.last().map_or(after, |commit| commit.revision);
            if last > newest {
                newest = last;
                replayed.push(commits);
            }
        }
        Ok(replayed)
    }
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
        files.push((after.ok_or_else(|| corrupt(path.as_os_str().as_encoded_bytes(), "no file of the journal"))?, path));
    }
    files.sort();
    Ok(files)
}

/// What a process that was killed has written and not synced is on the disk before it counts.
fn read_synced(path: &Path) -> io::Result<Vec<u8>> {
    let (mut file, mut bytes) = (File::open(path)?, Vec::new());
    file.read_to_end(&mut bytes)?;
    file.sync_all()?;
    Ok(bytes)
}

fn earlier_version(path: &Path) -> StoreError {
    let what = "it has commits of an earlier version; start that version once more and stop it in order, then start this one";
    StoreError::Unavailable(format!("{}: {what}", path.display()))
}

/// The entries from the beginning up to the first that is not whole or not the next. Nothing where one is of a version before tombstones.
fn commits(mut bytes: &[u8], mut after: Revision) -> Option<Vec<Commit>> {
    let mut commits = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() {
        let length = u32::from_le_bytes(*length) as usize;
        let Some((entry, rest)) = rest.split_at_checked(length).filter(|_| length > 0) else { break };
        let Ok(entry) = codec::unseal::<pb::JournalEntry>(SEAL, entry) else { break };
        if entry.revision != after + 1 {
            break;
        }
        if entry.operations.iter().any(|operation| operation.is_prefix) {
            return None;
        }
        after = entry.revision;
        commits.push(commit(entry));
        bytes = rest;
    }
    Some(commits)
}

fn entry(commit: &Commit) -> pb::JournalEntry {
    let operation = |operation: &Operation| match operation {
        Operation::Put { key, value } => pb::Operation { key: key.clone(), value: Some(value.clone()), is_prefix: false },
        Operation::Delete { key } => pb::Operation { key: key.clone(), value: None, is_prefix: false },
    };
    pb::JournalEntry {
        revision: commit.revision,
        at_ms: commit.at_ms,
        event: commit.event.clone(),
        operations: commit.operations.iter().map(operation).collect(),
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
