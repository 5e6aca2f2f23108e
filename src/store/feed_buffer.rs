//! The latest commits of an engine, in memory, shared by all its watchers. Each watcher reads on
//! from its own position.
//!
//! A watcher that falls behind the oldest buffered commit gets [`StoreError::Compacted`]. A *paced*
//! watcher never falls behind: the buffer keeps what it has not read yet, and the engine waits for
//! room before it adds more ([`FeedBuffer::wait_for_room`], [`FeedBuffer::wait_for_room_async`]).
//! So memory stays bounded.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use futures_util::{StreamExt as _, stream};
use tokio::sync::{Notify, watch};

use super::{Commit, Feed, Operation, Revision, StoreError};

/// The buffer's limits, by number and by size. The latest group is kept whatever its size. 4,096
/// commits are several full groups.
const MAX_COMMITS: usize = 4_096;
const MAX_BYTES: usize = 4 << 20;
/// Maximum number of commits that a watcher reads under one lock.
const READ_MAX: usize = 512;

pub(super) struct FeedBuffer {
    commits: Mutex<Commits>,
    /// Both wake an engine that waits for room, a task or a thread, after a paced watcher has read.
    task_wakeup: Notify,
    thread_wakeup: Condvar,
    /// Up to which revision watchers may read; wakes them.
    latest: watch::Sender<Revision>,
}

/// All commits after a revision, in order.
struct Commits {
    after: Revision,
    commits: VecDeque<Arc<Commit>>,
    bytes: usize,
    /// Number of commits in the latest group, which is never dropped.
    latest_group_len: usize,
    /// The revision up to which each paced watcher has read, by the watcher's id.
    paced_positions: BTreeMap<u64, Revision>,
    next_paced_id: u64,
}

/// One watcher's position in the buffer.
struct BufferReader {
    buffer: Arc<FeedBuffer>,
    latest: watch::Receiver<Revision>,
    position: Revision,
    /// Commits read from the buffer and not yielded yet.
    read: VecDeque<Arc<Commit>>,
    /// Its id if it is paced.
    paced_id: Option<u64>,
}

impl FeedBuffer {
    /// An empty buffer that starts after this revision.
    pub(super) fn after(revision: Revision) -> Self {
        Self {
            commits: Mutex::new(Commits::after(revision)),
            task_wakeup: Notify::new(),
            thread_wakeup: Condvar::new(),
            latest: watch::Sender::new(revision),
        }
    }

    /// The highest revision that watchers may see.
    pub(super) fn latest_revision(&self) -> Revision {
        *self.latest.borrow()
    }

    /// Adds a group of commits, and drops the oldest beyond the limits. `latest` is at least the
    /// revision of the last one; no other commit lies up to it.
    pub(super) fn push(&self, group: Vec<Arc<Commit>>, latest: Revision) {
        self.commits().push(group);
        self.latest.send_replace(latest);
    }

    /// Waits while the buffer exceeds its limits because a paced watcher is behind.
    pub(super) async fn wait_for_room_async(&self) {
        loop {
            let wakeup = self.task_wakeup.notified();
            tokio::pin!(wakeup);
            // Registers before the check, so that no wake-up between the two is lost.
            wakeup.as_mut().enable();
            if !self.commits().is_over_full() {
                return;
            }
            wakeup.await;
        }
    }

    /// [`FeedBuffer::wait_for_room_async`] for a thread.
    pub(super) fn wait_for_room(&self) {
        let commits =
            self.thread_wakeup.wait_while(self.commits(), |commits| commits.is_over_full());
        drop(commits);
    }

    /// Drops all commits and starts again after this revision. Every watcher that has not read up
    /// to it gets [`StoreError::Compacted`].
    pub(super) fn restart_after(&self, revision: Revision) {
        self.commits().restart_after(revision);
        self.latest.send_replace(revision);
    }

    /// Waits until watchers may see this revision.
    pub(super) async fn wait_for_revision(&self, revision: Revision) {
        let _ = self.latest.subscribe().wait_for(|latest| *latest >= revision).await;
    }

    /// Clause 4 of the store's contract.
    pub(super) fn watch(self: &Arc<Self>, after: Revision) -> Feed {
        let reader = BufferReader {
            buffer: self.clone(),
            latest: self.latest.subscribe(),
            position: after,
            read: VecDeque::new(),
            paced_id: None,
        };
        reader.into_feed()
    }

    /// The latest revision, and a paced feed of the commits after it. The feed is compacted only if
    /// the engine itself has lost commits.
    pub(super) fn watch_paced(self: &Arc<Self>) -> (Revision, Feed) {
        let latest = self.latest.subscribe();
        let mut commits = self.commits();
        let after = *latest.borrow();
        let id = commits.next_paced_id;
        commits.next_paced_id += 1;
        commits.paced_positions.insert(id, after);
        drop(commits);
        let reader = BufferReader {
            buffer: self.clone(),
            latest,
            position: after,
            read: VecDeque::new(),
            paced_id: Some(id),
        };
        (after, reader.into_feed())
    }

