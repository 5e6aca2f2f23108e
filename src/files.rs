//! Watches files that are reloaded when they change, such as certificates and the configuration;
//! [`durable`] writes a file.
//!
//! Files are polled every few seconds instead of watched with `notify`: Kubernetes replaces a
//! symbolic link to their directory, network file systems report no changes, and polling is a dozen
//! lines.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, SystemTime},
};

pub mod durable;

/// How often the files are checked.
const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// Watches some files by modification time and size. Create it before reading the files, so that a
/// change in between is noticed.
#[derive(Clone)]
pub struct FileWatcher {
    paths: Vec<PathBuf>,
    last_stamps: Vec<Option<(SystemTime, u64)>>,
}

impl FileWatcher {
    /// A watcher that compares with the files as they are now.
    #[must_use]
    pub fn new(paths: Vec<PathBuf>) -> Self {
        let last_stamps = stamps(&paths);
        Self { paths, last_stamps }
    }

    /// Completes when a file has changed since the last call, or since `new`.
    pub async fn changed(&mut self) {
        loop {
            tokio::time::sleep(POLL_INTERVAL).await;
            let now = stamps(&self.paths);
            if now != self.last_stamps {
                self.last_stamps = now;
                return;
            }
        }
    }
}

fn stamps(paths: &[PathBuf]) -> Vec<Option<(SystemTime, u64)>> {
    let stamp = |path: &PathBuf| {
        fs::metadata(path).and_then(|file| Ok((file.modified()?, file.len()))).ok()
    };
    paths.iter().map(stamp).collect()
}
