//! The change feed as a caller follows it: every change after a revision, once each, in commit
//! order.
//!
//! The [`Hub`] follows the store's feed one step behind the view, so that a read after a received
//! change reflects it. It passes each change to the watchers of its app or its room. It never waits
//! for a watcher: one that does not read is disconnected, with the revision to resume from. A
//! [`WatchStream`] is the position of one caller. It reads older changes from the store's history
//! in pages, and subscribes to the hub when it has caught up. Changes from the overlap arrive
//! twice; it drops duplicates by revision.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures_util::{
    FutureExt as _, Stream,
    future::{BoxFuture, pending},
    stream,
};
use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    error::{Error, Reason},
    store::{EventRange, Revision, Store, codec},
};

mod change;
mod hub;
mod spans;
mod subscription;

pub use change::{Change, Subject};
use hub::Subscription;
pub use hub::{Hub, WatchPermit};
use subscription::{EndReason, QueueItem};

/// Events of one page of history, at most and at least.
const PAGE_MAX: usize = 256;
const PAGE_MIN: usize = 4;
/// The shortest wait before the next try for a page of history.
const RETRY_DELAY: Duration = Duration::from_millis(100);
/// Changes of one page that may wait for the watcher. Those beyond it are read again.
const BUFFER_BYTES: usize = 64 << 10;

/// What a watch delivers.
#[derive(Clone, Debug)]
pub enum WatchEvent {
    /// One change.
    Change(Arc<Change>),
    /// All changes up to this revision have been delivered.
    Heartbeat(Revision),
}

/// Takes one page of history from a rate limit. Error: how long to wait before the next try.
pub type HistoryRateLimit = Box<dyn Fn() -> Result<(), Duration> + Send + Sync>;

/// The position of one caller in the change feed.
pub struct WatchStream {
    hub: Arc<Hub>,
    store: Arc<dyn Store>,
    subject: Subject,
    heartbeat: Duration,
    next_heartbeat: Instant,
    /// All changes up to this revision are delivered, or in `buffer`.
    revision: Revision,
    buffer: VecDeque<Arc<Change>>,
    /// Events of the next page: as many as are likely to fit into `BUFFER_BYTES`.
    page_size: usize,
    history_rate_limit: HistoryRateLimit,
    /// The last revision to read from history. Later changes come over the subscription.
    history_end: Revision,
    subscription: Option<Subscription>,
    /// Completes when the watch is to end.
    end: BoxFuture<'static, ()>,
    has_ended: bool,
    _permit: Option<WatchPermit>,
}

impl WatchStream {
    /// Starts after this revision. Errors: REVISION_COMPACTED when later events are no longer kept,
    /// STORE_UNAVAILABLE.
    pub async fn start(
        hub: Arc<Hub>,
        store: Arc<dyn Store>,
        subject: Subject,
        after: Revision,
        heartbeat: Duration,
    ) -> Result<Self, Error> {
        let history_end = hub.latest_revision();
        if after < history_end {
            let range = EventRange { after: Some(after), before: Some(history_end + 1) };
            store.events(range, false, 1).await?;
        }
        Ok(Self {
            hub,
            store,
            subject,
            heartbeat,
            next_heartbeat: Instant::now(),
            revision: after,
            buffer: VecDeque::new(),
            page_size: PAGE_MAX,
            history_rate_limit: Box::new(|| Ok(())),
            history_end,
            subscription: None,
            end: pending().boxed(),
            has_ended: false,
            _permit: None,
        })
    }

    /// Ends with STOPPING when `end` completes.
    #[must_use]
    pub fn until(self, end: BoxFuture<'static, ()>) -> Self {
        Self { end, ..self }
    }

    /// Holds the permit for as long as it lives, and takes each page of history from the rate
    /// limit.
    #[must_use]
    pub fn with_permit(self, permit: WatchPermit, history_rate_limit: HistoryRateLimit) -> Self {
        Self { _permit: Some(permit), history_rate_limit, ..self }
    }

