//! The way of a commit: group commit to the journal. Every step that can fail is undone, or stops
//! the writer:
//!
//! - A write to the journal that finds the disk full is cut off again; whatever else fails in it,
//!   or in its sync, stops the writer.
//! - A revision that was synced and cannot be noted is acknowledged; nothing more is written before
//!   it is noted.
//! - A new file of the journal that cannot be created is tried again, while the old one grows up to
//!   a bound; one that cannot be synced stops the writer.

use std::{
    sync::{Arc, PoisonError},
    time::Instant,
};

use tokio::sync::mpsc;

use super::{
    commit_group::{Absent, Group},
    journal::Journal,
    journal::RotateError,
    memtable::{Memtables, Mutations},
    shared::{Job, Shared, closed},
};
use crate::store::{Commit, Revision, StoreError};
use crate::telemetry::metrics::METRICS;

/// A group is closed at this many commits or bytes, so that the first of them does not wait for the
/// last for ever.
const GROUP_COMMITS: usize = 1_024;
const GROUP_BYTES: usize = 4 << 20;
/// Commits are refused while so many full memtables, by their bytes, wait for the tree.
const WAITING: usize = 4;

/// The one thread that writes the journal.
pub(super) struct Writer {
    shared: Arc<Shared>,
    file: Journal,
    jobs: mpsc::Receiver<Job>,
    /// A memtable is full at this many bytes of memory.
    memtable_bytes: usize,
    absent: Absent,
    /// Why nothing is written any more.
    stopped: Option<StoreError>,
    /// Why the newest revision is not noted yet.
    durable_revision_error: Option<StoreError>,
    /// Why the active memtable, which is full, has no file after it yet.
    rotate_error: Option<StoreError>,
    /// The last write found the disk full.
    full: bool,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        file: Journal,
        jobs: mpsc::Receiver<Job>,
        memtable_bytes: usize,
    ) -> Self {
        let absent = Absent::default();
        Self {
            shared,
            file,
            jobs,
            memtable_bytes,
            absent,
            stopped: None,
            durable_revision_error: None,
            rotate_error: None,
            full: false,
        }
    }

    pub(super) fn run(mut self) {
        while let Some(first) = self.jobs.blocking_recv() {
            self.wait_for_the_tree();
            self.make_up();
            let mut closing = None;
            let group = {
                let shared = self.shared.clone();
                let tree = shared.tree.read().unwrap_or_else(PoisonError::into_inner);
                let pending = shared.pending();
                let mut group = Group::after(pending.active.revision);
                let mut next = Some(first);
                while let Some(job) = next {
                    match job {
                        Job::Commit(batch, answer) => match (self.refusal(&pending), &*tree) {
                            (None, Some(tree)) => {
                                group.add(tree, &pending, &mut self.absent, batch, answer)
                            }
                            (Some(refusal), _) => drop(answer.send(Err(refusal))),
                            (None, None) => drop(
                                answer
                                    .send(Err(pending.flush_error.clone().unwrap_or_else(closed))),
                            ),
                        },
                        Job::Close(answer) => closing = Some(answer),
                    }
                    let more = closing.is_none()
                        && group.answers.len() < GROUP_COMMITS
                        && group.bytes < GROUP_BYTES;
                    next = if more { self.jobs.try_recv().ok() } else { None };
                }
                group
            };
            self.finish(group);
            if let Some(answer) = closing {
                let _ = answer.send(self.close());
            }
        }
    }

    /// Tries again what has failed after earlier commits.
    fn make_up(&mut self) {
        if self.stopped.is_some() {
            return;
        }
        if self.durable_revision_error.is_some() {
            let revision = self.shared.pending().active.revision;
            self.save_durable_revision(revision);
        }
        if self.rotate_error.is_some() {
            self.rotate();
        }
    }

    /// Why no commit can be taken now.
    fn refusal(&self, pending: &Memtables) -> Option<StoreError> {
        let flush_error = || pending.flush_error.clone().filter(|_| self.waits_too_much(pending));
        let too_long =
            || self.rotate_error.clone().filter(|_| pending.bytes() > self.bytes_of(WAITING + 1));
        self.stopped
            .clone()
            .or_else(|| self.durable_revision_error.clone())
            .or_else(flush_error)
            .or_else(too_long)
    }

    /// Waits while too much waits for a tree that is at work.
    fn wait_for_the_tree(&self) {
        let busy = |pending: &mut Memtables| {
            self.waits_too_much(pending) && pending.flush_error.is_none() && !pending.abandoned
        };
        drop(self.shared.state_changed.wait_while(self.shared.pending(), busy));
    }

    fn waits_too_much(&self, pending: &Memtables) -> bool {
        pending.waiting_bytes() > self.bytes_of(WAITING)
    }

    /// So many memtables that are full.
    fn bytes_of(&self, memtables: usize) -> usize {
        self.memtable_bytes.saturating_mul(memtables)
    }

    /// Makes the group durable, then visible, then answers.
    fn finish(&mut self, group: Group) {
        let Group { after, revision, commits, changes, answers, .. } = group;
        if commits.is_empty() {
            return;
        }
        let begun = Instant::now();
        let written = self.file.append(&commits, after);
        match &written {
            Ok(()) => {
                self.save_durable_revision(revision);
                METRICS.committed(commits.len(), begun.elapsed());
                self.publish(revision, commits, changes);
            }
            Err(error @ StoreError::Full(_)) if self.full => {
                tracing::debug!(%error, "the disk is still full")
            }
            Err(error @ StoreError::Full(_)) => {
                tracing::error!(%error, "the disk is full; commits are refused until there is room")
            }
            Err(error) => {
                tracing::error!(%error, "the disk has failed a write; nothing is written until a restart");
                self.stopped = Some(error.clone());
            }
        }
        if self.full && written.is_ok() {
            tracing::info!(revision, "there is room again; commits are taken");
        }
        self.full = matches!(written, Err(StoreError::Full(_)));
        for (answer, revision) in answers {
            let _ = answer.send(written.clone().map(|()| revision));
        }
    }

    fn save_durable_revision(&mut self, revision: Revision) {
        let saved = self.shared.directory.save_durable_revision(revision);
        if let Err(error) = &saved
            && self.durable_revision_error.is_none()
        {
            tracing::error!(%error, revision, "the newest revision could not be noted; commits are refused until it is");
        }
        self.durable_revision_error = saved.err();
    }

    fn publish(&mut self, revision: Revision, commits: Vec<Arc<Commit>>, changes: Mutations) {
        let is_full = {
            let mut pending = self.shared.pending();
            pending.active.extend(&commits, changes);
            pending.active.bytes >= self.memtable_bytes
        };
        if is_full {
            self.rotate();
        }
        self.shared.recent.push(commits, revision);
        self.shared.recent.wait_for_room();
    }

    /// Closes the active memtable with its file, and begins the next.
    fn rotate(&mut self) {
        let revision = self.shared.pending().active.revision;
        match self.file.rotate(revision) {
            Ok(()) => {
                self.shared.pending().rotate();
                self.shared.state_changed.notify_all();
                self.rotate_error = None;
            }
            Err(RotateError::NotCreated(error)) => {
                if self.rotate_error.is_none() {
                    tracing::warn!(%error, "a new file of the journal could not be created; the old one grows");
                }
                self.rotate_error = Some(error);
            }
            Err(RotateError::NotSynced(error)) => {
                tracing::error!(%error, "the disk has failed a sync; nothing is written until a restart");
                self.stopped = Some(error);
            }
        }
    }

    /// Waits until the tree has everything, and refuses whatever comes after.
    fn close(&mut self) -> Result<Revision, StoreError> {
        if let Some(error) = &self.stopped {
            return Err(error.clone());
        }
        let mut pending = self.shared.pending();
        pending.rotate();
        self.shared.state_changed.notify_all();
        let busy = |pending: &mut Memtables| {
            !pending.full.is_empty() && pending.flush_error.is_none() && !pending.abandoned
        };
        let pending = self
            .shared
            .state_changed
            .wait_while(pending, busy)
            .unwrap_or_else(PoisonError::into_inner);
        self.stopped = Some(closed());
        if let Some(error) = pending.flush_error.clone().filter(|_| !pending.full.is_empty()) {
            return Err(error);
        }
        Journal::remove_all(&self.shared.journal)?;
        Ok(pending.active.revision)
    }
}
