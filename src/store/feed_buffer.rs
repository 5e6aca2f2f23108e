//! The newest commits of an engine in memory, for all its watchers together: each takes from here
//! what is after its own place.
//!
//! A watcher that is behind what is kept is told so. One that is *paced* never is: what it has not
//! taken stays, and whoever adds commits waits for room ([`FeedBuffer::room`],
//! [`FeedBuffer::wait_for_room`]), so that memory stays bounded all the same.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use futures_util::{StreamExt as _, stream};
use tokio::sync::{Notify, watch};

use super::{Commit, Feed, Operation, Revision, StoreError};

/// Commits kept in memory for watchers: at most so many, and so many bytes beside the newest group.
/// 4,096 is several full groups.
const RECENT_COMMITS: usize = 4_096;
const RECENT_BYTES: usize = 4 << 20;
/// Commits that a watcher takes at once.
const READ: usize = 512;

pub(super) struct FeedBuffer {
    commits: Mutex<Commits>,
    /// Told when a paced watcher has taken something: a task that waits for room, and a thread.
    taken: Notify,
    taken_by_thread: Condvar,
    /// Nobody is told of anything after this revision.
    newest: watch::Sender<Revision>,
}

/// All commits after a revision, in order.
struct Commits {
    after: Revision,
    commits: VecDeque<Arc<Commit>>,
    bytes: usize,
    /// Of the newest group, which is kept whatever its size.
    group: usize,
    /// Up to where each paced watcher has taken commits, by its number.
    paced: BTreeMap<u64, Revision>,
    next_number: u64,
}

/// One watcher's place among the commits.
struct BufferReader {
    recent: Arc<FeedBuffer>,
    newest: watch::Receiver<Revision>,
    after: Revision,
    read: VecDeque<Arc<Commit>>,
    /// Its number, where it is paced.
    paced: Option<u64>,
}

impl FeedBuffer {
    /// Begins after this revision.
    pub(super) fn after(revision: Revision) -> Self {
        Self {
            commits: Mutex::new(Commits::after(revision)),
            taken: Notify::new(),
            taken_by_thread: Condvar::new(),
            newest: watch::Sender::new(revision),
        }
    }

    /// The newest revision that watchers are told of.
    pub(super) fn latest_revision(&self) -> Revision {
        *self.newest.borrow()
    }

    /// Adds commits, and forgets the oldest. After them there is nothing up to this revision.
    pub(super) fn push(&self, group: Vec<Arc<Commit>>, newest: Revision) {
        self.commits().push(group);
        self.newest.send_replace(newest);
    }

    /// Ends when no paced watcher is so far behind that nothing should be added.
    pub(super) async fn room(&self) {
        loop {
            let taken = self.taken.notified();
            tokio::pin!(taken);
            // Listens before it looks, so that nothing is missed in between.
            taken.as_mut().enable();
            if !self.commits().is_over_full() {
                return;
            }
            taken.await;
        }
    }

    /// The same, for a thread.
    pub(super) fn wait_for_room(&self) {
        let waited =
            self.taken_by_thread.wait_while(self.commits(), |commits| commits.is_over_full());
        drop(waited);
    }

    /// Begins anew after this revision: whoever has not come so far is told that it is compacted.
    pub(super) fn begin_after(&self, revision: Revision) {
        self.commits().begin_after(revision);
        self.newest.send_replace(revision);
    }

    /// Waits until watchers are told of this revision.
    pub(super) async fn reach(&self, revision: Revision) {
        let _ = self.newest.subscribe().wait_for(|newest| *newest >= revision).await;
    }

    /// Clause 4 of the store's contract.
    pub(super) fn follow(self: &Arc<Self>, after: Revision) -> Feed {
        let follower = BufferReader {
            recent: self.clone(),
            newest: self.newest.subscribe(),
            after,
            read: VecDeque::new(),
            paced: None,
        };
        follower.into_feed()
    }

    /// The commits after the newest, and which that is, for a paced watcher. It is told that
    /// commits are compacted only where the engine itself has lost them.
    pub(super) fn follow_paced(self: &Arc<Self>) -> (Revision, Feed) {
        let newest = self.newest.subscribe();
        let mut commits = self.commits();
        let after = *newest.borrow();
        let number = commits.next_number;
        commits.next_number += 1;
        commits.paced.insert(number, after);
        drop(commits);
        let follower = BufferReader {
            recent: self.clone(),
            newest,
            after,
            read: VecDeque::new(),
            paced: Some(number),
        };
        (after, follower.into_feed())
    }

