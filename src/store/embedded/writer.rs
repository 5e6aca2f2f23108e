//! The writer: group commit to the journal. A failed step is undone or retried, or it stops the
//! writer:
//!
//! - A write to the journal on a full disk is truncated. Any other error of the write, or of its
//!   sync, stops the writer.
//! - If the durable revision cannot be saved, the commits are acknowledged, because they are
//!   synced. Further commits are refused until a retry saves it.
//! - If a new journal file cannot be created, the old one grows up to a bound, and each group tries
//!   again. If the new file cannot be synced, the writer stops.

use std::{
    sync::{Arc, PoisonError},
    time::Instant,
};

use tokio::sync::mpsc;

use super::{
    commit_group::{AbsentKeys, Group},
    journal::{Journal, RotateError},
    memtable::{Memtables, Mutations},
    shared::{CommitReply, Job, Shared, closed},
};
use crate::store::{Commit, Revision, StoreError};
use crate::telemetry::metrics::METRICS;

/// A group ends at this many commits or bytes, which bounds the wait of its first commit.
const GROUP_MAX_COMMITS: usize = 1_024;
const GROUP_MAX_BYTES: usize = 4 << 20;
/// Commits wait while sealed memtables of more than this many times the size limit wait for the
/// flusher; if the tree has failed they are refused.
const SEALED_MEMTABLES_MAX: usize = 4;

