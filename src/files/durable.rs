//! Writes a file atomically: after a power cut it is there whole or not at all.
//!
//! `tempfile` names the draft, in the same directory, and removes it on drop. This module adds the
//! syncs: `tempfile` syncs neither the file nor its directory, `atomic-write-file` only the file.
//! The file is opened and written by the standard library alone, because `tempfile` would add the
//! draft's path, which no user has named, to errors.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use tempfile::{Builder, TempPath};

/// A file that is being written. Dropped before [`DurableFile::commit`], it leaves nothing behind.
pub struct DurableFile {
    path: PathBuf,
    file: BufWriter<File>,
    draft: TempPath,
}

impl DurableFile {
    /// Creates a draft beside `path`, readable by its owner only. A process that is killed leaves
    /// it there, as `NAME.XXXXXX.part`.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut prefix = path.file_name().unwrap_or_default().to_owned();
        prefix.push(".");
        let create =
            |draft: &Path| OpenOptions::new().write(true).create_new(true).mode(0o600).open(draft);
        let draft = Builder::new().prefix(&prefix).suffix(".part").make_in(directory(path), create);
        let (file, draft) = draft?.into_parts();
        Ok(Self { path: path.to_path_buf(), file: BufWriter::new(file), draft })
    }

    /// Flushes, and returns the path of the draft.
    pub fn draft(&mut self) -> io::Result<&Path> {
        self.flush()?;
        Ok(&self.draft)
    }

    /// Makes the draft durable and renames it to `path`, replacing what is there.
    pub fn commit(self) -> io::Result<()> {
        let file = self.file.into_inner()?;
        file.sync_all()?;
        self.draft.persist(&self.path)?;
        File::open(directory(&self.path))?.sync_all()
    }
}

impl Write for DurableFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
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
        assert_eq!(error.to_string(), "No such file or directory (os error 2)");
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
