//! The form of a backup file: all records of one revision, the same for every engine.
//!
//! The first line is `mute-service backup 1`, with the version of the form. Frames follow: a tag,
//! the length of the rest (4 bytes, little-endian) and a sealed message of `mute.store.v1`. The
//! first frame, `h`, is a `BackupHeader`; each `p` is a page of records in the order of keys; the
//! last, `e`, is a `BackupEnd` with the number of records and the SHA-256 of all bytes before it.
//! Nothing follows it. The checksum of a frame has its number in it, so that one which is lost,
//! doubled or out of place is found out where it happens.

use std::io::{self, Read};

use prost::Message;
use sha2::{Digest as _, Sha256};

use super::{
    Entry, Revision, StoreError, codec,
    embedded::page::{self, Record},
};
use crate::proto::store_v1 as pb;

const NAME: &str = "mute-service backup ";
const FIRST_LINE: &[u8] = b"mute-service backup 1\n";
const HEADER: u8 = b'h';
const PAGE: u8 = b'p';
const END: u8 = b'e';
const LENGTH_BYTES: usize = 4;
/// A frame is closed beyond this many bytes of records.
const FRAME_BYTES: usize = 256 << 10;
/// More than any frame has: a record and its key are far below 1 MiB.
const MAX_FRAME_BYTES: u32 = 16 << 20;

/// What a backup says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// All records are as of this commit.
    pub revision: Revision,
    /// When it was taken, in Unix milliseconds.
    pub at_ms: u64,
    /// Name and version of the program that has taken it.
    pub program: String,
}

/// What is wrong with a backup.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum BackupError {
    #[error("it is no backup of mute-service")]
    Foreign,
    #[error("it is a backup of another version, \"{0}\", and this program knows version 1")]
    Version(String),
    #[error("it is damaged at byte {at}: {what}")]
    Damaged { at: u64, what: String },
    #[error(transparent)]
    Read(#[from] io::Error),
}

/// Writes a backup, as bytes to be put one after the other.
pub struct Writer {
    frames: u64,
    records: u64,
    hash: Sha256,
}

impl Writer {
    /// A writer, and what a backup begins with.
    #[must_use]
    pub fn begin(header: &Header) -> (Self, Vec<u8>) {
        let mut writer = Self { frames: 0, records: 0, hash: Sha256::new_with_prefix(FIRST_LINE) };
        let Header { revision, at_ms, program } = header.clone();
        let frame = writer.message(HEADER, &pb::BackupHeader { revision, at_ms, program });
        (writer, [FIRST_LINE, &frame].concat())
    }

    /// Some records, which follow those before them in the order of keys, in as many frames as they
    /// need.
    pub fn records(&mut self, entries: Vec<Entry>) -> Vec<Vec<u8>> {
        let (mut frames, mut page, mut bytes) = (Vec::new(), Vec::new(), 0);
        for Entry { key, value, revision } in entries {
            bytes += key.len() + value.len();
            page.push(Record { key, revision, value });
            if bytes >= FRAME_BYTES {
                frames.push(self.page(&std::mem::take(&mut page)));
                bytes = 0;
            }
        }
        if !page.is_empty() {
            frames.push(self.page(&page));
        }
        frames
    }

    /// What a backup ends with.
    #[must_use]
    pub fn end(mut self) -> Vec<u8> {
        let sha256 = self.hash.clone().finalize().to_vec();
        self.message(END, &pb::BackupEnd { records: self.records, sha256 })
    }

    fn page(&mut self, records: &[Record]) -> Vec<u8> {
        self.records += records.len() as u64;
        self.write_frame(PAGE, &page::encode(&frame_key(PAGE, self.frames), records))
    }

    fn message<M: Message>(&mut self, tag: u8, message: &M) -> Vec<u8> {
        self.write_frame(tag, &codec::frame(&frame_key(tag, self.frames), message))
    }

    fn write_frame(&mut self, tag: u8, framed: &[u8]) -> Vec<u8> {
        // A frame is below 16 MiB.
        let length = u32::try_from(framed.len()).unwrap_or(u32::MAX);
        let frame = [&[tag], &length.to_le_bytes()[..], framed].concat();
        self.hash.update(&frame);
        self.frames += 1;
        frame
    }
}

/// Reads a backup, and finds whatever is not as it was written.
pub struct Reader<R> {
    from: R,
    /// Bytes read.
    at: u64,
    frames: u64,
    records: u64,
    hash: Sha256,
    last_key: Vec<u8>,
    ended: bool,
}

