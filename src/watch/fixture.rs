//! What the tests of a watch share: a store, and a hub that broadcasts when a test says so.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Hub, Subject, WatchEvent, WatchStream};
use crate::{
    clock::Clock,
    model::{Event, EventKind},
    store::{self, Batch, Commit, Location, Retention, Revision, Store},
    view::View,
};

/// A store, and a hub that hands out what it is told to, when it is told to.
pub(super) struct Fixture {
    store: Arc<dyn Store>,
    pub(super) hub: Arc<Hub>,
    pub(super) clock: Clock,
    _directory: tempfile::TempDir,
}

impl Fixture {
    pub(super) async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let retention = Retention { events: 1_000_000, age_ms: u64::MAX };
        let store = store::open(&Location::directory(directory.path()), retention).await.unwrap();
        let clock = Clock::manual(0);
        let hub = Hub::new(&View::load(&*store).await.unwrap().view, clock.clone());
        Self { store, hub, clock, _directory: directory }
    }

    pub(super) async fn watch(&self, room: Option<&str>, after: Revision) -> WatchStream {
        let subject = Subject { app: "a".to_owned(), room: room.map(str::to_owned) };
        let (hub, store) = (self.hub.clone(), self.store.clone());
        WatchStream::start(hub, store, subject, after, Duration::from_secs(3_600)).await.unwrap()
    }

    /// Commits so many changes of the room, which the hub does not know of yet.
    pub(super) async fn commit(&self, room: &str, count: usize) -> Vec<Commit> {
        let mut commits = Vec::new();
        for _ in 0..count {
            let (room, users) = (room.to_owned(), vec!["u".to_owned()]);
            let event = Event { room, users, ..Event::new(EventKind::Muted, "a", "", 1) };
            let batch = Batch::of(&event);
            let (event, at_ms) = (batch.event.clone(), batch.at_ms);
            let revision = self.store.commit(batch).await.unwrap();
            commits.push(Commit { revision, operations: Vec::new(), event, at_ms });
        }
        commits
    }

    pub(super) async fn commit_and_hand_out(&self, room: &str, count: usize) {
        self.commit(room, count)
            .await
            .iter()
            .for_each(|commit| self.hub.broadcast(commit).unwrap());
    }
}

impl WatchStream {
    pub(super) async fn changes(&mut self, count: usize) -> Vec<Revision> {
        let mut revisions = Vec::new();
        while revisions.len() < count {
            if let WatchEvent::Change(change) = self.next().await.unwrap() {
                revisions.push(change.revision);
            }
        }
        revisions
    }

    /// Takes a seat, without a look at what is there to be told.
    pub(super) async fn be_seated(&mut self) {
        self.next_heartbeat = Instant::now() + self.heartbeat;
        while self.subscription.is_none() {
            self.wait_for_the_next().await;
        }
    }
}