    /// A heartbeat first, then changes, and a heartbeat every `heartbeat`. It ends only with an
    /// error: WATCHER_TOO_SLOW, STOPPING, REVISION_COMPACTED or STORE_UNAVAILABLE, each with the
    /// revision to resume from.
    pub fn into_stream(self) -> impl Stream<Item = Result<WatchEvent, Error>> + Send + 'static {
        stream::unfold(Some(self), |watch| async {
            let mut watch = watch?;
            match watch.next().await {
                Ok(event) => Some((Ok(event), Some(watch))),
                Err(error) => {
                    Some((Err(Error { last_revision: Some(watch.revision), ..error }), None))
                }
            }
        })
    }

    async fn next(&mut self) -> Result<WatchEvent, Error> {
        loop {
            if let Some(change) = self.buffer.pop_front() {
                return Ok(WatchEvent::Change(change));
            }
            self.has_ended = self.has_ended || (&mut self.end).now_or_never().is_some();
            if self.has_ended {
                return Err(Error::new(
                    Reason::Stopping,
                    "this connection has reached its maximum age; resume after last_revision, on another one",
                ));
            }
            if self.hub.is_closed() {
                return Err(Error::new(
                    Reason::Stopping,
                    "the service is stopping; resume after last_revision, on another replica or after the restart",
                ));
            }
            if self.revision >= self.history_end && self.take_queued()? {
                continue;
            }
            if Instant::now() >= self.next_heartbeat {
                self.next_heartbeat = Instant::now() + self.heartbeat;
                return Ok(WatchEvent::Heartbeat(self.revision));
            }
            if self.revision < self.history_end {
                self.read_page().await?;
            } else {
                self.wait_or_subscribe().await;
            }
        }
    }

    /// Takes one item from the subscription's queue. False: the queue is empty, and all changes up
    /// to the hub's latest revision are delivered.
    fn take_queued(&mut self) -> Result<bool, Error> {
        let Some(subscription) = &self.subscription else { return Ok(false) };
        // Read before the queue: the hub raises it after it has filled the queue.
        let latest_revision = self.hub.latest_revision();
        match subscription.queue.take(self.hub.now()) {
            QueueItem::Change(change) if change.revision > self.revision => {
                self.revision = change.revision;
                self.buffer.push_back(change);
            }
            QueueItem::Change(_) => {}
            QueueItem::End(reason) => self.unsubscribe(reason)?,
            QueueItem::Empty => {
                self.revision = self.revision.max(latest_revision);
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Waits for the queue, at most until a heartbeat is due or the watch is to end. Subscribes
    /// first if there is no subscription.
    async fn wait_or_subscribe(&mut self) {
        match &self.subscription {
            Some(subscription) => tokio::select! {
                _ = timeout_at(self.next_heartbeat, subscription.queue.arrival()) => {}
                () = &mut self.end => self.has_ended = true,
            },
            None => {
                self.subscription = self.hub.subscribe(&self.subject);
                self.history_end = self
                    .subscription
                    .as_ref()
                    .map_or(self.history_end, |subscription| subscription.base);
            }
        }
    }

    /// Drops the subscription and returns to history, which has the skipped commits. An import that
    /// this watch has already passed does not end it.
    fn unsubscribe(&mut self, reason: EndReason) -> Result<(), Error> {
        match reason {
            EndReason::TooSlow => {
                let message = "changes were not read fast enough; resume after last_revision, and read faster";
                return Err(Error::new(Reason::WatcherTooSlow, message));
            }
            EndReason::Imported(revision) if revision > self.revision => {
                return Err(Error::compacted());
            }
            EndReason::Imported(_) | EndReason::Skipped => {}
        }
        self.subscription = None;
        self.history_end = self.hub.latest_revision();
        Ok(())
    }

    async fn read_page(&mut self) -> Result<(), Error> {
        let skip_to = self.hub.spans.after(&self.subject.app, self.revision).min(self.history_end);
        if skip_to > self.revision {
            self.revision = skip_to;
            return Ok(());
        }
        if let Err(wait) = (self.history_rate_limit)() {
            sleep(wait.max(RETRY_DELAY)).await;
            return Ok(());
        }
        let range = EventRange { after: Some(self.revision), before: Some(self.history_end + 1) };
        let page = self.store.events(range, false, self.page_size).await?;
        let mut read_to = page
            .last()
            .filter(|_| page.len() == self.page_size)
            .map_or(self.history_end, |last| last.revision);
        let apps = codec::apps_of_events(&page)?;
        self.hub.spans.insert(self.revision + 1, read_to + 1, &apps);
        let mut buffer = VecDeque::new();
        let mut buffer_bytes = 0;
        self.page_size = (self.page_size * 2).min(PAGE_MAX);
        for (index, (stored, app)) in page.into_iter().zip(apps).enumerate() {
            if app != self.subject.app {
                continue;
            }
            if buffer_bytes > BUFFER_BYTES {
                read_to = stored.revision - 1;
                self.page_size = index.max(PAGE_MIN);
                break;
            }
            let change = Change::decode(stored.revision, &stored.event)?;
            if change.as_ref().is_some_and(|change| self.subject.is_reset_by(&change.event)) {
                return Err(Error::compacted());
            }
            let change = change.filter(|change| self.subject.covers(&change.event)).map(Arc::new);
            buffer_bytes += change.as_ref().map_or(0, |change| change.bytes());
            buffer.extend(change);
        }
        self.revision = read_to;
        self.buffer = buffer;
        Ok(())
    }
}

#[cfg(test)]
mod end_of_watch;
#[cfg(test)]
mod fixture;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use tokio::time::timeout;

    use super::{fixture::Fixture, *};

    #[tokio::test]
    async fn changes_around_the_subscription_are_delivered_once() {
        let fixture = Fixture::new().await;
        fixture.commit_and_broadcast("r", 3).await;
        let mut watch = fixture.watch(Some("r"), 1).await;
        // Committed after the watch has read the end of history, and before it subscribes.
        fixture.commit_and_broadcast("r", 2).await;
        assert_eq!(watch.changes(2).await, [2, 3]);
        watch.subscribe().await;
        // These are in the queue, while history up to its base is not read yet.
        fixture.commit_and_broadcast("r", 2).await;
        assert_eq!(watch.changes(4).await, [4, 5, 6, 7]);
    }

    #[tokio::test]
    async fn commits_that_the_hub_skips_come_from_history() {
        let fixture = Fixture::new().await;
        let mut watch = fixture.watch(Some("r"), 0).await;
        watch.subscribe().await;
        fixture.commit_and_broadcast("r", 2).await;
        // The view had to take a snapshot: these were not broadcast.
        fixture.commit("other", 300).await;
        fixture.commit("r", 1).await;
        fixture.hub.skip_to(303);
        assert_eq!(watch.changes(3).await, [1, 2, 303]);
        fixture.commit_and_broadcast("r", 1).await;
        assert_eq!(watch.changes(1).await, [304]);
    }

    #[tokio::test]
    async fn the_buffer_is_bounded_however_large_events_are() {
        let fixture = Fixture::new().await;
        let large = "r".repeat(20_000);
        for (room, count) in [("r", 300), (&*large, 100), ("r", 300)] {
            fixture.commit_and_broadcast(room, count).await;
        }
        let mut watch = fixture.watch(None, 0).await;
        for revision in 1..=700 {
            assert_eq!(watch.changes(1).await, [revision]);
            let bytes: usize = watch.buffer.iter().map(|change| change.bytes()).sum();
            assert!(
                bytes <= BUFFER_BYTES + 30_000,
                "{bytes} at {revision}, pages of {}",
                watch.page_size
            );
        }
        assert_eq!(watch.page_size, PAGE_MAX, "small events are read in full pages again");
    }

    #[tokio::test]
    async fn history_is_read_at_the_rate_of_its_limit() {
        let fixture = Fixture::new().await;
        fixture.commit_and_broadcast("r", 300).await;
        let mut watch = fixture.watch(None, 0).await;
        let tokens = Arc::new(AtomicUsize::new(1));
        let remaining = tokens.clone();
        let take = move || {
            remaining.fetch_update(SeqCst, SeqCst, |tokens| tokens.checked_sub(1)).map(drop)
        };
        watch.history_rate_limit = Box::new(move || take().map_err(|_| Duration::from_millis(1)));
        assert_eq!(watch.changes(256).await, (1..=256).collect::<Vec<_>>());
        assert!(
            timeout(3 * RETRY_DELAY, watch.changes(1)).await.is_err(),
            "no page is allowed yet"
        );
        tokens.store(1, SeqCst);
        assert_eq!(watch.changes(44).await, (257..=300).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_heartbeat_never_passes_queued_changes() {
        let fixture = Fixture::new().await;
        let mut watch = fixture.watch(Some("r"), 0).await;
        watch.subscribe().await;
        fixture.commit_and_broadcast("r", 2).await;
        fixture.commit_and_broadcast("other", 1).await;
        watch.next_heartbeat = Instant::now();
        assert_eq!(watch.changes(2).await, [1, 2]);
        assert!(matches!(watch.next().await.unwrap(), WatchEvent::Heartbeat(3)));
    }

    #[tokio::test]
    async fn a_stalled_watch_ends_after_its_queued_changes() {
        let fixture = Fixture::new().await;
        let mut slow = fixture.watch(None, 0).await;
        let mut quick = fixture.watch(Some("r"), 0).await;
        slow.subscribe().await;
        quick.subscribe().await;
        let room = "r".repeat(100_000);
        while fixture.hub.slow_watchers() == 0 {
            fixture.clock.advance(Duration::from_secs(1));
            fixture.commit_and_broadcast("r", 1).await;
            quick.changes(1).await;
            fixture.commit_and_broadcast(&room, 1).await;
            assert!(fixture.hub.latest_revision() < 100, "it is not disconnected");
        }
        assert_eq!(fixture.hub.watchers(), 1);
        // A megabyte was queued: ten long changes, and the short ones between.
        assert_eq!(slow.changes(21).await, (1..=21).collect::<Vec<_>>());
        let error = slow.next().await.unwrap_err();
        assert_eq!((error.reason, slow.revision), (Reason::WatcherTooSlow, 21));
    }

    #[tokio::test]
    async fn changes_beyond_a_burst_come_from_history() {
        let fixture = Fixture::new().await;
        let mut watch = fixture.watch(None, 0).await;
        watch.subscribe().await;
        fixture.commit_and_broadcast(&"r".repeat(100_000), 30).await;
        fixture.clock.advance(Duration::from_secs(4));
        fixture.commit_and_broadcast("r", 1).await;
        assert_eq!(watch.changes(31).await, (1..=31).collect::<Vec<_>>());
        assert_eq!(fixture.hub.slow_watchers(), 0);
    }

    #[tokio::test]
    async fn a_closed_hub_ends_every_watch_and_admits_none() {
        let fixture = Fixture::new().await;
        let mut watch = fixture.watch(None, 0).await;
        watch.subscribe().await;
        fixture.hub.close();
        assert_eq!(watch.next().await.unwrap_err().reason, Reason::Stopping);
        assert_eq!(fixture.watch(None, 0).await.next().await.unwrap_err().reason, Reason::Stopping);
    }
}