impl<R: Read> Reader<R> {
    /// Reads the beginning.
    pub fn begin(from: R) -> Result<(Self, Header), BackupError> {
        let hash = Sha256::new();
        let mut reader =
            Self { from, at: 0, frames: 0, records: 0, hash, last_key: Vec::new(), ended: false };
        let line = reader.take(FIRST_LINE.len() as u64)?;
        if line != FIRST_LINE {
            let version = std::str::from_utf8(&line).ok().and_then(|line| line.strip_prefix(NAME));
            return Err(version.map_or(BackupError::Foreign, |version| {
                BackupError::Version(version.trim_end().to_owned())
            }));
        }
        reader.hash.update(&line);
        let (tag, framed, number) = reader.read_frame()?;
        if tag != HEADER {
            return Err(reader.damaged("the header is not where it should be"));
        }
        let header = codec::unframe(&frame_key(tag, number), &framed);
        let pb::BackupHeader { revision, at_ms, program } =
            header.map_err(|error| reader.broken(&error))?;
        Ok((reader, Header { revision, at_ms, program }))
    }

    /// The next records; nothing once the end was read and found right.
    pub fn records(&mut self) -> Result<Option<Vec<Entry>>, BackupError> {
        if self.ended {
            return Ok(None);
        }
        let hash = self.hash.clone();
        let (tag, framed, number) = self.read_frame()?;
        let key = frame_key(tag, number);
        match tag {
            PAGE => {
                let records = page::decode(&key, &framed).map_err(|error| self.broken(&error))?;
                self.count(&records)?;
                let entry = |Record { key, revision, value }| Entry { key, value, revision };
                Ok(Some(records.into_iter().map(entry).collect()))
            }
            END => {
                let end = codec::unframe(&key, &framed).map_err(|error| self.broken(&error))?;
                self.check_end(&end, hash)?;
                self.ended = true;
                Ok(None)
            }
            _ => Err(self.damaged("neither records nor an end are there")),
        }
    }

    fn count(&mut self, records: &[Record]) -> Result<(), BackupError> {
        for record in records {
            if self.records > 0 && record.key <= self.last_key {
                return Err(self.damaged("its records are not in the order of keys"));
            }
            self.last_key.clone_from(&record.key);
            self.records += 1;
        }
        Ok(())
    }

    fn check_end(&mut self, end: &pb::BackupEnd, hash: Sha256) -> Result<(), BackupError> {
        if end.records != self.records {
            return Err(
                self.damaged(&format!("it has {} records, and had {}", self.records, end.records))
            );
        }
        if end.sha256 != hash.finalize().to_vec() {
            return Err(self.damaged("its bytes have another SHA-256 than they had"));
        }
        match self.from.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(self.damaged("something follows its end")),
        }
    }

    /// Tag, sealed message and number of the next frame.
    fn read_frame(&mut self) -> Result<(u8, Vec<u8>, u64), BackupError> {
        let head = self.take(1 + LENGTH_BYTES as u64)?;
        let &[tag, a, b, c, d] = head.as_slice() else { return Err(self.cut()) };
        let length = u32::from_le_bytes([a, b, c, d]);
        if length > MAX_FRAME_BYTES {
            return Err(self.damaged("a frame that is too long"));
        }
        let framed = self.take(length.into())?;
        if framed.len() < length as usize {
            return Err(self.cut());
        }
        self.hash.update(&head);
        self.hash.update(&framed);
        self.frames += 1;
        Ok((tag, framed, self.frames - 1))
    }

    /// So many bytes, or as many as there are.
    fn take(&mut self, bytes: u64) -> Result<Vec<u8>, BackupError> {
        let mut taken = Vec::new();
        self.at += self.from.by_ref().take(bytes).read_to_end(&mut taken)? as u64;
        Ok(taken)
    }

    fn cut(&self) -> BackupError {
        self.damaged("it ends too early: it was cut, or not written to its end")
    }

    fn broken(&self, error: &StoreError) -> BackupError {
        match error {
            StoreError::Corrupt { what, .. } => self.damaged(what),
            other => self.damaged(&other.to_string()),
        }
    }

    /// Somewhere before the place that was read up to.
    fn damaged(&self, what: &str) -> BackupError {
        BackupError::Damaged { at: self.at, what: what.to_owned() }
    }
}

/// What goes into the checksum of a frame beside its message.
fn frame_key(tag: u8, number: u64) -> Vec<u8> {
    [b"backup", &[tag][..], &number.to_be_bytes()].concat()
}
