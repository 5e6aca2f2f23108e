//! Who watches what, and how a change gets to all of them: decoded once, and by nobody who is not
//! about it.

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
    subscription::{End, Queue},
};
use crate::{
    clock::Clock,
    model::EventKind,
    store::{Commit, Revision, Store, StoreError},
    view::View,
};
use futures_util::StreamExt as _;

/// How long after a failure of the feed it is followed again.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// The live end of the feed, for all watchers of this process.
pub struct Hub {
    /// The newest commit that is handed out, or passed over because it is nobody's; never one that
    /// the view has not applied.
    newest: AtomicU64,
    /// Watchers that were cut because they did not read.
    cut: AtomicU64,
    /// No more changes will come. Set under the lock of the seats.
    closed: AtomicBool,
    clock: Clock,
    /// Whose events are where in the history.
    pub spans: Spans,
    subscriptions: Mutex<Subscriptions>,
    /// Watches of each app, those among them that have no seat yet.
    by_app: Mutex<HashMap<String, usize>>,
}

#[derive(Default)]
struct Subscriptions {
    /// The number of the next seat.
    next: u64,
    by_subject: HashMap<String, HashMap<u64, Arc<Queue>>>,
}

/// A watcher's place in the hub; given up when it is dropped.
pub(super) struct Subscription {
    hub: Arc<Hub>,
    subject: String,
    number: u64,
    pub(super) queue: Arc<Queue>,
    /// All changes after this revision come.
    pub(super) base: Revision,
}

/// One of the watches that an app may have; given up when it is dropped.
pub struct Admitted {
    hub: Arc<Hub>,
    app: String,
}

impl Hub {
    /// Stands where the view stands.
    #[must_use]
    pub fn new(view: &View, clock: Clock) -> Arc<Self> {
        let newest = AtomicU64::new(view.revision());
        Arc::new(Self {
            newest,
            cut: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            clock,
            spans: Spans::default(),
            subscriptions: Mutex::default(),
            by_app: Mutex::default(),
        })
    }

    /// The newest commit that was handed out.
    #[must_use]
    pub fn latest_revision(&self) -> Revision {
        self.newest.load(Ordering::Acquire)
    }

    /// How many watch, with a seat.
    #[must_use]
    pub fn watchers(&self) -> usize {
        self.subscriptions().by_subject.values().map(HashMap::len).sum()
    }

    /// Lets one more of this app watch; nothing where it has as many watches as this already.
    #[must_use]
    pub fn admit(self: &Arc<Self>, app: &str, most: u64) -> Option<Admitted> {
        let mut by_app = self.by_app();
        let count = by_app.get(app).copied().unwrap_or(0);
        if count as u64 >= most {
            return None;
        }
        by_app.insert(app.to_owned(), count + 1);
        Some(Admitted { hub: self.clone(), app: app.to_owned() })
    }

    /// How many watches the app has that has most.
    #[must_use]
    pub fn most_watchers(&self) -> usize {
        self.by_app().values().copied().max().unwrap_or(0)
    }

