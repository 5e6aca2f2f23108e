//! What only the embedded engine promises: which files it writes, and what it says of a stop.

use std::{fs, path::Path, sync::Arc};

use futures_util::future::join_all;
use mute_service::{
    model::{Event, EventKind, Expire, Key, Mark, Value, Why},
    store::{self, Batch, Engine, Retention, Store, StoreError},
};

fn open(directory: &Path) -> Result<Arc<dyn Store>, StoreError> {
    store::open(Engine::Sled, directory, 16 << 20, Retention { events: 1_000_000, age_ms: u64::MAX })
}

/// A commit as large as a call can make it: 100 users with the longest ids, and the longest reason.
fn largest_commit(room: usize) -> Batch {
    let user = |number: usize| format!("{number:03}{}", "\u{10ffff}".repeat(61));
    let (app, room) = (format!("{}#{}", "o".repeat(64), "a".repeat(64)), format!("{room:0>128}"));
    let reason: Box<str> = "r".repeat(512).into();
    let mut batch = Batch::of(&Event {
        kind: EventKind::Muted,
        app: app.clone(),
        room: room.clone(),
        users: (0..100).map(user).collect(),
        actor: user(0),
        reason: reason.to_string(),
        at_ms: 1,
        expire: Expire::NEVER,
    });
    let why = Why { actor: user(0).into(), reason };
    let value = Value::Mark(Mark { expire: Expire::at_ms(u64::MAX - 1), set_ms: u64::MAX, why: Arc::new(why) });
    for number in 0..100 {
        batch.put(Key::MemberMute { app: &app, room: &room, user: &user(number) }, &value);
    }
    batch
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_is_written_is_in_the_file_that_is_synced() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).unwrap();
    for round in 0..10 {
        let commits = (0..20).map(|number| store.commit(largest_commit(round * 20 + number)));
        assert!(join_all(commits).await.iter().all(Result::is_ok));
    }
    let blobs: Vec<_> = fs::read_dir(directory.path().join("store/blobs")).unwrap().collect();
    assert!(blobs.is_empty(), "{blobs:?}");
}

#[tokio::test]
async fn the_directory_tells_whether_the_last_stop_was_an_orderly_one() {
    let directory = tempfile::tempdir().unwrap();
    let running = directory.path().join("RUNNING");
    let store = open(directory.path()).unwrap();
    assert!(running.exists());
    store.commit(largest_commit(0)).await.unwrap();
    drop(store);
    assert!(running.exists());
    let store = open(directory.path()).unwrap();
    store.close().await.unwrap();
    assert!(!running.exists());
    assert!(matches!(store.commit(largest_commit(1)).await, Err(StoreError::Unavailable(_))));
}

#[tokio::test]
async fn a_directory_in_use_is_refused_and_free_again_after_its_store_is_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let first = open(directory.path()).unwrap();
    assert!(matches!(open(directory.path()).err(), Some(StoreError::InUse { .. })));
    drop(first);
    assert!(open(directory.path()).is_ok());
}
