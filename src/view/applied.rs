//! Which commit the view has applied, and who waits for one.
//!
//! Each waiter is woken once, when its own commit is there: with one signal for all, every commit would wake every writer.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::oneshot;

use crate::store::Revision;

pub(super) struct Applied {
    revision: AtomicU64,
    waiting: Mutex<BTreeMap<Revision, Vec<oneshot::Sender<()>>>>,
}

impl Applied {
    pub(super) fn at(revision: Revision) -> Self {
        Self { revision: AtomicU64::new(revision), waiting: Mutex::default() }
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision.load(Ordering::Acquire)
    }

    /// Notes that the view has come so far, and wakes whoever waited for it. Called by the feed only.
    pub(super) fn advance(&self, revision: Revision) {
        let mut waiting = self.waiting();
        self.revision.store(revision, Ordering::Release);
        let later = waiting.split_off(&(revision + 1));
        let there = std::mem::replace(&mut *waiting, later);
        drop(waiting);
        for waiter in there.into_values().flatten() {
            let _ = waiter.send(());
        }
    }

    /// Ends when the view has come so far.
    pub(super) async fn reach(&self, revision: Revision) {
        let told = {
            let mut waiting = self.waiting();
            // Looked at under the lock, so that an advance between the look and the wait is not missed.
            if self.revision() >= revision {
                return;
            }
            let (tell, told) = oneshot::channel();
            waiting.entry(revision).or_default().push(tell);
            told
        };
        // The sender is dropped with the view only.
        let _ = told.await;
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<Revision, Vec<oneshot::Sender<()>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