    fn commits(&self) -> MutexGuard<'_, Commits> {
        self.commits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_taken(&self) {
        self.taken.notify_waiters();
        self.taken_by_thread.notify_all();
    }
}

impl Commits {
    fn after(revision: Revision) -> Self {
        Self {
            after: revision,
            commits: VecDeque::new(),
            bytes: 0,
            group: 0,
            paced: BTreeMap::new(),
            next_number: 0,
        }
    }

    fn begin_after(&mut self, revision: Revision) {
        self.commits.clear();
        (self.after, self.bytes, self.group) = (revision, 0, 0);
    }

    fn push(&mut self, group: Vec<Arc<Commit>>) {
        self.group = group.len();
        self.bytes += group.iter().map(|commit| size_of_commit(commit)).sum::<usize>();
        self.commits.extend(group);
        self.trim();
    }

    /// Forgets the oldest where there are too many, but for those that a paced watcher has yet to
    /// take.
    fn trim(&mut self) {
        let kept_after = self.paced.values().min().copied().unwrap_or(Revision::MAX);
        while self.is_over_full()
            && self.commits.front().is_some_and(|oldest| oldest.revision <= kept_after)
        {
            let Some(oldest) = self.commits.pop_front() else { return };
            self.bytes -= size_of_commit(&oldest);
            self.after = oldest.revision;
        }
    }

    fn is_over_full(&self) -> bool {
        self.commits.len() > self.group
            && (self.commits.len() > RECENT_COMMITS || self.bytes > RECENT_BYTES)
    }
}

impl BufferReader {
    fn into_feed(self) -> Feed {
        stream::unfold(self, Self::next).boxed()
    }

    async fn next(mut self) -> Option<(Result<Arc<Commit>, StoreError>, Self)> {
        if self.read.is_empty() {
            let newest = *self.newest.wait_for(|newest| *newest > self.after).await.ok()?;
            if let Err(error) = self.read_more(newest) {
                return Some((Err(error), self));
            }
        }
        let commit = self.read.pop_front()?;
        self.after = commit.revision;
        Some((Ok(commit), self))
    }

    /// Reads what there is after its place; where that is nothing, up to the newest, that it is
    /// nothing.
    fn read_more(&mut self, newest: Revision) -> Result<(), StoreError> {
        let mut commits = self.recent.commits();
        if commits.after > self.after {
            return Err(StoreError::Compacted { oldest: commits.after + 1 });
        }
        let known = commits.commits.partition_point(|commit| commit.revision <= self.after);
        self.read.extend(commits.commits.range(known..).take(READ).cloned());
        if self.read.is_empty() {
            self.read.push_back(Arc::new(Commit::nothing(newest)));
        }
        let Some(number) = self.paced else { return Ok(()) };
        let taken = self.read.back().map_or(self.after, |last| last.revision);
        commits.paced.insert(number, taken);
        commits.trim();
        drop(commits);
        self.recent.has_taken();
        Ok(())
    }
}

impl Drop for BufferReader {
    fn drop(&mut self) {
        if let Some(number) = self.paced {
            let mut commits = self.recent.commits();
            commits.paced.remove(&number);
            commits.trim();
            drop(commits);
            self.recent.has_taken();
        }
    }
}

fn size_of_commit(commit: &Commit) -> usize {
    let size = |operation: &Operation| match operation {
        Operation::Put { key, value } => key.len() + value.len(),
        Operation::Delete { key } => key.len(),
    };
    commit.event.len()
        + commit
            .operations
            .iter()
            .map(|operation| size_of::<Operation>() + size(operation))
            .sum::<usize>()
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_paced_watcher_misses_nothing_and_whoever_adds_commits_waits_for_it() {
        const ALL: Revision = 3 * RECENT_COMMITS as Revision;
        let recent = Arc::new(FeedBuffer::after(0));
        let mut other = recent.follow(0);
        let (_, mut paced) = recent.follow_paced();
        for revision in 1..=ALL {
            recent.push(vec![Arc::new(Commit::nothing(revision))], revision);
        }
        assert!(
            recent.room().now_or_never().is_none(),
            "there is no room while it has taken nothing"
        );
        for revision in 1..=ALL {
            assert_eq!(paced.next().await.unwrap().unwrap().revision, revision);
        }
        assert!(recent.room().now_or_never().is_some());
        assert!(
            matches!(other.next().await, Some(Err(StoreError::Compacted { .. }))),
            "another gets an error, because it has missed some"
        );
        drop(paced);
        recent.push(vec![Arc::new(Commit::nothing(ALL + 1))], ALL + 1);
        assert!(recent.room().now_or_never().is_some(), "one that is gone is waited for no more");
    }
}