/// The only thread that writes the journal.
pub(super) struct Writer {
    shared: Arc<Shared>,
    journal: Journal,
    jobs: mpsc::Receiver<Job>,
    /// A memtable of this estimated memory is sealed.
    memtable_bytes: usize,
    absent_keys: AbsentKeys,
    /// Why nothing is written before a restart.
    fatal_error: Option<StoreError>,
    /// Why the durable revision is not saved yet.
    durable_revision_error: Option<StoreError>,
    /// Why the active memtable is not sealed, although it has reached its size limit.
    rotate_error: Option<StoreError>,
    /// The last write found the disk full.
    is_disk_full: bool,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        journal: Journal,
        jobs: mpsc::Receiver<Job>,
        memtable_bytes: usize,
    ) -> Self {
        Self {
            shared,
            journal,
            jobs,
            memtable_bytes,
            absent_keys: AbsentKeys::default(),
            fatal_error: None,
            durable_revision_error: None,
            rotate_error: None,
            is_disk_full: false,
        }
    }

    pub(super) fn run(mut self) {
        while let Some(first) = self.jobs.blocking_recv() {
            self.wait_for_flusher();
            self.retry_failed_steps();
            let (group, close_reply) = self.collect_group(first);
            self.commit(group);
            if let Some(reply) = close_reply {
                let _ = reply.send(self.close());
            }
        }
    }

    /// Collects queued commits into a group, up to a close or the limits of a group.
    fn collect_group(&mut self, first: Job) -> (Group, Option<CommitReply>) {
        let shared = self.shared.clone();
        let tree = shared.tree.read().unwrap_or_else(PoisonError::into_inner);
        let memtables = shared.memtables();
        let mut group = Group::after(memtables.active.revision);
        let mut next = Some(first);
        while let Some(job) = next {
            match job {
                Job::Commit(batch, reply) => match (self.refusal(&memtables), &*tree) {
                    (None, Some(tree)) => {
                        group.add(tree, &memtables, &mut self.absent_keys, batch, reply)
                    }
                    (Some(refusal), _) => drop(reply.send(Err(refusal))),
                    (None, None) => {
                        let error = memtables.flush_error.clone().unwrap_or_else(closed);
                        drop(reply.send(Err(error)));
                    }
                },
                Job::Close(reply) => return (group, Some(reply)),
            }
            let has_room = group.replies.len() < GROUP_MAX_COMMITS && group.bytes < GROUP_MAX_BYTES;
            next = if has_room { self.jobs.try_recv().ok() } else { None };
        }
        (group, None)
    }

    /// Retries steps that failed after earlier commits were synced.
    fn retry_failed_steps(&mut self) {
        if self.fatal_error.is_some() {
            return;
        }
        if self.durable_revision_error.is_some() {
            let revision = self.shared.memtables().active.revision;
            self.save_durable_revision(revision);
        }
        if self.rotate_error.is_some() {
            self.rotate();
        }
    }

    /// Why no commit can be accepted now.
    fn refusal(&self, memtables: &Memtables) -> Option<StoreError> {
        if let Some(error) = self.fatal_error.as_ref().or(self.durable_revision_error.as_ref()) {
            return Some(error.clone());
        }
        if memtables.flush_error.is_some() && self.is_flusher_behind(memtables) {
            return memtables.flush_error.clone();
        }
        // The active memtable may grow while its file cannot be rotated, but not without bound.
        let max_bytes = self.memtable_bytes.saturating_mul(SEALED_MEMTABLES_MAX + 1);
        self.rotate_error.clone().filter(|_| memtables.bytes() > max_bytes)
    }

    /// Waits while the flusher is too far behind, unless the tree has failed.
    fn wait_for_flusher(&self) {
        let must_wait = |memtables: &mut Memtables| {
            self.is_flusher_behind(memtables)
                && memtables.flush_error.is_none()
                && !memtables.is_abandoned
        };
        drop(self.shared.state_changed.wait_while(self.shared.memtables(), must_wait));
    }

    fn is_flusher_behind(&self, memtables: &Memtables) -> bool {
        memtables.sealed_bytes() > self.memtable_bytes.saturating_mul(SEALED_MEMTABLES_MAX)
    }

    /// Makes the group durable, then visible, then answers its callers.
    fn commit(&mut self, group: Group) {
        let Group { after, revision, commits, changes, replies, .. } = group;
        if commits.is_empty() {
            return;
        }
        let started = Instant::now();
        let written = self.journal.append(&commits, after);
        match &written {
            Ok(()) => {
                self.save_durable_revision(revision);
                METRICS.committed(commits.len(), started.elapsed());
                self.publish(revision, commits, changes);
            }
            Err(error @ StoreError::Full(_)) if self.is_disk_full => {
                tracing::debug!(%error, "the disk is still full")
            }
            Err(error @ StoreError::Full(_)) => {
                tracing::error!(%error, "the disk is full; commits are refused until space is freed")
            }
            Err(error) => {
                tracing::error!(%error, "a write to the disk has failed; commits are refused until a restart");
                self.fatal_error = Some(error.clone());
            }
        }
        if self.is_disk_full && written.is_ok() {
            tracing::info!(revision, "the disk has space again; commits are accepted");
        }
        self.is_disk_full = matches!(written, Err(StoreError::Full(_)));
        for (reply, revision) in replies {
            let _ = reply.send(written.clone().map(|()| revision));
        }
    }

    fn save_durable_revision(&mut self, revision: Revision) {
        let saved = self.shared.directory.save_durable_revision(revision);
        if let Err(error) = &saved
            && self.durable_revision_error.is_none()
        {
            tracing::error!(%error, revision, "the durable revision could not be saved; commits are refused until it is");
        }
        self.durable_revision_error = saved.err();
    }

    fn publish(&mut self, revision: Revision, commits: Vec<Arc<Commit>>, changes: Mutations) {
        let is_full = {
            let mut memtables = self.shared.memtables();
            memtables.active.extend(&commits, changes);
            memtables.active.bytes >= self.memtable_bytes
        };
        if is_full {
            self.rotate();
        }
        self.shared.feed_buffer.push(commits, revision);
        self.shared.feed_buffer.wait_for_room();
    }

    /// Seals the active memtable, and begins the next with a new journal file.
    fn rotate(&mut self) {
        let revision = self.shared.memtables().active.revision;
        match self.journal.rotate(revision) {
            Ok(()) => {
                self.shared.memtables().rotate();
                self.shared.state_changed.notify_all();
                self.rotate_error = None;
            }
            Err(RotateError::NotCreated(error)) => {
                if self.rotate_error.is_none() {
                    tracing::warn!(%error, "a new journal file could not be created; the old one grows");
                }
                self.rotate_error = Some(error);
            }
            Err(RotateError::NotSynced(error)) => {
                tracing::error!(%error, "a sync of the disk has failed; commits are refused until a restart");
                self.fatal_error = Some(error);
            }
        }
    }

    /// Waits until the tree has all commits, and refuses later ones.
    fn close(&mut self) -> Result<Revision, StoreError> {
        if let Some(error) = &self.fatal_error {
            return Err(error.clone());
        }
        let mut memtables = self.shared.memtables();
        memtables.rotate();
        self.shared.state_changed.notify_all();
        let must_wait = |memtables: &mut Memtables| {
            !memtables.sealed.is_empty()
                && memtables.flush_error.is_none()
                && !memtables.is_abandoned
        };
        let memtables = self
            .shared
            .state_changed
            .wait_while(memtables, must_wait)
            .unwrap_or_else(PoisonError::into_inner);
        self.fatal_error = Some(closed());
        if let Some(error) = memtables.flush_error.clone().filter(|_| !memtables.sealed.is_empty())
        {
            return Err(error);
        }
        Journal::remove_all(&self.shared.journal)?;
        Ok(memtables.active.revision)
    }
}
