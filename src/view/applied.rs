//! The latest commit that the view has applied, and the tasks that wait for one.
//!
//! Each waiter is woken once, by its own commit. With one signal for all, every commit would wake
//! every writer. A waiter that gives up is removed, because a reader may ask for a revision that
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
    waiters: Mutex<Waiters>,
}

/// The revision, and a number that separates waiters for the same revision.
type Ticket = (Revision, u64);

#[derive(Default)]
struct Waiters {
    next_number: u64,
    by_ticket: BTreeMap<Ticket, oneshot::Sender<()>>,
}

/// One waiter. Dropping it removes it from the list.
struct Waiter<'a> {
    applied: &'a AppliedRevision,
    ticket: Ticket,
}

impl AppliedRevision {
    pub(super) fn at(revision: Revision) -> Self {
        Self { revision: AtomicU64::new(revision), waiters: Mutex::default() }
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision.load(Ordering::Acquire)
    }

    /// Raises the revision, and wakes the waiters up to it. Called by the feed only.
    pub(super) fn advance(&self, revision: Revision) {
        let mut waiters = self.waiters();
        self.revision.store(revision, Ordering::Release);
        let later = waiters.by_ticket.split_off(&(revision + 1, 0));
        let reached = std::mem::replace(&mut waiters.by_ticket, later);
        drop(waiters);
        for sender in reached.into_values() {
            let _ = sender.send(());
        }
    }

    /// Returns when the view has applied this revision.
    pub(super) async fn reach(&self, revision: Revision) {
        let (receiver, _waiter) = {
            let mut waiters = self.waiters();
            // Checked under the lock, so that no advance is missed between the check and the wait.
            if self.revision() >= revision {
                return;
            }
            let (sender, receiver) = oneshot::channel();
            let ticket = (revision, waiters.next_number);
            waiters.next_number += 1;
            waiters.by_ticket.insert(ticket, sender);
            (receiver, Waiter { applied: self, ticket })
        };
        // The sender is dropped unused only with the view.
        let _ = receiver.await;
    }

    fn waiters(&self) -> MutexGuard<'_, Waiters> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        // A waiter that was woken is no longer in the list.
        if self.applied.revision() < self.ticket.0 {
            self.applied.waiters().by_ticket.remove(&self.ticket);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_waiter_wakes_with_its_commit_or_gives_up_for_good() {
        let applied = AppliedRevision::at(7);
        applied.reach(7).await;
        {
            let mut first = Box::pin(applied.reach(8));
            let mut second = Box::pin(applied.reach(8));
            let mut never = Box::pin(applied.reach(u64::MAX));
            let both_wait =
                [&mut first, &mut second].into_iter().all(|wait| wait.now_or_never().is_none());
            assert!(both_wait && (&mut never).now_or_never().is_none());
            drop(first);
            assert_eq!(applied.waiters().by_ticket.len(), 2);
            applied.advance(8);
            assert!(
                (&mut second).now_or_never().is_some() && (&mut never).now_or_never().is_none()
            );
        }
        assert!(applied.waiters().by_ticket.is_empty());
    }
}