    fn by_app(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.by_app.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many have been cut because they did not read.
    #[must_use]
    pub fn cut(&self) -> u64 {
        self.cut.load(Ordering::Relaxed)
    }

    /// Ends all watches, for good.
    pub fn close(&self) {
        let mut subscriptions = self.subscriptions();
        self.closed.store(true, Ordering::Release);
        subscriptions.end_all();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// A seat for this subject; nothing where the hub is closed.
    pub(super) fn join(self: &Arc<Self>, subject: &Subject) -> Option<Subscription> {
        let mut subscriptions = self.subscriptions();
        if self.is_closed() {
            return None;
        }
        let queue = Queue::new(self.now());
        let number = subscriptions.next;
        let subject = key(&subject.app, subject.room.as_deref());
        subscriptions.next += 1;
        subscriptions.by_subject.entry(subject.clone()).or_default().insert(number, queue.clone());
        Some(Subscription {
            hub: self.clone(),
            subject,
            number,
            queue,
            base: self.latest_revision(),
        })
    }

    /// Hands out the commits of the store, each when the view has applied it. Never ends by itself.
    pub async fn follow(self: Arc<Self>, store: Arc<dyn Store>, view: View) {
        loop {
            match self.follow_once(&*store, &view).await {
                Err(StoreError::Compacted { .. }) => {
                    tracing::warn!("the feed was cut behind the watchers; they read history");
                    // There is nothing to go on from before the view has come further.
                    while !view.wait_for(self.latest_revision() + 1).await {}
                }
                Ok(()) => tracing::error!("the change feed has ended; trying again"),
                Err(error) => tracing::error!(%error, "the change feed has failed; trying again"),
            }
            tokio::time::sleep(RETRY_DELAY).await;
        }
    }

    async fn follow_once(&self, store: &dyn Store, view: &View) -> Result<(), StoreError> {
        self.go_on_from(view.revision());
        let mut feed = store.watch(self.latest_revision()).await?;
        while let Some(commit) = feed.next().await {
            let commit = commit?;
            while !view.wait_for(commit.revision).await {}
            self.broadcast(&commit)?;
        }
        Ok(())
    }

    /// Leaves out the commits up to this one: whoever has a seat loses it, and reads them from
    /// history.
    pub(super) fn go_on_from(&self, revision: Revision) {
        let mut subscriptions = self.subscriptions();
        if revision > self.latest_revision() {
            subscriptions.end_all();
            self.newest.store(revision, Ordering::Release);
        }
    }

    pub(super) fn broadcast(&self, commit: &Commit) -> Result<(), StoreError> {
        let mut subscriptions = self.subscriptions();
        let change = if subscriptions.by_subject.is_empty() {
            None
        } else {
            Change::read(commit.revision, &commit.event)?
        };
        match change.map(Arc::new) {
            Some(change) if change.event.kind == EventKind::Imported => {
                subscriptions.end_app(&change.event.app, change.revision)
            }
            Some(change) => {
                let now = self.now();
                let mut cut = subscriptions.broadcast(&key(&change.event.app, None), &change, now);
                if !change.event.room.is_empty() {
                    cut += subscriptions.broadcast(
                        &key(&change.event.app, Some(&change.event.room)),
                        &change,
                        now,
                    );
                }
                self.cut.fetch_add(cut, Ordering::Relaxed);
            }
            None => {}
        }
        // After the seats have it, and under their lock: a seat that has nothing waiting has been
        // told all up to here.
        self.newest.store(commit.revision, Ordering::Release);
        Ok(())
    }

    /// As watchers are held to it.
    pub(super) fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    fn subscriptions(&self) -> MutexGuard<'_, Subscriptions> {
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscriptions {
    /// Answers how many were cut.
    fn broadcast(&mut self, subject: &str, change: &Arc<Change>, now: Duration) -> u64 {
        let Some(subscriptions) = self.by_subject.get_mut(subject) else { return 0 };
        let before = subscriptions.len();
        subscriptions.retain(|_, queue| !queue.offer(change, now));
        let cut = before - subscriptions.len();
        if subscriptions.is_empty() {
            self.by_subject.remove(subject);
        }
        cut as u64
    }

    /// Ends all seats of an app and of its rooms, at an import.
    fn end_app(&mut self, app: &str, revision: Revision) {
        let of_rooms = key(app, Some(""));
        self.by_subject.retain(|subject, subscriptions| {
            let is_of_app = subject == app || subject.starts_with(&of_rooms);
            if is_of_app {
                subscriptions.values().for_each(|queue| queue.end(End::Imported(revision)));
            }
            !is_of_app
        });
    }

    /// Ends all seats: what comes next is in history.
    fn end_all(&mut self) {
        self.by_subject
            .drain()
            .flat_map(|(_, subscriptions)| subscriptions)
            .for_each(|(_, queue)| queue.end(End::LeftOut));
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut by_app = self.hub.by_app();
        if let Some(count) = by_app.get_mut(&self.app) {
            *count -= 1;
            if *count == 0 {
                by_app.remove(&self.app);
            }
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut subscriptions = self.hub.subscriptions();
        if let Some(same) = subscriptions.by_subject.get_mut(&self.subject) {
            same.remove(&self.number);
            if same.is_empty() {
                subscriptions.by_subject.remove(&self.subject);
            }
        }
    }
}

/// Ids hold no control characters, so none of them ends in the other.
fn key(app: &str, room: Option<&str>) -> String {
    room.map_or_else(|| app.to_owned(), |room| format!("{app}\0{room}"))
}
