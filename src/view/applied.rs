//! Which commit the view has applied, and who waits for one.
//!
//! Each waiter is woken once, when its own commit is there: with one signal for all, every commit
//! would wake every writer. Whoever stops waiting is forgotten: a reader may ask for a commit that
//! never comes.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::oneshot;

use crate::store::Revision;

pub(super) struct AppliedRevision {
    revision: AtomicU64,
    waiting: Mutex<Waiters>,
}

/// By commit; the second number tells those apart who wait for the same.
type Ticket = (Revision, u64);

#[derive(Default)]
struct Waiters {
    next: u64,
    waiters: BTreeMap<Ticket, oneshot::Sender<()>>,
}

/// One who waits; gone from the list when it is dropped.
struct Waiter<'a> {
    applied: &'a AppliedRevision,
    ticket: Ticket,
}

impl AppliedRevision {
    pub(super) fn at(revision: Revision) -> Self {
        Self { revision: AtomicU64::new(revision), waiting: Mutex::default() }
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision.load(Ordering::Acquire)
    }

    /// Notes that the view has come so far, and wakes whoever waited for it. Called by the feed
    /// only.
    pub(super) fn advance(&self, revision: Revision) {
        let mut waiting = self.waiting();
        self.revision.store(revision, Ordering::Release);
        let later = waiting.waiters.split_off(&(revision + 1, 0));
        let there = std::mem::replace(&mut waiting.waiters, later);
        drop(waiting);
        for waiter in there.into_values() {
            let _ = waiter.send(());
        }
    }

    /// Ends when the view has come so far.
    pub(super) async fn reach(&self, revision: Revision) {
        let (told, _waiter) = {
            let mut waiting = self.waiting();
            // Looked at under the lock, so that an advance between the look and the wait is not
            // missed.
            if self.revision() >= revision {
                return;
            }
            let (tell, told) = oneshot::channel();
            let ticket = (revision, waiting.next);
            waiting.next += 1;
            waiting.waiters.insert(ticket, tell);
            (told, Waiter { applied: self, ticket })
        };
        // The sender is dropped with the view only.
        let _ = told.await;
    }

    fn waiting(&self) -> MutexGuard<'_, Waiters> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        // Whoever was told is no longer in the list.
        if self.applied.revision() < self.ticket.0 {
            self.applied.waiting().waiters.remove(&self.ticket);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn whoever_waits_is_woken_by_its_commit_and_whoever_gives_up_is_forgotten() {
        let applied = AppliedRevision::at(7);
        applied.reach(7).await;
        {
            let mut first = Box::pin(applied.reach(8));
            let mut second = Box::pin(applied.reach(8));
            let mut never = Box::pin(applied.reach(u64::MAX));
            let waits =
                [&mut first, &mut second].into_iter().all(|wait| wait.now_or_never().is_none());
            assert!(waits && (&mut never).now_or_never().is_none());
            drop(first);
            assert_eq!(applied.waiting().waiters.len(), 2);
            applied.advance(8);
            assert!(
                (&mut second).now_or_never().is_some() && (&mut never).now_or_never().is_none()
            );
        }
        assert!(applied.waiting().waiters.is_empty());
    }
}
