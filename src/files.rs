//! Files that are read again when they have changed, such as certificates and who may call.
//! Kubernetes swaps a link to a directory of them, which shows as a change too.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, SystemTime},
};

/// How often they are looked at.
const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// Some files, as they were last seen. To be made before they are read, so that what changes
/// meanwhile is read again.
#[derive(Clone)]
pub struct FileWatcher {
    paths: Vec<PathBuf>,
    seen: Vec<Option<(SystemTime, u64)>>,
}

impl FileWatcher {
    /// As they are now.
    #[must_use]
    pub fn new(paths: Vec<PathBuf>) -> Self {
        let seen = look(&paths);
        Self { paths, seen }
    }

    /// Done when one of them has changed since it was last seen.
    pub async fn changed(&mut self) {
        loop {
            tokio::time::sleep(POLL_INTERVAL).await;
            let now = look(&self.paths);
            if now != self.seen {
                self.seen = now;
                return;
            }
        }
    }
}

fn look(paths: &[PathBuf]) -> Vec<Option<(SystemTime, u64)>> {
    let one = |path: &PathBuf| {
        fs::metadata(path).and_then(|file| Ok((file.modified()?, file.len()))).ok()
    };
    paths.iter().map(one).collect()
}
