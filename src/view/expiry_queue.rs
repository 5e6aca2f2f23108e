//! The rooms and clients that the sweeper visits, sorted by time.
//!
//! An entity has one entry, for the earliest expiry of all its records, so the queue is small
//! beside the records. An entry whose time is no longer `scheduled_ms` of its entity is stale, and
//! is dropped when its time comes.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

/// The id of a room or a client in its app.
#[derive(Clone, Copy)]
pub(super) enum EntityId<'a> {
    Room(&'a str),
    Client(&'a str),
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct QueueEntry {
    pub(super) at_ms: u64,
    pub(super) is_room: bool,
    pub(super) app: Arc<str>,
    pub(super) id: Arc<str>,
}

#[derive(Default)]
pub(super) struct ExpiryQueue {
    entries: Mutex<BTreeSet<QueueEntry>>,
}

impl ExpiryQueue {
    /// Schedules a visit of the entity, unless an earlier one is scheduled.
    pub(super) fn schedule(
        &self,
        at_ms: Option<u64>,
        app: &str,
        entity: EntityId<'_>,
        scheduled_ms: &mut Option<u64>,
    ) {
        let Some(at_ms) =
            at_ms.filter(|at_ms| scheduled_ms.is_none_or(|scheduled| *at_ms < scheduled))
        else {
            return;
        };
        let mut entries = self.entries();
        if let Some(old_ms) = scheduled_ms.replace(at_ms) {
            entries.remove(&entity.entry(app, old_ms));
        }
        entries.insert(entity.entry(app, at_ms));
    }

    /// Cancels the visit of an entity that the index drops.
    pub(super) fn cancel_if(
        &self,
        is_empty: bool,
        app: &str,
        entity: EntityId<'_>,
        scheduled_ms: &mut Option<u64>,
    ) {
        if is_empty && let Some(at_ms) = scheduled_ms.take() {
            self.entries().remove(&entity.entry(app, at_ms));
        }
    }

    /// Replaces an entry whose visit found nothing by the next one. A visit that found something
    /// keeps its entry, because the sweep may fail.
    pub(super) fn reschedule(
        &self,
        entry: &QueueEntry,
        next_ms: Option<u64>,
        scheduled_ms: &mut Option<u64>,
    ) {
        let mut entries = self.entries();
        entries.remove(entry);
        if *scheduled_ms == Some(entry.at_ms) {
            *scheduled_ms = next_ms;
            entries.extend(next_ms.map(|at_ms| QueueEntry { at_ms, ..entry.clone() }));
        }
    }

    /// The entry after this one, if its time has come.
    pub(super) fn next(&self, after: Option<&QueueEntry>, now_ms: u64) -> Option<QueueEntry> {
        use std::ops::Bound::{Excluded, Unbounded};
        let entries = self.entries();
        let next = entries.range((after.map_or(Unbounded, Excluded), Unbounded)).next();
        next.filter(|entry| entry.at_ms <= now_ms).cloned()
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, BTreeSet<QueueEntry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EntityId<'_> {
    fn entry(&self, app: &str, at_ms: u64) -> QueueEntry {
        let (is_room, id) = match self {
            Self::Room(id) => (true, *id),
            Self::Client(id) => (false, *id),
        };
        QueueEntry { at_ms, is_room, app: app.into(), id: id.into() }
    }
}
