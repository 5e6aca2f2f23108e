//! Takes backups, reads them, and puts them back. `store/backup.rs` has the form of the file.
//!
//! # Revisions after a restore
//! Records keep the revisions they had. The store itself goes on above every revision that the lost
//! one can have given out since the backup was taken, so that a position in its change feed, or a
//! page of its history, is refused as compacted and never taken for one of the new store: its
//! newest revision becomes the time of the restore in Unix microseconds. No store gives out a
//! million revisions each second since 1970, nor does one that was restored earlier, even from the
//! same backup. Should the clock be wrong, it is at least [`LEAP`] more than the backup's.

use std::{fs::File, io::BufReader, path::Path};

use futures_util::{Stream, StreamExt as _, stream};

use super::{Failure, PROGRAM, content::Content};
use crate::store::{
    self, Entry, Revision, Snapshot, StoreError,
    backup::{Header, Reader, Writer},
};

/// By how much a restore raises the newest revision at least: a day of 10,000 commits a second.
pub const LEAP: Revision = 1_000_000_000;

/// The bytes of a backup, piece by piece, each of some 256 KiB; every record is checked on the way.
/// Whoever drops it lets go of the snapshot. Errors, after which nothing follows: those of the
/// snapshot, and [`StoreError::Corrupt`].
pub fn bytes(
    snapshot: Snapshot,
    now_ms: u64,
) -> impl Stream<Item = Result<Vec<u8>, StoreError>> + Send {
    let header = Header { revision: snapshot.revision, at_ms: now_ms, program: PROGRAM.to_owned() };
    let (writer, beginning) = Writer::begin(&header);
    let rest = stream::try_unfold(Some((writer, snapshot.pages)), |state| async {
        let Some((mut writer, mut pages)) = state else { return Ok(None) };
        match pages.next().await {
            Some(page) => {
                let page = page?;
                // Every record is checked; what they come to is for whoever reads the backup.
                let mut content = Content::default();
                page.iter().try_for_each(|entry| content.add(entry, None).map(drop))?;
                Ok(Some((writer.records(page), Some((writer, pages)))))
            }
            None => Ok(Some((vec![writer.end()], None))),
        }
    });
    let frames = rest.flat_map(|frames| match frames {
        Ok(frames) => stream::iter(frames.into_iter().map(Ok).collect::<Vec<_>>()),
        Err(error) => stream::iter(vec![Err(error)]),
    });
    stream::iter([Ok(beginning)]).chain(frames)
}

/// Reads a backup to its end, and answers what is in it. Errors: [`Failure::Backup`] with what is
/// wrong with it, [`Failure::File`].
pub fn verify(path: &Path) -> Result<(Header, Content), Failure> {
    let (mut pages, header) = Pages::open(path)?;
    let mut content = Content::default();
    pages.try_for_each(|page| {
        page?.iter().try_for_each(|entry| content.add(entry, None).map(drop).map_err(Failure::from))
    })?;
    Ok((header, content))
}

/// Puts a backup back into an empty directory, and answers what it was of and the newest revision
/// of the store. Whatever is wrong with the backup is found before the directory is touched.
/// Errors: those of [`verify`], [`StoreError::NotEmpty`], [`StoreError::Full`].
pub fn restore(
    path: &Path,
    directory: &Path,
    now_ms: u64,
) -> Result<(Header, Content, Revision), Failure> {
    let (header, content) = verify(path)?;
    let newest = header.revision.saturating_add(LEAP).max(now_ms.saturating_mul(1_000));
    let (pages, _) = Pages::open(path)?;
    store::restore(directory, pages, newest)?;
    Ok((header, content, newest))
}

/// The records of a backup; the last error, or the end, is the last of them.
struct Pages<'a> {
    reader: Reader<BufReader<File>>,
    path: &'a Path,
}

impl<'a> Pages<'a> {
    fn open(path: &'a Path) -> Result<(Self, Header), Failure> {
        let file = File::open(path).map_err(|error| Failure::file(path, error))?;
        let begun = Reader::begin(BufReader::new(file));
        let (reader, header) =
            begun.map_err(|source| Failure::Backup { what: path.display().to_string(), source })?;
        Ok((Self { reader, path }, header))
    }
}

impl Iterator for Pages<'_> {
    type Item = Result<Vec<Entry>, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        let read = self.reader.records().transpose()?;
        Some(
            read.map_err(|source| Failure::Backup {
                what: self.path.display().to_string(),
                source,
            }),
        )
    }
}
