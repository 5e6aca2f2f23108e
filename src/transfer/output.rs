//! A file that is there whole or not at all: written under a temporary name beside its own, synced,
//! and renamed.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

/// A file that is being written. Dropped before [`Output::finish`], it leaves nothing behind.
pub struct Output {
    path: PathBuf,
    draft: PathBuf,
    file: Option<BufWriter<File>>,
}

impl Output {
    /// Readable by its owner alone, because what is written here may hold everything; and always a
    /// new file, so that nobody's link leads elsewhere.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".part");
        let draft = path.with_file_name(name);
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file =
            File::options().read(true).write(true).create_new(true).mode(0o600).open(&draft)?;
        Ok(Self { path: path.to_path_buf(), draft, file: Some(BufWriter::new(file)) })
    }

    /// What has been written so far, under its temporary name.
    pub fn draft(&mut self) -> io::Result<&Path> {
        self.flush()?;
        Ok(&self.draft)
    }

    /// Puts it on the disk, under its own name, in place of what had it.
    pub fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        if let Some(file) = self.file.take() {
            file.into_inner()?.sync_all()?;
        }
        fs::rename(&self.draft, &self.path)?;
        let directory = self
            .path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        File::open(directory)?.sync_all()
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file
            .as_mut()
            .map_or_else(|| Err(io::ErrorKind::BrokenPipe.into()), |file| file.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), BufWriter::flush)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // Not there any more where it was finished.
        if self.file.is_some() {
            let _ = fs::remove_file(&self.draft);
        }
    }
}
