//! Writes a file atomically: after a power cut it is there whole or not at all.
//!
//! `tempfile` makes the draft: in the same directory, under a unique name, readable by its owner
//! only, and removed on drop. This module adds the syncs: `tempfile` syncs neither the file nor its
//! directory, `atomic-write-file` only the file.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use tempfile::{Builder, NamedTempFile};

/// A file that is being written. Dropped before [`DurableFile::commit`], it leaves nothing behind.
pub struct DurableFile {
    path: PathBuf,
    draft: BufWriter<NamedTempFile>,
}

impl DurableFile {
    /// Creates a draft beside `path`. A process that is killed leaves it there, as
    /// `NAME.XXXXXX.part`.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut prefix = path.file_name().unwrap_or_default().to_owned();
        prefix.push(".");
        let draft = Builder::new().prefix(&prefix).suffix(".part").tempfile_in(directory(path));
        let draft = draft.map_err(without_draft)?;
        Ok(Self { path: path.to_path_buf(), draft: BufWriter::new(draft) })
    }

    /// Flushes, and returns the path of the draft.
    pub fn draft(&mut self) -> io::Result<&Path> {
        self.flush()?;
        Ok(self.draft.get_ref().path())
    }

    /// Makes the draft durable and renames it to `path`, replacing what is there.
    pub fn commit(self) -> io::Result<()> {
        let draft = self.draft.into_inner().map_err(|error| without_draft(error.into_error()))?;
        draft.as_file().sync_all()?;
        draft.persist(&self.path)?;
        File::open(directory(&self.path))?.sync_all()
    }
}

impl Write for DurableFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.draft.write(bytes).map_err(without_draft)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.draft.flush().map_err(without_draft)
    }
}

/// The kind of an error alone: `tempfile` adds the draft's path, which no user has named.
fn without_draft(error: io::Error) -> io::Error {
    error.kind().into()
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsString, fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    fn names(directory: &Path) -> Vec<OsString> {
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    }

    #[test]
    fn a_file_is_replaced_whole_and_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "old").unwrap();
        let mut file = DurableFile::create(&path).unwrap();
        file.write_all(b"new").unwrap();
        assert_eq!(fs::read(file.draft().unwrap()).unwrap(), b"new");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        file.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(names(directory.path()), ["file"]);
    }

    #[test]
    fn an_error_names_no_draft() {
        let error = DurableFile::create(Path::new("/nowhere/file")).err().unwrap();
        assert_eq!(error.to_string(), io::Error::from(io::ErrorKind::NotFound).to_string());
    }

    #[test]
    fn a_dropped_draft_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = DurableFile::create(&directory.path().join("file")).unwrap();
        file.write_all(b"half").unwrap();
        assert_eq!(names(directory.path()).len(), 1);
        drop(file);
        assert_eq!(names(directory.path()), [""; 0]);
    }

    #[test]
    fn concurrent_writers_each_write_a_whole_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let [mut first, mut second] = [(); 2].map(|()| DurableFile::create(&path).unwrap());
        first.write_all(b"first").unwrap();
        second.write_all(b"sec").unwrap();
        second.flush().unwrap();
        first.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"first");
        second.write_all(b"ond").unwrap();
        second.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
    }
}
