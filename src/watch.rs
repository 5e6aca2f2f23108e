//! The change feed as a caller follows it: from where it asks on, each change once, in the order of
//! commits.
//!
//! The [`Hub`] follows the store's feed a step behind the view, so that whoever is told of a change
//! and asks is answered by it, and hands each change to those who watch its app or its room. It
//! waits for nobody: a watcher that does not read is cut, with the revision to go on from. A
//! [`WatchStream`] is one caller's place: what is behind it comes from the store's history in
//! pages, and it takes its seat in the hub when it has come near; whatever happens in between lies
//! in both, and is told once because revisions say what was told already.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures_util::{Stream, stream};
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
pub use hub::{Admitted, Hub};
use subscription::{End, Found};

/// Events of history read at once, at most and at least.
const PAGE: usize = 256;
const SMALL_PAGE: usize = 4;
/// Between two looks whether history may be read, at least: what has come free meanwhile is taken
/// at once.
const RETRY_DELAY: Duration = Duration::from_millis(100);
/// Of what was read, so much waits for the watcher; the rest is read again.
const READ_BYTES: usize = 64 << 10;

/// What a watcher is told.
#[derive(Clone, Debug)]
pub enum WatchEvent {
    /// Something has changed.
    Change(Arc<Change>),
    /// All changes up to here have been told.
    Heartbeat(Revision),
}

/// Whether a page of history may be read now; where not, how long to wait.
pub type Turn = Box<dyn Fn() -> Result<(), Duration> + Send + Sync>;

/// One caller's place in the feed.
pub struct WatchStream {
    hub: Arc<Hub>,
    store: Arc<dyn Store>,
    subject: Subject,
    heartbeat: Duration,
    next_heartbeat: Instant,
    /// All changes up to here are told, or in `read`.
    at: Revision,
    read: VecDeque<Arc<Change>>,
    /// Events that are read next: so many as are likely to fit.
    page: usize,
    turn: Turn,
    /// History is read up to here; what comes after it comes over the seat.
    until: Revision,
    subscription: Option<Subscription>,
    /// It counts among those of its app.
    _admitted: Option<Admitted>,
}

impl WatchStream {
    /// A place after this revision. Errors: REVISION_COMPACTED where what is after it is no longer
    /// kept, STORE_UNAVAILABLE.
    pub async fn start(
        hub: Arc<Hub>,
        store: Arc<dyn Store>,
        subject: Subject,
        after: Revision,
        heartbeat: Duration,
    ) -> Result<Self, Error> {
        let until = hub.latest_revision();
        if after < until {
            store
                .events(EventRange { after: Some(after), before: Some(until + 1) }, false, 1)
                .await?;
        }
        let (read, next_heartbeat) = (VecDeque::new(), Instant::now());
        Ok(Self {
            hub,
            store,
            subject,
            heartbeat,
            next_heartbeat,
            at: after,
            read,
            page: PAGE,
            turn: Box::new(|| Ok(())),
            until,
            subscription: None,
            _admitted: None,
        })
    }

    /// The same place, which counts among those of its app, and reads history in turns with them.
    #[must_use]
    pub fn admitted(self, admitted: Admitted, turn: Turn) -> Self {
        Self { _admitted: Some(admitted), turn, ..self }
    }

