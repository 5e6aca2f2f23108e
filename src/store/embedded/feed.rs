//! The change feed: each watcher takes from the newest commits in memory what is after its own place.

use std::{
    collections::VecDeque,
    sync::{Arc, PoisonError},
};

use tokio::sync::watch;

use super::{Commit, Revision, Shared, StoreError};

/// One watcher's place among the commits.
pub(super) struct Follower {
    pub(super) shared: Arc<Shared>,
    pub(super) synced: watch::Receiver<Revision>,
    pub(super) after: Revision,
    pub(super) read: VecDeque<Arc<Commit>>,
}

impl Follower {
    pub(super) async fn next(mut self) -> Option<(Result<Arc<Commit>, StoreError>, Self)> {
        if self.read.is_empty() {
            let synced = *self.synced.wait_for(|synced| *synced > self.after).await.ok()?;
            let recent = self.shared.recent.lock().unwrap_or_else(PoisonError::into_inner);
            let oldest = recent.commits.front().map_or(synced + 1, |commit| commit.revision);
            if oldest > self.after + 1 {
                drop(recent);
                return Some((Err(StoreError::Compacted { oldest }), self));
            }
            // Revisions have no gaps, so the place of one follows from that of the oldest.
            let known = usize::try_from(self.after + 1 - oldest).unwrap_or(usize::MAX);
            self.read.extend(recent.commits.iter().skip(known).cloned());
        }
        let commit = self.read.pop_front()?;
        self.after = commit.revision;
        Some((Ok(commit), self))
    }
}
