//! The format of a backup file: all records as of one revision. It is the same for every engine.
//!
//! The first line is `mute-service backup 1`; the number is the version of the format. Frames
//! follow. A frame is a tag, the length of the rest (4 bytes, little-endian) and a message of
//! `mute.store.v1`, framed by `codec.rs`. The first frame, `h`, is a `BackupHeader`. Each `p` is a
//! page of records in key order. The last, `e`, is a `BackupEnd` with the number of records and the
//! SHA-256 of all bytes before it. Nothing follows it. The checksum of a frame covers the frame's
//! number, so a lost, duplicated or reordered frame is detected where it happens.

use std::io::{self, Read};

use prost::Message;
use sha2::{Digest as _, Sha256};

use super::{
    Entry, Revision, StoreError, codec,
    embedded::page::{self, Record},
};
use crate::{counted::counted, proto::store_v1 as pb};

const NAME: &str = "mute-service backup ";
const FIRST_LINE: &[u8] = b"mute-service backup 1\n";
const HEADER: u8 = b'h';
const PAGE: u8 = b'p';
const END: u8 = b'e';
const LENGTH_BYTES: usize = 4;
/// The writer ends a frame when its records reach this size.
const FRAME_BYTES: usize = 256 << 10;
/// The reader's limit, above every frame: a record and its key are far below 1 MiB.
const MAX_FRAME_BYTES: u32 = 16 << 20;

/// The metadata of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// All records are as of this commit.
    pub revision: Revision,
    /// When the backup was taken, in Unix milliseconds.
    pub at_ms: u64,
    /// Name and version of the program that wrote it.
    pub program: String,
}

/// Why a backup cannot be read.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum BackupError {
    #[error("this is not a mute-service backup")]
    Foreign,
    #[error("its format version is \"{0}\"; this program reads version 1")]
    Version(String),
    #[error("it is damaged at or before byte {at}: {what}; use another backup")]
    Damaged { at: u64, what: String },
    #[error(transparent)]
    Read(#[from] io::Error),
}

/// Encodes a backup. The caller writes the returned bytes one after the other.
pub struct Writer {
    frames: u64,
    records: u64,
    hash: Sha256,
}

impl Writer {
    /// Returns a writer, and the bytes that start the backup.
    #[must_use]
    pub fn begin(header: &Header) -> (Self, Vec<u8>) {
        let mut writer = Self { frames: 0, records: 0, hash: Sha256::new_with_prefix(FIRST_LINE) };
        let Header { revision, at_ms, program } = header.clone();
        let frame = writer.message(HEADER, &pb::BackupHeader { revision, at_ms, program });
        (writer, [FIRST_LINE, &frame].concat())
    }

    /// Encodes the next records in key order, in as many frames as they need.
    pub fn records(&mut self, entries: Vec<Entry>) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut page = Vec::new();
        let mut bytes = 0;
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

    /// The bytes that end the backup.
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

/// Reads a backup, and detects any difference from what was written.
pub struct Reader<R> {
    source: R,
    bytes_read: u64,
    frames: u64,
    records: u64,
    hash: Sha256,
    last_key: Vec<u8>,
    has_ended: bool,
}

impl<R: Read> Reader<R> {
    /// Reads the first line and the header.
    pub fn begin(source: R) -> Result<(Self, Header), BackupError> {
        let mut reader = Self {
            source,
            bytes_read: 0,
            frames: 0,
            records: 0,
            hash: Sha256::new(),
            last_key: Vec::new(),
            has_ended: false,
        };
        let line = reader.read_up_to(FIRST_LINE.len() as u64)?;
        if line != FIRST_LINE {
            let version = std::str::from_utf8(&line).ok().and_then(|line| line.strip_prefix(NAME));
            return Err(version.map_or(BackupError::Foreign, |version| {
                BackupError::Version(version.trim_end().to_owned())
            }));
        }
        reader.hash.update(&line);
        let (tag, framed, number) = reader.read_frame()?;
        if tag != HEADER {
            return Err(reader.damaged("the first frame is not a header"));
        }
        let header = codec::unframe(&frame_key(tag, number), &framed);
        let pb::BackupHeader { revision, at_ms, program } =
            header.map_err(|error| reader.broken(&error))?;
        Ok((reader, Header { revision, at_ms, program }))
    }