    /// What is told: a heartbeat first, then changes, and a heartbeat from time to time. It ends
    /// with an error only: WATCHER_TOO_SLOW, STOPPING, REVISION_COMPACTED, STORE_UNAVAILABLE, each
    /// with the revision to go on from.
    pub fn into_stream(self) -> impl Stream<Item = Result<WatchEvent, Error>> + Send + 'static {
        stream::unfold(Some(self), |watching| async {
            let mut watching = watching?;
            match watching.next().await {
                Ok(told) => Some((Ok(told), Some(watching))),
                Err(error) => {
                    Some((Err(Error { last_revision: Some(watching.at), ..error }), None))
                }
            }
        })
    }

    async fn next(&mut self) -> Result<WatchEvent, Error> {
        loop {
            if let Some(change) = self.read.pop_front() {
                return Ok(WatchEvent::Change(change));
            }
            if self.hub.is_closed() {
                return Err(Error::new(
                    Reason::Stopping,
                    "the service is being stopped: go on from the last revision, elsewhere",
                ));
            }
            if self.at >= self.until && self.take_what_waits()? {
                continue;
            }
            if Instant::now() >= self.next_heartbeat {
                self.next_heartbeat = Instant::now() + self.heartbeat;
                return Ok(WatchEvent::Heartbeat(self.at));
            }
            if self.at < self.until {
                self.read_page().await?;
            } else {
                self.wait_for_the_next().await;
            }
        }
    }

    /// Takes what is waiting at the seat; where nothing is, everything up to the hub's newest is
    /// told. False: there is nothing to go on with yet.
    fn take_what_waits(&mut self) -> Result<bool, Error> {
        let Some(subscription) = &self.subscription else { return Ok(false) };
        // Looked at before the seat: what the hub has passed by then lies there.
        let newest = self.hub.latest_revision();
        match subscription.queue.take(self.hub.now()) {
            Found::Change(change) if change.revision > self.at => {
                self.at = change.revision;
                self.read.push_back(change);
            }
            Found::Change(_) => {}
            Found::End(end) => self.leave_hub(end)?,
            Found::Nothing => {
                self.at = self.at.max(newest);
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Waits at the seat, at most until a heartbeat is due; without one takes one.
    async fn wait_for_the_next(&mut self) {
        match &self.subscription {
            Some(subscription) => {
                drop(timeout_at(self.next_heartbeat, subscription.queue.arrival()).await)
            }
            None => {
                self.subscription = self.hub.join(&self.subject);
                self.until =
                    self.subscription.as_ref().map_or(self.until, |subscription| subscription.base);
            }
        }
    }

    /// Nothing more comes to the seat. What was left out, and an import that this watch has begun
    /// after, is passed in history.
    fn leave_hub(&mut self, end: End) -> Result<(), Error> {
        match end {
            End::TooSlow => {
                let message = "changes were not read fast enough: go on from the last revision, and read faster";
                return Err(Error::new(Reason::WatcherTooSlow, message));
            }
            End::Imported(revision) if revision > self.at => return Err(Error::compacted()),
            End::Imported(_) | End::LeftOut => {}
        }
        self.subscription = None;
        self.until = self.hub.latest_revision();
        Ok(())
    }

    async fn read_page(&mut self) -> Result<(), Error> {
        let after = self.hub.spans.after(&self.subject.app, self.at).min(self.until);
        if after > self.at {
            self.at = after;
            return Ok(());
        }
        if let Err(wait) = (self.turn)() {
            sleep(wait.max(RETRY_DELAY)).await;
            return Ok(());
        }
        let range = EventRange { after: Some(self.at), before: Some(self.until + 1) };
        let page = self.store.events(range, false, self.page).await?;
        let mut at = page
            .last()
            .filter(|_| page.len() == self.page)
            .map_or(self.until, |last| last.revision);
        let apps = codec::apps_of_events(&page)?;
        self.hub.spans.note(self.at + 1, at + 1, &apps);
        let (mut read, mut bytes) = (VecDeque::new(), 0);
        self.page = (self.page * 2).min(PAGE);
        for (place, (logged, app)) in page.into_iter().zip(apps).enumerate() {
            if app != self.subject.app {
                continue;
            }
            if bytes > READ_BYTES {
                (at, self.page) = (logged.revision - 1, place.max(SMALL_PAGE));
                break;
            }
            let change = Change::read(logged.revision, &logged.event)?;
            if change.as_ref().is_some_and(|change| self.subject.lost_to(&change.event)) {
                return Err(Error::compacted());
            }
            let change = change.filter(|change| self.subject.covers(&change.event)).map(Arc::new);
            bytes += change.as_ref().map_or(0, |change| change.bytes());
            read.extend(change);
        }
        (self.at, self.read) = (at, read);
        Ok(())
    }
}

#[cfg(test)]
mod fixture;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use tokio::time::timeout;

    use super::{fixture::Fixture, *};

    #[tokio::test]
    async fn what_comes_between_history_and_the_seat_is_told_once() {
        let place = Fixture::new().await;
        place.commit_and_hand_out("r", 3).await;
        let mut watching = place.watch(Some("r"), 1).await;
        // Committed after the watch has looked how far history goes, and before it has a seat.
        place.commit_and_hand_out("r", 2).await;
        assert_eq!(watching.changes(2).await, [2, 3]);
        watching.be_seated().await;
        // These lie at the seat, and history up to its base is not read yet.
        place.commit_and_hand_out("r", 2).await;
        assert_eq!(watching.changes(4).await, [4, 5, 6, 7]);
    }

    #[tokio::test]
    async fn what_the_hub_leaves_out_comes_from_history() {
        let place = Fixture::new().await;
        let mut watching = place.watch(Some("r"), 0).await;
        watching.be_seated().await;
        place.commit_and_hand_out("r", 2).await;
        // The view had to take a snapshot: nobody has handed these out.
        place.commit("other", 300).await;
        place.commit("r", 1).await;
        place.hub.go_on_from(303);
        assert_eq!(watching.changes(3).await, [1, 2, 303]);
        place.commit_and_hand_out("r", 1).await;
        assert_eq!(watching.changes(1).await, [304]);
    }

    #[tokio::test]
    async fn little_of_history_waits_for_a_watcher_however_large_its_events_are() {
        let place = Fixture::new().await;
        let large = "r".repeat(20_000);
        for (room, count) in [("r", 300), (&*large, 100), ("r", 300)] {
            place.commit_and_hand_out(room, count).await;
        }
        let mut watching = place.watch(None, 0).await;
        for revision in 1..=700 {
            assert_eq!(watching.changes(1).await, [revision]);
            let waiting: usize = watching.read.iter().map(|change| change.bytes()).sum();
            assert!(
                waiting <= READ_BYTES + 30_000,
                "{waiting} at {revision}, pages of {}",
                watching.page
            );
        }
        assert_eq!(
            watching.page, PAGE,
            "and as much as before is read at once where they are small"
        );
    }

    #[tokio::test]
    async fn history_is_read_in_turns() {
        let place = Fixture::new().await;
        place.commit_and_hand_out("r", 300).await;
        let mut watching = place.watch(None, 0).await;
        let turns = Arc::new(AtomicUsize::new(1));
        let left = turns.clone();
        let take =
            move || left.fetch_update(SeqCst, SeqCst, |turns| turns.checked_sub(1)).map(drop);
        watching.turn = Box::new(move || take().map_err(|_| Duration::from_millis(1)));
        assert_eq!(watching.changes(256).await, (1..=256).collect::<Vec<_>>());
        assert!(timeout(3 * RETRY_DELAY, watching.changes(1)).await.is_err(), "it is not its turn");
        turns.store(1, SeqCst);
        assert_eq!(watching.changes(44).await, (257..=300).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_heartbeat_never_passes_what_is_waiting() {
        let place = Fixture::new().await;
        let mut watching = place.watch(Some("r"), 0).await;
        watching.be_seated().await;
        place.commit_and_hand_out("r", 2).await;
        place.commit_and_hand_out("other", 1).await;
        watching.next_heartbeat = Instant::now();
        assert_eq!(watching.changes(2).await, [1, 2]);
        assert!(matches!(watching.next().await.unwrap(), WatchEvent::Heartbeat(3)));
    }

    #[tokio::test]
    async fn who_does_not_read_is_cut_after_what_was_waiting() {
        let place = Fixture::new().await;
        let mut slow = place.watch(None, 0).await;
        let mut quick = place.watch(Some("r"), 0).await;
        slow.be_seated().await;
        quick.be_seated().await;
        let room = "r".repeat(100_000);
        while place.hub.cut() == 0 {
            place.clock.advance(Duration::from_secs(1));
            place.commit_and_hand_out("r", 1).await;
            quick.changes(1).await;
            place.commit_and_hand_out(&room, 1).await;
            assert!(place.hub.latest_revision() < 100, "it is not cut");
        }
        assert_eq!(place.hub.watchers(), 1);
        // A megabyte was waiting: ten of the long, and the short ones between.
        assert_eq!(slow.changes(21).await, (1..=21).collect::<Vec<_>>());
        let cut = slow.next().await.unwrap_err();
        assert_eq!((cut.reason, slow.at), (Reason::WatcherTooSlow, 21));
    }

    #[tokio::test]
    async fn what_a_burst_leaves_out_comes_from_history() {
        let place = Fixture::new().await;
        let mut watching = place.watch(None, 0).await;
        watching.be_seated().await;
        place.commit_and_hand_out(&"r".repeat(100_000), 30).await;
        place.clock.advance(Duration::from_secs(4));
        place.commit_and_hand_out("r", 1).await;
        assert_eq!(watching.changes(31).await, (1..=31).collect::<Vec<_>>());
        assert_eq!(place.hub.cut(), 0);
    }

    #[tokio::test]
    async fn a_closed_hub_ends_every_watch_and_lets_nobody_in() {
        let place = Fixture::new().await;
        let mut watching = place.watch(None, 0).await;
        watching.be_seated().await;
        place.hub.close();
        assert_eq!(watching.next().await.unwrap_err().reason, Reason::Stopping);
        assert_eq!(place.watch(None, 0).await.next().await.unwrap_err().reason, Reason::Stopping);
    }
}
