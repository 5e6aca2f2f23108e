//! Takes, verifies and restores backups. `store/backup.rs` has the file format.
//!
//! # Revisions after a restore
//! Records keep their revisions. The latest revision of the restored store must be above every
//! revision that the lost store can have used since the backup. Then a position in the lost store's
//! change feed or history is refused as compacted, and never taken for one of the restored store.
//! So it becomes the time of the restore, in Unix microseconds: no store makes a million commits a
//! second since 1970, and one that was restored earlier, even from the same backup, stays below
//! too. In case the clock is wrong, it is at least [`REVISION_LEAP`] above the backup's revision.

use std::{fs::File, io::BufReader, path::Path};

use futures_util::{Stream, StreamExt as _, stream};
use indicatif::{ProgressBar, ProgressBarIter};

use super::{Failure, PROGRAM, content::Content};
use crate::store::{
    self, Entry, Revision, Snapshot, StoreError,
    backup::{BackupError, Header, Reader, Writer},
};

/// The least by which a restore raises the latest revision: a day of 10,000 commits a second.
pub const REVISION_LEAP: Revision = 1_000_000_000;

/// Streams a backup in chunks of some 256 KiB, and checks every record. Dropping the stream drops
/// the snapshot. Errors, after which the stream ends: those of the snapshot, and
/// [`StoreError::Corrupt`].
pub fn bytes(
    snapshot: Snapshot,
    now_ms: u64,
) -> impl Stream<Item = Result<Vec<u8>, StoreError>> + Send {
    let header = Header { revision: snapshot.revision, at_ms: now_ms, program: PROGRAM.to_owned() };
    let (writer, header_frame) = Writer::begin(&header);
    let record_frames = stream::try_unfold(Some((writer, snapshot.pages)), |state| async {
        let Some((mut writer, mut pages)) = state else { return Ok(None) };
        match pages.next().await {
            Some(page) => {
                let page = page?;
                // Only to check every record. Readers of the backup verify the whole content.
                let mut content = Content::default();
                page.iter().try_for_each(|entry| content.add(entry, None).map(drop))?;
                Ok(Some((writer.records(page), Some((writer, pages)))))
            }
            None => Ok(Some((vec![writer.end()], None))),
        }
    });
    let record_frames = record_frames.flat_map(|frames| match frames {
        Ok(frames) => stream::iter(frames.into_iter().map(Ok).collect::<Vec<_>>()),
        Err(error) => stream::iter(vec![Err(error)]),
    });
    stream::iter([Ok(header_frame)]).chain(record_frames)
}

/// Reads a backup to its end, and returns what is in it; `progress` shows how much of it is read.
/// Errors: [`Failure::Backup`] if it is damaged, [`Failure::File`].
pub fn verify(path: &Path, progress: &ProgressBar) -> Result<(Header, Content), Failure> {
    let (mut pages, header) = Pages::open(path, progress)?;
    let mut content = Content::default();
    pages.try_for_each(|page| {
        page?.iter().try_for_each(|entry| content.add(entry, None).map(drop).map_err(Failure::from))
    })?;
    Ok((header, content))
}

/// Restores a backup into an empty directory. Returns what is in the backup, and the latest
/// revision of the store. The whole backup is verified before the directory is changed. Errors:
/// those of [`verify`], [`StoreError::NotEmpty`], [`StoreError::Full`].
pub fn restore(
    path: &Path,
    directory: &Path,
    now_ms: u64,
    progress: &ProgressBar,
) -> Result<(Header, Content, Revision), Failure> {
    let (header, content) = verify(path, progress)?;
    let latest = header.revision.saturating_add(REVISION_LEAP).max(now_ms.saturating_mul(1_000));
    progress.set_message("restoring");
    let (pages, _) = Pages::open(path, progress)?;
    store::restore(directory, pages, latest)?;
    Ok((header, content, latest))
}

/// The records of a backup. It ends after the first error.
struct Pages<'a> {
    reader: Reader<BufReader<ProgressBarIter<File>>>,
    path: &'a Path,
}

impl<'a> Pages<'a> {
    fn open(path: &'a Path, progress: &ProgressBar) -> Result<(Self, Header), Failure> {
        let file = File::open(path).map_err(|error| Failure::file(path, error))?;
        progress.set_position(0);
        let (reader, header) = Reader::begin(BufReader::new(progress.wrap_read(file)))
            .map_err(|source| damaged(path, source))?;
        Ok((Self { reader, path }, header))
    }
}

fn damaged(path: &Path, source: BackupError) -> Failure {
    Failure::Backup { what: path.display().to_string(), source }
}

impl Iterator for Pages<'_> {
    type Item = Result<Vec<Entry>, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        let records = self.reader.records().transpose()?;
        Some(records.map_err(|source| damaged(self.path, source)))
    }
}
