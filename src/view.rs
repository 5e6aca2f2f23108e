//! The view: every live record in memory, built from the store. It answers every read.
//!
//! One writer, the feed (`feed.rs`), updates it; any number of readers read it. A reader borrows
//! one [`Room`] or one [`Client`] for the length of a closure, under the read lock of its shard:
//! never across an await, and never for longer than one page or the users of one call. All changes
//! of one commit to one room or client are made under one lock, so a reader sees all of them or
//! none.
//!
//! The reader's clock decides whether a record is in force. An expired record may stay here until
//! the sweeper, which finds it with [`View::expired_restrictions`], has removed it. Records that
//! were deleted with their room or client stay under its tombstone (`tombstone.rs`), hidden from
//! readers, until they are removed from the store.

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
    client::{Client, ClientRef},
    expired::{Expired, ExpiredRestrictions},
    feed::LoadedView,
    idempotency::ExpiredRequest,
    leftovers::Leftover,
    page::Page,
    room::{Decision, Room, may_speak},
    state::Usage,
    versioned::{MutedRoom, Versioned},
};

/// How long a write waits for its own commit on the feed. The feed is less than a millisecond
/// behind; a delay of seconds is a fault.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(5);

/// A handle to the view. Cheap to clone.
#[derive(Clone)]
pub struct View {
    inner: Arc<Inner>,
}

struct Inner {
    /// Replaced as a whole after a rebuild.
    state: ArcSwap<State>,
    applied: AppliedRevision,
    age: Age,
}

impl View {
    /// The time since the view last contained every commit of every replica. Less than a second
    /// with an embedded store. Less than three seconds with a cluster, unless this process is cut
    /// off from it, or it has lost its quorum.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.inner.age.now()
    }

    /// Keeps the age up to date. Never returns.
    pub async fn track_age(self, store: Arc<dyn Store>) {
        self.inner.age.track(store, || self.revision()).await;
    }

    /// The latest commit in the view.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.inner.applied.revision()
    }

    /// Waits until the commit is in the view, at most five seconds. False: it is not.
    pub async fn wait_for(&self, revision: Revision) -> bool {
        self.wait_within(revision, CATCH_UP_TIMEOUT).await
    }

    /// Waits until the commit is in the view, at most `timeout`. False: it is not.
    pub async fn wait_within(&self, revision: Revision, timeout: Duration) -> bool {
        self.revision() >= revision
            || tokio::time::timeout(timeout, self.inner.applied.reach(revision)).await.is_ok()
    }

    /// One app, for many reads in a row. Do not keep it: a rebuild of the view replaces it.
    #[must_use]
    pub fn app(&self, app: &str) -> AppView {
        AppView(self.inner.state.load().app(app))
    }

    /// Reads one room. None: it has no records.
    pub fn room<T>(&self, app: &str, room: &str, read: impl FnOnce(Option<&Room>) -> T) -> T {
        self.app(app).room(room, read)
    }

    /// Reads one client. None: it has no records.
    pub fn client<T>(
        &self,
        app: &str,
        user: &str,
        read: impl FnOnce(Option<ClientRef<'_>>) -> T,
    ) -> T {
        self.app(app).client(user, read)
    }

    /// A page of the sorted ids of registered rooms, and the number of all.
    #[must_use]
    pub fn room_ids(&self, app: &str, page: Page<'_>) -> (Vec<Arc<str>>, usize) {
        self.inner
            .state
            .load()
            .app(app)
            .map_or_else(Default::default, |app| app.rooms.registered(page))
    }

    /// A page of the sorted ids of registered clients, and the number of all.
    #[must_use]
    pub fn client_ids(&self, app: &str, page: Page<'_>) -> (Vec<Arc<str>>, usize) {
        self.inner
            .state
            .load()
            .app(app)
            .map_or_else(Default::default, |app| app.clients.registered(page))
    }

    /// A page of the sorted users whose user mute is in force, with their mutes.
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

    /// The idempotency record of this request id. It may have expired.
    #[must_use]
    pub fn idempotency_record(&self, app: &str, id: &str) -> Option<Versioned<IdempotencyRecord>> {
        self.inner.state.load().idempotency_records.get(app, id)
    }

    /// Number of idempotency records of an app. One counts once per started KiB of its answer.
    #[must_use]
    pub fn idempotency_records(&self, app: &str) -> u64 {
        self.inner.state.load().idempotency_records.units(app)
    }

    /// Expired idempotency records, the earliest first, at most `limit`.
    #[must_use]
    pub fn expired_requests(&self, now_ms: u64, limit: usize) -> Vec<ExpiredRequest> {
        self.inner.state.load().idempotency_records.expired(now_ms, limit)
    }

    /// Records that were deleted with their room or client and are still stored, at most about
    /// `limit`. A tombstone follows after all of its records.
    #[must_use]
    pub fn leftovers(&self, limit: usize) -> Vec<Leftover> {
        let state = self.inner.state.load();
        leftovers(&state, limit)
    }

    /// The usage of each app, in no order.
    #[must_use]
    pub fn usages(&self) -> Vec<Usage> {
        self.inner.state.load().apps().iter().map(|app| app.usage()).collect()
    }

    /// [`View::idempotency_records`] of the app that has the most.
    #[must_use]
    pub fn most_idempotency_records(&self) -> u64 {
        self.inner.state.load().idempotency_records.most_units()
    }

    /// Number of records in the view.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records_by_kind().iter().map(|(_, records)| records).sum()
    }

    /// Number of records by kind.
    #[must_use]
    pub fn records_by_kind(&self) -> Vec<(&'static str, u64)> {
        self.inner.state.load().records().collect()
    }
}

/// One app of the view. None: it has no records.
pub struct AppView(Option<Arc<App>>);

impl AppView {
    /// Reads one room. None: it has no records.
    pub fn room<T>(&self, room: &str, read: impl FnOnce(Option<&Room>) -> T) -> T {
        match &self.0 {
            Some(app) => app.rooms.read(room, read),
            None => read(None),
        }
    }

    /// Reads one client. None: it has no records.
    pub fn client<T>(&self, user: &str, read: impl FnOnce(Option<ClientRef<'_>>) -> T) -> T {
        match &self.0 {
            Some(app) => app.client(user, read),
            None => read(None),
        }
    }

    /// The usage of the app.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.0.as_ref().map_or_else(Usage::default, |app| app.usage())
    }

    /// Whether the app has a user mute, in force or not swept yet.
    #[must_use]
    pub fn has_muted_users(&self) -> bool {
        self.0.as_ref().is_some_and(|app| !app.muted_users.is_empty())
    }
}
