//! Who watches what, and the broadcast of each change to them. A change is decoded once, and only
//! its watchers receive it.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
    change::{Change, Subject},
    spans::Spans,
    subscription::{EndReason, Queue},
};
use crate::{
    clock::Clock,
    model::EventKind,
    store::{Commit, Revision, Store, StoreError},
    view::View,
};
use futures_util::StreamExt as _;

/// The delay before a failed feed is followed again.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// The live end of the feed, for all watchers of this process.
pub struct Hub {
    /// The latest commit that was broadcast, or skipped because no watcher receives it. The view
    /// has always applied it.
    latest_revision: AtomicU64,
    slow_watchers: AtomicU64,
    /// No more changes will come. Set under the lock of `subscriptions`.
    is_closed: AtomicBool,
    clock: Clock,
    /// Which apps have events in which part of the history.
    pub spans: Spans,
    subscriptions: Mutex<Subscriptions>,
    /// Watches of each app, including those that have no subscription yet.
    watches_by_app: Mutex<HashMap<String, usize>>,
}

#[derive(Default)]
struct Subscriptions {
    /// The id of the next subscription.
    next_id: u64,
    by_subject: HashMap<String, HashMap<u64, Arc<Queue>>>,
}

/// The subscription of one watcher to a subject. Dropping it ends it.
pub(super) struct Subscription {
    hub: Arc<Hub>,
    subject_key: String,
    id: u64,
    pub(super) queue: Arc<Queue>,
    /// The queue receives all changes after this revision.
    pub(super) base: Revision,
}

/// One of the watches that an app may have. Dropping it gives it back.
pub struct WatchPermit {
    hub: Arc<Hub>,
    app: String,
}

