//! The view: every live record in memory, built from the store; it answers every read.
//!
//! It has one writer, the feed (`feed.rs`), and any number of readers. A reader borrows one
//! [`Room`] or one [`Client`] for the length of a closure, under the read lock of its shard: never
//! across an await, never for longer than one page or one call's users. All changes of one commit
//! to one room or client happen under one lock, so a reader sees all of them or none. Whether a
//! record is in force is decided by the reader's clock; an expired record may lie here until the
//! sweeper ([`View::due`] tells it what) has removed it. What was deleted with its room or client
//! lies beside the others (`tombstone.rs`), where no reader sees it, until it is removed from the
//! store too.

mod age;
mod applied;
mod client;
mod expired;
mod expiry_queue;
mod feed;
mod idempotency;
mod index;
mod leftovers;
mod muted_users;
mod page;
mod room;
mod state;
mod tombstone;
mod user_map;
mod versioned;

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;

use self::{
    age::Age,
    applied::AppliedRevision,
    leftovers::leftovers,
    state::{App, State},
};
use crate::{
    model::{IdempotencyRecord, Restriction},
    store::{Revision, Store},
};

pub use self::{
    client::{Client, KnownClient},
    expired::{Expired, ExpiredRestrictions},
    feed::Filled,
    idempotency::ExpiredRequest,
    leftovers::Leftover,
    page::Page,
    room::{Decision, Room, Rule, may_speak},
    state::Usage,
    versioned::{MutedRoom, Versioned},
};

/// How long a write waits for its own commit to come back on the feed. The feed is less than a
/// millisecond behind; seconds are a fault.
const CATCH_UP: Duration = Duration::from_secs(5);

/// A handle of the one view; cheap to clone.
#[derive(Clone)]
pub struct View {
    inner: Arc<Inner>,
}

struct Inner {
    /// Swapped whole when it was built anew.
    state: ArcSwap<State>,
    applied: AppliedRevision,
    age: Age,
}

impl View {
    /// Whatever was committed anywhere this long ago, or earlier, is in the view. Over an embedded
    /// store less than a second; over a cluster less than three, unless this process is cut off
    /// from it, or the cluster has lost its quorum.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.inner.age.now()
    }

    /// Keeps the age. Never ends by itself.
    pub async fn keep_age(self, store: Arc<dyn Store>) {
        self.inner.age.keep(store, || self.revision()).await;
    }

    /// The newest commit that is in the view.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.inner.applied.revision()
    }

    /// Waits until the commit is in the view. False: it was not within five seconds.
    pub async fn wait_for(&self, revision: Revision) -> bool {
        self.wait_within(revision, CATCH_UP).await
    }

    /// Waits until the commit is in the view. False: it was not within that time.
    pub async fn wait_within(&self, revision: Revision, timeout: Duration) -> bool {
        self.revision() >= revision
            || tokio::time::timeout(timeout, self.inner.applied.reach(revision)).await.is_ok()
    }

    /// One app, as of now: for many questions in one go. It is not to be kept, because the feed may
    /// start again with a new one.
    #[must_use]
    pub fn app(&self, app: &str) -> AppView {
        AppView(self.inner.state.load().app(app))
    }

    /// Reads one room; nothing is known of it where there is none.
    pub fn room<T>(&self, app: &str, room: &str, read: impl FnOnce(Option<&Room>) -> T) -> T {
        self.app(app).room(room, read)
    }

    /// Reads one client; nothing is known of it where there is none.
    pub fn client<T>(
        &self,
        app: &str,
        user: &str,
        read: impl FnOnce(Option<KnownClient<'_>>) -> T,
    ) -> T {
        self.app(app).client(user, read)
    }

    /// Ids of registered rooms in order, and how many there are in all.
    #[must_use]
    pub fn room_ids(&self, app: &str, page: Page<'_>) -> (Vec<Arc<str>>, usize) {
        self.inner
            .state
            .load()
            .app(app)
            .map_or_else(Default::default, |app| app.rooms.registered(page))
    }

    /// Ids of registered clients in order, and how many there are in all.
    #[must_use]
    pub fn client_ids(&self, app: &str, page: Page<'_>) -> (Vec<Arc<str>>, usize) {
        self.inner
            .state
            .load()
            .app(app)
            .map_or_else(Default::default, |app| app.clients.registered(page))
    }

    /// The users of an app whose user mute is in force, in order, with their mutes.
    #[must_use]
    pub fn muted_users(
        &self,
        app: &str,
        page: Page<'_>,
        now_ms: u64,
    ) -> Vec<(String, Restriction)> {
        self.inner
            .state
            .load()
            .app(app)
            .map_or_else(Vec::new, |app| app.muted_users.in_force(page, now_ms))
    }

    /// The answer to the request with this id, which may have ended.
    #[must_use]
    pub fn answered(&self, app: &str, id: &str) -> Option<Versioned<IdempotencyRecord>> {
        self.inner.state.load().requests.get(app, id)
    }

    /// How many answers to requests of an app are kept; one counts once for each KiB that it
    /// begins.
    #[must_use]
    pub fn idempotency_records(&self, app: &str) -> u64 {
        self.inner.state.load().requests.units(app)
    }

    /// Answers to requests that have ended: at most `limit` of them.
    #[must_use]
    pub fn expired_requests(&self, now_ms: u64, limit: usize) -> Vec<ExpiredRequest> {
        self.inner.state.load().requests.due(now_ms, limit)
    }

    /// Records that were deleted with their room or client and are still stored, at most about
    /// `limit`; then their tombstones.
    #[must_use]
    pub fn leftovers(&self, limit: usize) -> Vec<Leftover> {
        let state = self.inner.state.load();
        leftovers(&state, limit)
    }

    /// What each app has, in no order.
    #[must_use]
    pub fn usages(&self) -> Vec<Usage> {
        self.inner.state.load().apps().iter().map(|app| app.usage()).collect()
    }

    /// How many answers to requests are kept of the app that has most.
    #[must_use]
    pub fn most_idempotency_records(&self) -> u64 {
        self.inner.state.load().requests.most()
    }

    /// How many records the view holds.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records_by_kind().iter().map(|(_, records)| records).sum()
    }

    /// The same, by kind.
    #[must_use]
    pub fn records_by_kind(&self) -> Vec<(&'static str, u64)> {
        self.inner.state.load().records().collect()
    }
}

/// One app of the view; nothing where nothing is known of it.
pub struct AppView(Option<Arc<App>>);

impl AppView {
    /// Reads one room; nothing is known of it where there is none.
    pub fn room<T>(&self, room: &str, read: impl FnOnce(Option<&Room>) -> T) -> T {
        match &self.0 {
            Some(app) => app.rooms.read(room, read),
            None => read(None),
        }
    }

    /// Reads one client; nothing is known of it where there is none.
    pub fn client<T>(&self, user: &str, read: impl FnOnce(Option<KnownClient<'_>>) -> T) -> T {
        match &self.0 {
            Some(app) => app.client(user, read),
            None => read(None),
        }
    }

    /// What the app has.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.0.as_ref().map_or_else(Usage::default, |app| app.usage())
    }

    /// Whether some user is muted in the whole app, or was until lately.
    #[must_use]
    pub fn has_muted_users(&self) -> bool {
        self.0.as_ref().is_some_and(|app| !app.muted_users.is_empty())
    }
}
