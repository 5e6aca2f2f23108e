//! The queue of one subscription: changes in commit order, bounded by their bytes, and the reason
//! why it ended.
//!
//! A burst alone disconnects no watcher. When more than [`BUDGET_BYTES`] would wait, the queue ends
//! as skipped: the watcher takes what is queued and then reads history. It is disconnected only if
//! by then it has taken nothing for [`STALL_TIMEOUT`].

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;

use super::change::Change;
use crate::store::Revision;

/// Bytes of changes in one queue, at most: a few thousand mutes of one user each.
const BUDGET_BYTES: usize = 1 << 20;
/// A watcher that takes nothing for this long, while its queue is over budget, does not read.
const STALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a queue receives no more changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EndReason {
    /// The hub skipped commits, which are in history, or it is closed.
    Skipped,
    /// The changes were not taken in time.
    TooSlow,
    /// This commit is an import. Its changes are not listed one by one.
    Imported(Revision),
}

/// The head of a queue.
pub(super) enum QueueItem {
    Change(Arc<Change>),
    End(EndReason),
    Empty,
}

/// The queue of one subscription. The hub fills it, the watcher empties it.
pub(super) struct Queue {
    state: Mutex<QueueState>,
    arrived: Notify,
}

struct QueueState {
    changes: VecDeque<Arc<Change>>,
    bytes: usize,
    /// When the watcher last took a change or found the queue empty, by the hub's clock.
    last_take: Duration,
    end: Option<EndReason>,
}

impl Queue {
    pub(super) fn new(now: Duration) -> Arc<Self> {
        let state = QueueState { changes: VecDeque::new(), bytes: 0, last_take: now, end: None };
        Arc::new(Self { state: Mutex::new(state), arrived: Notify::new() })
    }

    /// Appends a change. True: the watcher has stalled, and the hub must drop its queue.
    pub(super) fn offer(&self, change: &Arc<Change>, now: Duration) -> bool {
        let mut state = self.state();
        let bytes = change.bytes();
        if state.end.is_none() && state.has_room_for(bytes) {
            state.bytes += bytes;
            state.changes.push_back(change.clone());
            drop(state);
            self.arrived.notify_one();
            return false;
        }
        let is_stalled = now.saturating_sub(state.last_take) >= STALL_TIMEOUT;
        state.end = Some(if is_stalled { EndReason::TooSlow } else { EndReason::Skipped });
        is_stalled
    }

    /// Ends the queue. The first reason stays.
    pub(super) fn end(&self, reason: EndReason) {
        self.state().end.get_or_insert(reason);
        self.arrived.notify_one();
    }

    /// The next change; after the last change, the reason why the queue ended.
    pub(super) fn take(&self, now: Duration) -> QueueItem {
        let mut state = self.state();
        state.last_take = now;
        match (state.changes.pop_front(), state.end) {
            (Some(change), _) => {
                state.bytes = state.bytes.saturating_sub(change.bytes());
                QueueItem::Change(change)
            }
            (None, Some(reason)) => QueueItem::End(reason),
            (None, None) => QueueItem::Empty,
        }
    }

    /// Waits until a change or an end may have arrived. Wakes spuriously.
    pub(super) async fn arrival(&self) {
        self.arrived.notified().await;
    }

    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QueueState {
    fn has_room_for(&self, bytes: usize) -> bool {
        self.changes.is_empty() || self.bytes + bytes <= BUDGET_BYTES
    }
}