impl Hub {
    /// Starts at the view's revision.
    #[must_use]
    pub fn new(view: &View, clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            latest_revision: AtomicU64::new(view.revision()),
            slow_watchers: AtomicU64::new(0),
            is_closed: AtomicBool::new(false),
            clock,
            spans: Spans::default(),
            subscriptions: Mutex::default(),
            watches_by_app: Mutex::default(),
        })
    }

    /// The latest commit that was broadcast or skipped.
    #[must_use]
    pub fn latest_revision(&self) -> Revision {
        self.latest_revision.load(Ordering::Acquire)
    }

    /// Number of watches that have a subscription.
    #[must_use]
    pub fn watchers(&self) -> usize {
        self.subscriptions().by_subject.values().map(HashMap::len).sum()
    }

    /// Admits one more watch of this app. None: it has `max` watches already.
    #[must_use]
    pub fn admit(self: &Arc<Self>, app: &str, max: u64) -> Option<WatchPermit> {
        let mut watches_by_app = self.watches_by_app();
        let count = watches_by_app.get(app).copied().unwrap_or(0);
        if count as u64 >= max {
            return None;
        }
        watches_by_app.insert(app.to_owned(), count + 1);
        Some(WatchPermit { hub: self.clone(), app: app.to_owned() })
    }

    /// Number of watches of the app that has the most.
    #[must_use]
    pub fn most_watchers(&self) -> usize {
        self.watches_by_app().values().copied().max().unwrap_or(0)
    }

    fn watches_by_app(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.watches_by_app.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of watchers that were disconnected because they did not read, since the start.
    #[must_use]
    pub fn slow_watchers(&self) -> u64 {
        self.slow_watchers.load(Ordering::Relaxed)
    }

    /// Ends all watches, and admits no subscription any more.
    pub fn close(&self) {
        let mut subscriptions = self.subscriptions();
        self.is_closed.store(true, Ordering::Release);
        subscriptions.end_all();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// Subscribes to a subject. None: the hub is closed.
    pub(super) fn subscribe(self: &Arc<Self>, subject: &Subject) -> Option<Subscription> {
        let mut subscriptions = self.subscriptions();
        if self.is_closed() {
            return None;
        }
        let queue = Queue::new(self.now());
        let id = subscriptions.next_id;
        let subject_key = subject_key(&subject.app, subject.room.as_deref());
        subscriptions.next_id += 1;
        subscriptions.by_subject.entry(subject_key.clone()).or_default().insert(id, queue.clone());
        Some(Subscription {
            hub: self.clone(),
            subject_key,
            id,
            queue,
            base: self.latest_revision(),
        })
    }

    /// Broadcasts each commit of the store when the view has applied it. Never returns.
    pub async fn follow(self: Arc<Self>, store: Arc<dyn Store>, view: View) {
        loop {
            match self.follow_once(&*store, &view).await {
                Err(StoreError::Compacted { .. }) => {
                    tracing::warn!(
                        "the change feed has skipped commits; watchers read them from history"
                    );
                    // The feed can resume only from a later revision of the view.
                    while !view.wait_for(self.latest_revision() + 1).await {}
                }
                Ok(()) => tracing::error!("the change feed has ended; trying again"),
                Err(error) => tracing::error!(%error, "the change feed has failed; trying again"),
            }
            tokio::time::sleep(RETRY_DELAY).await;
        }
    }

    async fn follow_once(&self, store: &dyn Store, view: &View) -> Result<(), StoreError> {
        self.skip_to(view.revision());
        let mut feed = store.watch(self.latest_revision()).await?;
        while let Some(commit) = feed.next().await {
            let commit = commit?;
            while !view.wait_for(commit.revision).await {}
            self.broadcast(&commit)?;
        }
        Ok(())
    }

    /// Skips the commits up to this one. Subscriptions end, and their watchers read history.
    pub(super) fn skip_to(&self, revision: Revision) {
        let mut subscriptions = self.subscriptions();
        if revision > self.latest_revision() {
            subscriptions.end_all();
            self.latest_revision.store(revision, Ordering::Release);
        }
    }

    pub(super) fn broadcast(&self, commit: &Commit) -> Result<(), StoreError> {
        let mut subscriptions = self.subscriptions();
        let change = if subscriptions.by_subject.is_empty() {
            None
        } else {
            Change::decode(commit.revision, &commit.event)?
        };
        match change.map(Arc::new) {
            Some(change) if change.event.kind == EventKind::Imported => {
                subscriptions.end_app(&change.event.app, change.revision)
            }
            Some(change) => {
                let now = self.now();
                let mut slow =
                    subscriptions.broadcast(&subject_key(&change.event.app, None), &change, now);
                if !change.event.room.is_empty() {
                    slow += subscriptions.broadcast(
                        &subject_key(&change.event.app, Some(&change.event.room)),
                        &change,
                        now,
                    );
                }
                self.slow_watchers.fetch_add(slow, Ordering::Relaxed);
            }
            None => {}
        }
        // After the queues are filled, and under the lock of the subscriptions: a watcher with an
        // empty queue has received all changes up to this revision.
        self.latest_revision.store(commit.revision, Ordering::Release);
        Ok(())
    }

    /// The time for stalls of watchers.
    pub(super) fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    fn subscriptions(&self) -> MutexGuard<'_, Subscriptions> {
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscriptions {
    /// Returns the number of watchers that were disconnected.
    fn broadcast(&mut self, subject_key: &str, change: &Arc<Change>, now: Duration) -> u64 {
        let Some(queues) = self.by_subject.get_mut(subject_key) else { return 0 };
        let count_before = queues.len();
        queues.retain(|_, queue| !queue.offer(change, now));
        let slow = count_before - queues.len();
        if queues.is_empty() {
            self.by_subject.remove(subject_key);
        }
        slow as u64
    }

    /// Ends the subscriptions to an app and to its rooms, at an import.
    fn end_app(&mut self, app: &str, revision: Revision) {
        let room_prefix = subject_key(app, Some(""));
        self.by_subject.retain(|subject_key, queues| {
            let is_in_app = subject_key == app || subject_key.starts_with(&room_prefix);
            if is_in_app {
                queues.values().for_each(|queue| queue.end(EndReason::Imported(revision)));
            }
            !is_in_app
        });
    }

    /// Ends all subscriptions. Their watchers read history next.
    fn end_all(&mut self) {
        self.by_subject
            .drain()
            .flat_map(|(_, queues)| queues)
            .for_each(|(_, queue)| queue.end(EndReason::Skipped));
    }
}

impl Drop for WatchPermit {
    fn drop(&mut self) {
        let mut watches_by_app = self.hub.watches_by_app();
        if let Some(count) = watches_by_app.get_mut(&self.app) {
            *count -= 1;
            if *count == 0 {
                watches_by_app.remove(&self.app);
            }
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut subscriptions = self.hub.subscriptions();
        if let Some(queues) = subscriptions.by_subject.get_mut(&self.subject_key) {
            queues.remove(&self.id);
            if queues.is_empty() {
                subscriptions.by_subject.remove(&self.subject_key);
            }
        }
    }
}

/// Ids hold no control characters, so the key of a room never equals that of an app or of another
/// room.
fn subject_key(app: &str, room: Option<&str>) -> String {
    room.map_or_else(|| app.to_owned(), |room| format!("{app}\0{room}"))
}
