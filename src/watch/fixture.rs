//! What the tests of watches share: a store, and a hub that broadcasts when a test calls for it.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Hub, Subject, WatchEvent, WatchStream};
use crate::{
    clock::Clock,
    model::{Event, EventKind},
    store::{self, Commit, EncodedBatch, Location, Retention, Revision, Store},
    view::View,
};

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
        WatchStream::start(
            self.hub.clone(),
            self.store.clone(),
            subject,
            after,
            Duration::from_secs(3_600),
        )
        .await
        .unwrap()
    }

    /// Commits changes of the room without a broadcast.
    pub(super) async fn commit(&self, room: &str, count: usize) -> Vec<Commit> {
        let mut commits = Vec::new();
        for _ in 0..count {
            let event = Event {
                room: room.to_owned(),
                users: vec!["u".to_owned()],
                ..Event::new(EventKind::Muted, "a", "", 1)
            };
            let batch = EncodedBatch::of(&event);
            let event = batch.event.clone();
            let at_ms = batch.at_ms;
            let revision = self.store.commit(batch).await.unwrap();
            commits.push(Commit { revision, operations: Vec::new(), event, at_ms });
        }
        commits
    }

    pub(super) async fn commit_and_broadcast(&self, room: &str, count: usize) {
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

    /// Subscribes without delivering anything.
    pub(super) async fn subscribe(&mut self) {
        self.next_heartbeat = Instant::now() + self.heartbeat;
        while self.subscription.is_none() {
            self.wait_or_subscribe().await;
        }
    }
}
