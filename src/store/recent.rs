//! The newest commits of an engine in memory, for all its watchers together: each takes from here what is after its own place.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::{StreamExt as _, stream};
use tokio::sync::watch;

use super::{Commit, Feed, Operation, Revision, StoreError};

/// Commits kept in memory for watchers: at most so many, and so many bytes beside the newest group. 4,096 is several full groups.
const RECENT_COMMITS: usize = 4_096;
const RECENT_BYTES: usize = 4 << 20;

pub(super) struct Recent {
    commits: Mutex<Commits>,
    /// Nobody is told of anything after this revision.
    newest: watch::Sender<Revision>,
}

/// All commits after a revision, in order.
struct Commits {
    after: Revision,
    commits: VecDeque<Arc<Commit>>,
    bytes: usize,
}

/// One watcher's place among the commits.
struct Follower {
    recent: Arc<Recent>,
    newest: watch::Receiver<Revision>,
    after: Revision,
    read: VecDeque<Arc<Commit>>,
}

impl Recent {
    /// Begins after this revision.
    pub(super) fn after(revision: Revision) -> Self {
        Self { commits: Mutex::new(Commits::after(revision)), newest: watch::Sender::new(revision) }
    }

    /// The newest revision that watchers are told of.
    pub(super) fn newest(&self) -> Revision {
        *self.newest.borrow()
    }

    /// Adds commits, and forgets the oldest. After them there is nothing up to this revision.
    pub(super) fn push(&self, group: Vec<Arc<Commit>>, newest: Revision) {
        self.commits().push(group);
        self.newest.send_replace(newest);
    }

    /// Begins anew after this revision: whoever has not come so far is told that it is compacted.
    pub(super) fn begin_after(&self, revision: Revision) {
        *self.commits() = Commits::after(revision);
        self.newest.send_replace(revision);
    }

    /// Waits until watchers are told of this revision.
    pub(super) async fn reach(&self, revision: Revision) {
        let _ = self.newest.subscribe().wait_for(|newest| *newest >= revision).await;
    }

    /// Clause 4 of the store's contract.
    pub(super) fn follow(self: &Arc<Self>, after: Revision) -> Feed {
        let follower = Follower { recent: self.clone(), newest: self.newest.subscribe(), after, read: VecDeque::new() };
        stream::unfold(follower, Follower::next).boxed()
    }

    fn commits(&self) -> MutexGuard<'_, Commits> {
        self.commits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Commits {
    fn after(revision: Revision) -> Self {
        Self { after: revision, commits: VecDeque::new(), bytes: 0 }
    }

    fn push(&mut self, group: Vec<Arc<Commit>>) {
        let newest = group.len();
        self.bytes += group.iter().map(|commit| size_of_commit(commit)).sum::<usize>();
        self.commits.extend(group);
        while self.commits.len() > newest && (self.commits.len() > RECENT_COMMITS || self.bytes > RECENT_BYTES) {
            let Some(oldest) = self.commits.pop_front() else { return };
            self.bytes -= size_of_commit(&oldest);
            self.after = oldest.revision;
        }
    }
}

impl Follower {
    async fn next(mut self) -> Option<(Result<Arc<Commit>, StoreError>, Self)> {
        if self.read.is_empty() {
            let newest = *self.newest.wait_for(|newest| *newest > self.after).await.ok()?;
            let commits = self.recent.commits();
            if commits.after > self.after {
                let oldest = commits.after + 1;
                drop(commits);
                return Some((Err(StoreError::Compacted { oldest }), self));
            }
            let known = commits.commits.partition_point(|commit| commit.revision <= self.after);
            self.read.extend(commits.commits.range(known..).cloned());
            if self.read.is_empty() {
                self.read.push_back(Arc::new(Commit::nothing(newest)));
            }
        }
        let commit = self.read.pop_front()?;
        self.after = commit.revision;
        Some((Ok(commit), self))
    }
}

fn size_of_commit(commit: &Commit) -> usize {
    let size = |operation: &Operation| match operation {
        Operation::Put { key, value } => key.len() + value.len(),
        Operation::Delete { key } => key.len(),
        Operation::DeletePrefix { prefix } => prefix.len(),
    };
    commit.event.len() + commit.operations.iter().map(|operation| size_of::<Operation>() + size(operation)).sum::<usize>()
}
