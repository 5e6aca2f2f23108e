//! The way of a commit: group commit to the journal.

use std::{
    sync::{Arc, PoisonError},
    time::Instant,
};

use tokio::sync::mpsc;

use super::{Changes, Commit, Job, Journal, Pending, Revision, Shared, StoreError, closed, group::Group};
use crate::telemetry::metrics::METRICS;

/// A group is closed at this many commits or bytes, so that the first of them does not wait for the last for ever.
const GROUP_COMMITS: usize = 1_024;
const GROUP_BYTES: usize = 4 << 20;
/// Commits are refused while so many full generations, by their bytes, wait for the tree.
const WAITING: usize = 4;

/// The one thread that writes the journal.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) file: Journal,
    pub(super) jobs: mpsc::Receiver<Job>,
    /// A generation is full at this many bytes of memory.
    pub(super) generation_bytes: usize,
    /// Why nothing is written any more.
    pub(super) stopped: Option<StoreError>,
    /// The last write found the disk full.
    pub(super) full: bool,
}

impl Writer {
    pub(super) fn run(mut self) {
        while let Some(first) = self.jobs.blocking_recv() {
            self.wait_for_the_tree();
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
                            (None, Some(tree)) => group.add(tree, &pending, batch, answer),
                            (Some(refusal), _) => drop(answer.send(Err(refusal))),
                            (None, None) => drop(answer.send(Err(pending.held_up.clone().unwrap_or_else(closed)))),
                        },
                        Job::Close(answer) => closing = Some(answer),
                    }
                    let more = closing.is_none() && group.answers.len() < GROUP_COMMITS && group.bytes < GROUP_BYTES;
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

    /// Why no commit can be taken now.
    fn refusal(&self, pending: &Pending) -> Option<StoreError> {
        let held_up = || pending.held_up.clone().filter(|_| self.waits_too_much(pending));
        self.stopped.clone().or_else(held_up)
    }

    /// Waits while too much waits for a tree that is at work.
    fn wait_for_the_tree(&self) {
        let busy = |pending: &mut Pending| self.waits_too_much(pending) && pending.held_up.is_none() && !pending.abandoned;
        drop(self.shared.moved.wait_while(self.shared.pending(), busy));
    }

    fn waits_too_much(&self, pending: &Pending) -> bool {
        pending.waiting_bytes() > self.generation_bytes.saturating_mul(WAITING)
    }

    /// Makes the group durable, then visible, then answers.
    fn finish(&mut self, group: Group) {
        let Group { revision, commits, changes, answers, .. } = group;
        if commits.is_empty() {
            return;
        }
        let begun = Instant::now();
        let written = self.file.append(&commits).and_then(|()| self.shared.directory.note(revision));
        match &written {
            Ok(()) => {
                METRICS.committed(commits.len(), begun.elapsed());
                self.publish(revision, commits, changes);
            }
            Err(error @ StoreError::Full(_)) if self.full => tracing::debug!(%error, "the disk is still full"),
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

    fn publish(&mut self, revision: Revision, commits: Vec<Arc<Commit>>, changes: Changes) {
        let mut pending = self.shared.pending();
        pending.active.extend(&commits, changes);
        // Without room for a new file the old one grows on.
        if pending.active.bytes >= self.generation_bytes
            && let Ok(file) = Journal::create(&self.shared.journal, revision)
        {
            self.file = file;
            pending.rotate();
            self.shared.moved.notify_all();
        }
        drop(pending);
        self.shared.recent.push(commits, revision);
        self.shared.recent.wait_for_room();
    }

    /// Waits until the tree has everything, and refuses whatever comes after.
    fn close(&mut self) -> Result<Revision, StoreError> {
        if let Some(error) = &self.stopped {
            return Err(error.clone());
        }
        let mut pending = self.shared.pending();
        pending.rotate();
        self.shared.moved.notify_all();
        let busy = |pending: &mut Pending| !pending.full.is_empty() && pending.held_up.is_none() && !pending.abandoned;
        let pending = self.shared.moved.wait_while(pending, busy).unwrap_or_else(PoisonError::into_inner);
        self.stopped = Some(closed());
        if let Some(error) = pending.held_up.clone().filter(|_| !pending.full.is_empty()) {
            return Err(error);
        }
        Journal::remove_all(&self.shared.journal)?;
        Ok(pending.active.revision)
    }
}