    /// The next records in key order; `None` once the end of the backup is verified.
    pub fn records(&mut self) -> Result<Option<Vec<Entry>>, BackupError> {
        if self.has_ended {
            return Ok(None);
        }
        let hash_before = self.hash.clone();
        let (tag, framed, number) = self.read_frame()?;
        let key = frame_key(tag, number);
        match tag {
            PAGE => {
                let records = page::decode(&key, &framed).map_err(|error| self.broken(&error))?;
                self.check_order(&records)?;
                let entry = |Record { key, revision, value }| Entry { key, value, revision };
                Ok(Some(records.into_iter().map(entry).collect()))
            }
            END => {
                let end = codec::unframe(&key, &framed).map_err(|error| self.broken(&error))?;
                self.check_end(&end, hash_before)?;
                self.has_ended = true;
                Ok(None)
            }
            _ => Err(self.damaged("a frame is neither a page of records nor the end")),
        }
    }

    fn check_order(&mut self, records: &[Record]) -> Result<(), BackupError> {
        for record in records {
            if self.records > 0 && record.key <= self.last_key {
                return Err(self.damaged("the records are not in key order"));
            }
            self.last_key.clone_from(&record.key);
            self.records += 1;
        }
        Ok(())
    }

    fn check_end(&mut self, end: &pb::BackupEnd, hash: Sha256) -> Result<(), BackupError> {
        if end.records != self.records {
            return Err(self.damaged(&format!(
                "it has {}, and was written with {}",
                counted(self.records, "record"),
                end.records
            )));
        }
        if end.sha256 != hash.finalize().to_vec() {
            return Err(self.damaged("its SHA-256 is wrong"));
        }
        match self.source.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(self.damaged("there are bytes after its end")),
        }
    }

    /// Tag, framed message and number of the next frame.
    fn read_frame(&mut self) -> Result<(u8, Vec<u8>, u64), BackupError> {
        let head = self.read_up_to(1 + LENGTH_BYTES as u64)?;
        let &[tag, a, b, c, d] = head.as_slice() else { return Err(self.truncated()) };
        let length = u32::from_le_bytes([a, b, c, d]);
        if length > MAX_FRAME_BYTES {
            return Err(self.damaged("a frame is too long"));
        }
        let framed = self.read_up_to(length.into())?;
        if framed.len() < length as usize {
            return Err(self.truncated());
        }
        self.hash.update(&head);
        self.hash.update(&framed);
        self.frames += 1;
        Ok((tag, framed, self.frames - 1))
    }

    /// Reads this many bytes, or fewer at the end of the source.
    fn read_up_to(&mut self, bytes: u64) -> Result<Vec<u8>, BackupError> {
        let mut read = Vec::new();
        self.bytes_read += self.source.by_ref().take(bytes).read_to_end(&mut read)? as u64;
        Ok(read)
    }

    fn truncated(&self) -> BackupError {
        self.damaged("it is truncated, or was never written completely")
    }

    fn broken(&self, error: &StoreError) -> BackupError {
        match error {
            StoreError::Corrupt { what, .. } => self.damaged(what),
            other => self.damaged(&other.to_string()),
        }
    }

    /// The damage lies at or before the bytes read so far.
    fn damaged(&self, what: &str) -> BackupError {
        BackupError::Damaged { at: self.bytes_read, what: what.to_owned() }
    }
}

/// The key in the checksum of a frame's message.
fn frame_key(tag: u8, number: u64) -> Vec<u8> {
    [b"backup", &[tag][..], &number.to_be_bytes()].concat()
}