    fn commits(&self) -> MutexGuard<'_, Commits> {
        self.commits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_producers(&self) {
        self.task_wakeup.notify_waiters();
        self.thread_wakeup.notify_all();
    }
}

impl Commits {
    fn after(revision: Revision) -> Self {
        Self {
            after: revision,
            commits: VecDeque::new(),
            bytes: 0,
            latest_group_len: 0,
            paced_positions: BTreeMap::new(),
            next_paced_id: 0,
        }
    }

    fn restart_after(&mut self, revision: Revision) {
        self.commits.clear();
        self.after = revision;
        self.bytes = 0;
        self.latest_group_len = 0;
    }

    fn push(&mut self, group: Vec<Arc<Commit>>) {
        self.latest_group_len = group.len();
        self.bytes += group.iter().map(|commit| size_of_commit(commit)).sum::<usize>();
        self.commits.extend(group);
        self.trim();
    }

    /// Drops the oldest commits while the buffer exceeds its limits, except those that a paced
    /// watcher has not read.
    fn trim(&mut self) {
        let read_by_all = self.paced_positions.values().min().copied().unwrap_or(Revision::MAX);
        while self.is_over_full()
            && self.commits.front().is_some_and(|oldest| oldest.revision <= read_by_all)
        {
            let Some(oldest) = self.commits.pop_front() else { return };
            self.bytes -= size_of_commit(&oldest);
            self.after = oldest.revision;
        }
    }

    fn is_over_full(&self) -> bool {
        self.commits.len() > self.latest_group_len
            && (self.commits.len() > MAX_COMMITS || self.bytes > MAX_BYTES)
    }
}

impl BufferReader {
    fn into_feed(self) -> Feed {
        stream::unfold(self, Self::next).boxed()
    }

    async fn next(mut self) -> Option<(Result<Arc<Commit>, StoreError>, Self)> {
        if self.read.is_empty() {
            let latest = *self.latest.wait_for(|latest| *latest > self.position).await.ok()?;
            if let Err(error) = self.read_more(latest) {
                return Some((Err(error), self));
            }
        }
        let commit = self.read.pop_front()?;
        self.position = commit.revision;
        Some((Ok(commit), self))
    }

    /// Reads the commits after its position. If there are none, it reads a progress marker for
    /// `latest`.
    fn read_more(&mut self, latest: Revision) -> Result<(), StoreError> {
        let mut commits = self.buffer.commits();
        if commits.after > self.position {
            return Err(StoreError::Compacted { oldest: commits.after + 1 });
        }
        let start = commits.commits.partition_point(|commit| commit.revision <= self.position);
        self.read.extend(commits.commits.range(start..).take(READ_MAX).cloned());
        if self.read.is_empty() {
            self.read.push_back(Arc::new(Commit::empty(latest)));
        }
        let Some(id) = self.paced_id else { return Ok(()) };
        let read_up_to = self.read.back().map_or(self.position, |last| last.revision);
        commits.paced_positions.insert(id, read_up_to);
        commits.trim();
        drop(commits);
        self.buffer.wake_producers();
        Ok(())
    }
}

impl Drop for BufferReader {
    fn drop(&mut self) {
        if let Some(id) = self.paced_id {
            let mut commits = self.buffer.commits();
            commits.paced_positions.remove(&id);
            commits.trim();
            drop(commits);
            self.buffer.wake_producers();
        }
    }
}

fn size_of_commit(commit: &Commit) -> usize {
    commit.event.len() + commit.operations.iter().map(size_of_operation).sum::<usize>()
}

fn size_of_operation(operation: &Operation) -> usize {
    let heap_bytes = match operation {
        Operation::Put { key, value } => key.len() + value.len(),
        Operation::Delete { key } => key.len(),
    };
    size_of::<Operation>() + heap_bytes
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_paced_watcher_misses_nothing_and_the_engine_waits_for_it() {
        const ALL: Revision = 3 * MAX_COMMITS as Revision;
        let buffer = Arc::new(FeedBuffer::after(0));
        let mut other = buffer.watch(0);
        let (_, mut paced) = buffer.watch_paced();
        for revision in 1..=ALL {
            buffer.push(vec![Arc::new(Commit::empty(revision))], revision);
        }
        assert!(
            buffer.wait_for_room_async().now_or_never().is_none(),
            "there is no room while the paced watcher has read nothing"
        );
        for revision in 1..=ALL {
            assert_eq!(paced.next().await.unwrap().unwrap().revision, revision);
        }
        assert!(buffer.wait_for_room_async().now_or_never().is_some());
        assert!(
            matches!(other.next().await, Some(Err(StoreError::Compacted { .. }))),
            "a watcher that is not paced has missed commits"
        );
        drop(paced);
        buffer.push(vec![Arc::new(Commit::empty(ALL + 1))], ALL + 1);
        assert!(
            buffer.wait_for_room_async().now_or_never().is_some(),
            "the engine does not wait for a watcher that was dropped"
        );
    }
}
