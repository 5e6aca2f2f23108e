//! Which rooms and clients the sweeper is to look at, and when.
//!
//! The schedule holds rooms and clients, not marks: one entry for the earliest end of each, so that
//! it costs next to nothing beside the marks themselves. An entry whose time is no longer that of
//! its place is stale and dropped when it comes up.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

pub(super) enum Place<'a> {
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
pub(super) struct Schedule {
    entries: Mutex<BTreeSet<QueueEntry>>,
}

impl Schedule {
    /// Has the place visited at that time, if it is not to be visited earlier anyway.
    pub(super) fn at(
        &self,
        at_ms: Option<u64>,
        app: &str,
        place: Place<'_>,
        scheduled_ms: &mut Option<u64>,
    ) {
        let Some(at_ms) =
            at_ms.filter(|at_ms| scheduled_ms.is_none_or(|scheduled| *at_ms < scheduled))
        else {
            return;
        };
        let mut entries = self.entries();
        if let Some(later_ms) = scheduled_ms.replace(at_ms) {
            entries.remove(&place.entry(app, later_ms));
        }
        entries.insert(place.entry(app, at_ms));
    }

    /// Drops the visit of a place that is no more.
    pub(super) fn forget_if(
        &self,
        gone: bool,
        app: &str,
        place: Place<'_>,
        scheduled_ms: &mut Option<u64>,
    ) {
        if gone && let Some(at_ms) = scheduled_ms.take() {
            self.entries().remove(&place.entry(app, at_ms));
        }
    }

    /// Plans the visit after one that found nothing. One that did is kept until then, because the
    /// sweep of what it found may fail.
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

impl Place<'_> {
    fn entry(&self, app: &str, at_ms: u64) -> QueueEntry {
        let (is_room, id) = match self {
            Self::Room(id) => (true, *id),
            Self::Client(id) => (false, *id),
        };
        QueueEntry { at_ms, is_room, app: app.into(), id: id.into() }
    }
}
