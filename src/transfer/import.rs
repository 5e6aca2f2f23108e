//! Reads an export, and finds all its faults before any of it is used.
//!
//! The records may be in any order, and none may occur twice, so they are kept in memory: some 200
//! bytes each, as in a service that has them.

use std::{
    collections::{BTreeMap, btree_map},
    fmt,
    io::{self, BufRead, Read as _},
};

use base16ct::lower as hex;
use sha2::{Digest as _, Sha256};

use super::{
    fold::Folds,
    line::{End, FORMAT, Header, Line, VERSION},
    record,
};
use crate::counted::counted;

/// The most faults that are listed; further ones are counted.
const LISTED_MAX: usize = 20;
/// The longest valid line has 70 KiB.
const MAX_LINE_BYTES: u64 = 128 << 10;

/// An export without faults.
#[derive(Default)]
pub struct Incoming {
    /// The app of the export; `None` if it has all apps.
    pub app: Option<String>,
    /// By key: the line number, and the value.
    pub records: BTreeMap<Vec<u8>, (u64, Vec<u8>)>,
}

/// The faults of an export, by line.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Faults {
    listed: Vec<String>,
    unlisted: usize,
}

impl Faults {
    fn add(&mut self, line: u64, what: impl fmt::Display) {
        if self.listed.len() < LISTED_MAX {
            self.listed.push(format!("line {line}: {what}"));
        } else {
            self.unlisted += 1;
        }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.listed.join("\n"))?;
        if self.unlisted > 0 { write!(f, "\nand {} more", self.unlisted) } else { Ok(()) }
    }
}

/// Reads an export, and folds the user ids of these apps. The outer error is an I/O error; the
/// inner one has all faults.
pub fn read(mut from: impl BufRead, folds: Folds) -> io::Result<Result<Incoming, Faults>> {
    let mut reader = Reader { folds, ..Reader::default() };
    let mut text = Vec::new();
    loop {
        text.clear();
        let read = from.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut text)?;
        if read == 0 {
            return Ok(reader.finish());
        }
        reader.number += 1;
        if read as u64 == MAX_LINE_BYTES && text.last() != Some(&b'\n') {
            reader.faults.add(
                reader.number,
                format_args!("it is longer than {MAX_LINE_BYTES} bytes; later lines were not read"),
            );
            return Ok(Err(reader.faults));
        }
        if reader.number == 1 {
            match header(&text) {
                Ok(app) => reader.incoming.app = app,
                Err(what) => {
                    reader.faults.add(1, what);
                    return Ok(Err(reader.faults));
                }
            }
        } else {
            reader.line(&text);
        }
    }
}

#[derive(Default)]
struct Reader {
    /// Of the last line that was read, from 1.
    number: u64,
    incoming: Incoming,
    folds: Folds,
    /// Of the record lines as they are in the file.
    hash: Sha256,
    records: u64,
    end: Option<End>,
    faults: Faults,
}

impl Reader {
    fn line(&mut self, text: &[u8]) {
        let parsed = match parse(text) {
            Ok(_) if self.end.is_some() => Err("a line after the \"end\" line".to_owned()),
            Ok(Line::End(end)) => {
                self.end = Some(end);
                return;
            }
            Ok(mut line) => self.folds.fold(&mut line).and_then(|()| line.record()),
            Err(what) => Err(what),
        };
        self.hash.update(text);
        self.records += 1;
        if let Err(what) = parsed.and_then(|(app, key, value)| self.insert(&app, key, value)) {
            self.faults.add(self.number, what);
        }
    }

    fn insert(&mut self, app: &str, key: Vec<u8>, value: Vec<u8>) -> Result<(), String> {
        if let Some(header_app) = self.incoming.app.as_ref().filter(|header_app| *header_app != app)
        {
            return Err(format!(
                "its app is \"{app}\", but that of the header is \"{header_app}\""
            ));
        }
        match self.incoming.records.entry(key) {
            btree_map::Entry::Occupied(first) => {
                Err(format!("a duplicate of line {}", first.get().0))
            }
            btree_map::Entry::Vacant(entry) => {
                entry.insert((self.number, value));
                Ok(())
            }
        }
    }

    fn finish(mut self) -> Result<Incoming, Faults> {
        let records = self.records;
        let sha256 = hex::encode_string(&self.hash.clone().finalize());
        match &self.end {
            None if self.number == 0 => self.faults.add(1, "the file is empty"),
            None => self.faults.add(self.number, "the file is truncated: it has no \"end\" line"),
            Some(end) if end.records != records => {
                self.faults.add(
                    self.number,
                    format_args!(
                        "the file has {}, but this line says {}",
                        counted(records, "record"),
                        end.records
                    ),
                );
            }
            Some(end) if end.sha256 != sha256 => {
                self.faults.add(
                    self.number,
                    format_args!(
                        "the SHA-256 of the records is {sha256}, but this line has another"
                    ),
                );
            }
            Some(_) => {}
        }
        if self.faults.listed.is_empty() { Ok(self.incoming) } else { Err(self.faults) }
    }
}

/// The app of the export, from its header.
fn header(text: &[u8]) -> Result<Option<String>, String> {
    match parse(text) {
        Ok(Line::Header(Header { format, .. })) if format != FORMAT => {
            Err(format!("the format is \"{format}\", not \"{FORMAT}\""))
        }
        Ok(Line::Header(Header { version, .. })) if version != VERSION => Err(format!(
            "the format has version {version}, but this program reads version {VERSION}"
        )),
        Ok(Line::Header(Header { app, .. })) => app.as_deref().map(record::app).transpose(),
        Ok(_) => Err("the first line is not a \"header\" line".to_owned()),
        Err(what) => Err(format!("the first line is not a \"header\" line: {what}")),
    }
}

fn parse(text: &[u8]) -> Result<Line, String> {
    serde_json::from_slice(text).map_err(|error| {
        // Without the position: a reader would take a position in the line for one in the file.
        let text = error.to_string();
        text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what).to_owned()
    })
}
