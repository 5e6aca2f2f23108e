//! Reads an export, and finds everything that is wrong with it before any of it goes anywhere.
//!
//! The records are kept in memory, some 200 bytes each: they may stand in any order, and none of
//! them twice. Whoever serves them needs as much.

use std::{
    collections::{BTreeMap, btree_map},
    fmt,
    io::{self, BufRead, Read as _},
};

use sha2::{Digest as _, Sha256};

use super::{
    content::hex,
    fold::Folds,
    line::{End, FORMAT, Header, Line, VERSION},
    record,
};

/// Faults that are told one by one.
const TOLD: usize = 20;
/// The longest line that a record can have takes 70 KiB.
const MAX_LINE_BYTES: u64 = 128 << 10;

/// A good export.
#[derive(Default)]
pub struct Incoming {
    /// The app that it is of; nothing where it is of all.
    pub app: Option<String>,
    /// By key: the line, and the value.
    pub records: BTreeMap<Vec<u8>, (u64, Vec<u8>)>,
}

/// What is wrong with an export.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Faults {
    told: Vec<String>,
    more: usize,
}

impl Faults {
    fn add(&mut self, line: u64, what: impl fmt::Display) {
        if self.told.len() < TOLD {
            self.told.push(format!("line {line}: {what}"));
        } else {
            self.more += 1;
        }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.told.join("\n"))?;
        if self.more > 0 { write!(f, "\nand {} more", self.more) } else { Ok(()) }
    }
}

/// Reads all of it, with the users of these apps folded. Errors of the outer kind: it cannot be
/// read; of the inner: everything that is wrong with it.
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
                format_args!("it is longer than {MAX_LINE_BYTES} bytes; what follows was not read"),
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
    /// The number of the line that was read last.
    number: u64,
    incoming: Incoming,
    folds: Folds,
    /// Of the record lines as they stand in the file.
    hash: Sha256,
    records: u64,
    end: Option<End>,
    faults: Faults,
}

impl Reader {
    fn line(&mut self, text: &[u8]) {
        let parsed = match parse(text) {
            Ok(_) if self.end.is_some() => Err("nothing follows the end".to_owned()),
            Ok(Line::End(end)) => {
                self.end = Some(end);
                return;
            }
            Ok(mut line) => self.folds.fold(&mut line).and_then(|()| line.record()),
            Err(what) => Err(what),
        };
        self.hash.update(text);
        self.records += 1;
        if let Err(what) = parsed.and_then(|(app, key, value)| self.take(&app, key, value)) {
            self.faults.add(self.number, what);
        }
    }

    fn take(&mut self, app: &str, key: Vec<u8>, value: Vec<u8>) -> Result<(), String> {
        if self.incoming.app.as_ref().is_some_and(|of| of != app) {
            return Err(format!("it is of the app \"{app}\", and the header names another"));
        }
        match self.incoming.records.entry(key) {
            btree_map::Entry::Occupied(first) => {
                Err(format!("the same record as in line {}", first.get().0))
            }
            btree_map::Entry::Vacant(place) => {
                place.insert((self.number, value));
                Ok(())
            }
        }
    }

    fn finish(mut self) -> Result<Incoming, Faults> {
        let (records, sha256) = (self.records, hex(self.hash.clone()));
        match &self.end {
            None if self.number == 0 => self.faults.add(1, "the file is empty"),
            None => self.faults.add(
                self.number,
                "the file ends here, without a line of the kind \"end\": it was cut",
            ),
            Some(end) if end.records != records => {
                self.faults.add(
                    self.number,
                    format_args!("there are {records} records, and this line has {}", end.records),
                );
            }
            Some(end) if end.sha256 != sha256 => {
                self.faults.add(
                    self.number,
                    format_args!("the lines have the SHA-256 {sha256}, and this line has another"),
                );
            }
            Some(_) => {}
        }
        if self.faults.told.is_empty() { Ok(self.incoming) } else { Err(self.faults) }
    }
}

/// The app that the export is of.
fn header(text: &[u8]) -> Result<Option<String>, String> {
    match parse(text) {
        Ok(Line::Header(Header { format, .. })) if format != FORMAT => {
            Err(format!("the format \"{format}\" is not \"{FORMAT}\""))
        }
        Ok(Line::Header(Header { version, .. })) if version != VERSION => {
            Err(format!("an export of version {version}, and this program knows version {VERSION}"))
        }
        Ok(Line::Header(Header { app, .. })) => app.as_deref().map(record::app).transpose(),
        Ok(_) => Err("an export begins with a line of the kind \"header\"".to_owned()),
        Err(what) => Err(format!("an export begins with a line of the kind \"header\": {what}")),
    }
}

fn parse(text: &[u8]) -> Result<Line, String> {
    serde_json::from_slice(text).map_err(|error| {
        // Each line is parsed by itself, so the place in it would be misread as one in the file.
        let text = error.to_string();
        text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what).to_owned()
    })
}
