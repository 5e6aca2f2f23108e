//! What waits for one watcher: changes in the order of commits, bounded by their bytes, and why no
//! more will come.
//!
//! A burst cuts nobody. Where more than [`BUDGET_BYTES`] would wait, nothing more is kept for the
//! watcher, and it reads history when it has taken what waits; it is cut only if by then it has
//! taken nothing for [`STALL_TIMEOUT`].

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;

use super::change::Change;
use crate::store::Revision;

/// Bytes of changes that wait for one watcher, at most: some thousand mutes of one user each.
const BUDGET_BYTES: usize = 1 << 20;
/// A watcher that takes nothing for so long, and for which more than the budget has come, does not
/// read.
const STALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Why nothing more comes to a seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Some commits were left out: they are in history.
    LeftOut,
    /// The changes were not taken in time.
    TooSlow,
    /// Records were imported in this commit, which nobody can be told one by one.
    Imported(Revision),
}

/// What a watcher finds at its seat.
pub(super) enum Found {
    Change(Arc<Change>),
    End(End),
    Nothing,
}

/// Of one seat; the hub fills it, its watcher empties it.
pub(super) struct Queue {
    waiting: Mutex<QueueState>,
    arrived: Notify,
}

struct QueueState {
    changes: VecDeque<Arc<Change>>,
    bytes: usize,
    /// When the watcher has taken something, or found nothing to take.
    taken: Duration,
    end: Option<End>,
}

impl Queue {
    pub(super) fn new(now: Duration) -> Arc<Self> {
        let waiting = QueueState { changes: VecDeque::new(), bytes: 0, taken: now, end: None };
        Arc::new(Self { waiting: Mutex::new(waiting), arrived: Notify::new() })
    }

    /// Puts a change at the end. Answers whether the watcher was cut, for which there is then no
    /// place any more.
    pub(super) fn offer(&self, change: &Arc<Change>, now: Duration) -> bool {
        let mut waiting = self.waiting();
        let bytes = change.bytes();
        if waiting.end.is_none() && waiting.has_room_for(bytes) {
            waiting.bytes += bytes;
            waiting.changes.push_back(change.clone());
            drop(waiting);
            self.arrived.notify_one();
            return false;
        }
        let is_stalled = now.saturating_sub(waiting.taken) >= STALL_TIMEOUT;
        waiting.end = Some(if is_stalled { End::TooSlow } else { End::LeftOut });
        is_stalled
    }

    /// Nothing more will come, unless that was said already.
    pub(super) fn end(&self, end: End) {
        self.waiting().end.get_or_insert(end);
        self.arrived.notify_one();
    }

    /// The next change; after the last one the end, where there is one.
    pub(super) fn take(&self, now: Duration) -> Found {
        let mut waiting = self.waiting();
        waiting.taken = now;
        match (waiting.changes.pop_front(), waiting.end) {
            (Some(change), _) => {
                waiting.bytes = waiting.bytes.saturating_sub(change.bytes());
                Found::Change(change)
            }
            (None, Some(end)) => Found::End(end),
            (None, None) => Found::Nothing,
        }
    }

    /// Ends when something may have come. May end for nothing.
    pub(super) async fn arrival(&self) {
        self.arrived.notified().await;
    }

    fn waiting(&self) -> MutexGuard<'_, QueueState> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QueueState {
    fn has_room_for(&self, bytes: usize) -> bool {
        self.changes.is_empty() || self.bytes + bytes <= BUDGET_BYTES
    }
}
