//! The store's contract, tested clause by clause for every engine. `src/store/contract.rs` lists
//! the clauses.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::{StreamExt as _, TryStreamExt as _};
use mute_service::store::{
    self, Commit, EncodedBatch, Entry, EventRange, Location, Memory, Operation, Precondition,
    Retention, Revision, Store, StoreError, StoredEvent, Update, Updates,
};

use crate::{double::Double, etcd::Etcd};

mod copy;
mod history;

use copy::{Copy, clause_9_a_copy_equals_the_store_under_any_writes};
use history::{
    clause_7_dropped_history_is_reported_without_holes,
    clause_7_history_has_every_event_once_in_both_orders,
    clause_7_history_is_read_while_others_write, clause_7_history_survives_a_crash,
};

const KEEP_ALL: Retention = Retention { events: 1_000_000, age_ms: u64::MAX };

/// Opens the engine under test. Every call opens the same location again.
async fn open(location: &Location) -> Arc<dyn Store> {
    store::open(location, KEEP_ALL).await.unwrap()
}

fn put(key: &str, value: &str) -> Operation {
    Operation::Put { key: key.into(), value: value.into() }
}

fn delete(key: &str) -> Operation {
    Operation::Delete { key: key.into() }
}

fn batch(operations: impl IntoIterator<Item = Operation>) -> EncodedBatch {
    EncodedBatch {
        operations: operations.into_iter().collect(),
        event: b"event".to_vec(),
        at_ms: 1,
        ..EncodedBatch::default()
    }
}

fn with_precondition(key: &str, revision: Option<Revision>, operation: Operation) -> EncodedBatch {
    EncodedBatch {
        preconditions: vec![Precondition { key: key.into(), revision }],
        ..batch([operation])
    }
}

async fn entries(store: &dyn Store) -> (Revision, Vec<Entry>) {
    let snapshot = store.snapshot().await.unwrap();
    let pages: Vec<_> = snapshot.pages.try_collect().await.unwrap();
    (snapshot.revision, pages.concat())
}

async fn read(store: &dyn Store) -> Vec<(String, String)> {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    entries(store).await.1.into_iter().map(|entry| (text(entry.key), text(entry.value))).collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

async fn follow(store: &dyn Store, after: Revision, count: usize) -> Vec<Arc<Commit>> {
    let has_event = |commit: &Arc<Commit>| !commit.event.is_empty();
    let feed = store
        .watch(after)
        .await
        .unwrap()
        .try_filter(|commit| std::future::ready(has_event(commit)));
    feed.take(count).try_collect().await.unwrap()
}

async fn clause_1_a_commit_is_atomic_and_applied_in_order(location: &Location) {
    let store = open(location).await;
    store.commit(batch([put("a/1", "x"), put("a/2", "x"), put("b/1", "x")])).await.unwrap();
    store
        .commit(batch([
            put("a/3", "x"),
            delete("a/3"),
            put("a/1", "y"),
            put("a/1", "z"),
            delete("b/1"),
        ]))
        .await
        .unwrap();
    assert_eq!(read(&*store).await, pairs(&[("a/1", "z"), ("a/2", "x")]));
}

async fn clause_1_concurrent_commits_are_each_atomic(location: &Location) {
    let store = open(location).await;
    let writers = (0..64).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            let keys = (0..8).map(|key| put(&format!("{writer:02}/{key}"), "x"));
            store.commit(batch(keys)).await.unwrap();
            // These deletes follow puts that may still wait in the same group of commits.
            store
                .commit(batch((0..8).map(|key| delete(&format!("{writer:02}/{key}")))))
                .await
                .unwrap();
            store.commit(batch([put(&format!("{writer:02}/last"), "x")])).await.unwrap()
        })
    });
    let mut revisions = Vec::new();
    for writer in writers.collect::<Vec<_>>() {
        revisions.push(writer.await.unwrap());
    }
    revisions.sort_unstable();
    revisions.dedup();
    assert_eq!(revisions.len(), 64);
    let (revision, entries) = entries(&*store).await;
    assert!(revision >= revisions[63]);
    assert_eq!(entries.len(), 64);
    assert!(entries.iter().all(|entry| entry.key.ends_with(b"/last")));
}

async fn clause_2_revisions_increase_and_survive_restarts(location: &Location) {
    let store = open(location).await;
    assert_eq!(entries(&*store).await.1, Vec::new());
    let first = store.commit(batch([put("a", "1")])).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let store = open(location).await;
    let second = store.commit(batch([put("b", "2")])).await.unwrap();
    assert!(second > first && first > 0);
    drop(store);
    let store = open(location).await;
    let (revision, entries) = entries(&*store).await;
    assert!(revision >= second);
    // A precondition on the revision with which the commit was answered holds.
    assert!(
        first <= second
            && entries[0].revision <= first
            && entries[1].revision <= second
            && entries[1].revision > first
    );
    for (key, revision) in [("a", first), ("b", second)] {
        store.commit(with_precondition(key, Some(revision), put(key, "3"))).await.unwrap();
    }
}

async fn clause_3_a_snapshot_is_of_one_revision_while_others_write(location: &Location) {
    let store = open(location).await;
    // Enough records for several pages, the first and the last always written together.
    for chunk in 0..30 {
        store
            .commit(batch((0..100).map(|key| put(&format!("m{chunk:02}{key:02}"), "x"))))
            .await
            .unwrap();
    }
    let pair = |number: u32| batch([put("a", &number.to_string()), put("z", &number.to_string())]);
    store.commit(pair(0)).await.unwrap();
    let writer = {
        let store = store.clone();
        tokio::spawn(async move {
            for number in 1..200 {
                store.commit(pair(number)).await.unwrap();
            }
        })
    };
    for _ in 0..10 {
        let (revision, entries) = entries(&*store).await;
        assert_eq!(entries.len(), 3_002);
        assert_eq!(entries[0].value, entries[3_001].value);
        assert!(entries.iter().all(|entry| entry.revision <= revision));
        assert!(entries.is_sorted_by(|a, b| a.key < b.key));
    }
    writer.await.unwrap();
}

async fn clause_3_a_snapshot_has_every_key_of_any_shape(location: &Location) {
    let store = open(location).await;
    let mut keys: Vec<Vec<u8>> = Vec::new();
    // Many keys below one prefix, one below each of many prefixes, keys that are prefixes of
    // others, and the lowest and highest bytes.
    keys.extend((0..12_000).map(|number| format!("r/one room/{number:06}").into_bytes()));
    keys.extend((0..4_000_u32).map(|number| format!("r/{number:04}/{number:x}").into_bytes()));
    keys.extend((0..400_u32).map(|number| vec![b'x'; number as usize + 1]));
    keys.extend((0..=255_u8).flat_map(|byte| [vec![byte], vec![byte, 255], vec![255, 255, byte]]));
    keys.sort();
    keys.dedup();
    let commits = keys.chunks(100).map(|keys| {
        let put = |key: &Vec<u8>| Operation::Put { key: key.clone(), value: vec![0; 60] };
        store.commit(batch(keys.iter().map(put)))
    });
    assert!(futures_util::future::join_all(commits).await.iter().all(Result::is_ok));
    let found: Vec<_> = entries(&*store).await.1.into_iter().map(|entry| entry.key).collect();
    assert!(found == keys, "{} of {}", found.len(), keys.len());
    let mut copy = Copy::of(&*store).await;
    assert!(copy.records.keys().eq(keys.iter()), "{} of {}", copy.records.len(), keys.len());
    store.commit(batch([delete("r/one room/000000")])).await.unwrap();
    copy.reach(store.latest_revision().await.unwrap()).await;
    assert_eq!(copy.records.len(), keys.len() - 1);
}

async fn clause_4_a_watcher_gets_every_commit_once_and_in_order(location: &Location) {
    let store = open(location).await;
    let commit =
        async |number: usize| store.commit(batch([put("k", &number.to_string())])).await.unwrap();
    let mut committed = Vec::new();
    for number in 0..200 {
        committed.push(commit(number).await);
    }
    let after = committed[99];
    let follower = store.clone();
    let live = tokio::spawn(async move { follow(&*follower, after, 160).await });
    for number in 200..260 {
        committed.push(commit(number).await);
    }
    let commits = live.await.unwrap();
    let revisions: Vec<_> = commits.iter().map(|commit| commit.revision).collect();
    assert_eq!(revisions, committed[100..]);
    assert_eq!(commits[0].operations, [put("k", "100")]);
    assert_eq!(
        (commits[159].operations.as_slice(), commits[159].event.as_slice()),
        ([put("k", "259")].as_slice(), &b"event"[..])
    );
}

async fn clause_4_snapshot_and_feed_together_are_complete(location: &Location) {
    let store = open(location).await;
    store.commit(batch([put("a", "1")])).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let store = open(location).await;
    let (revision, entries) = entries(&*store).await;
    assert_eq!(entries.len(), 1);
    let next = store.commit(batch([put("b", "2")])).await.unwrap();
    let commits = follow(&*store, revision, 1).await;
    assert_eq!(
        (commits[0].revision, commits[0].operations.as_slice()),
        (next, [put("b", "2")].as_slice())
    );
}

async fn clause_4_a_watch_from_a_dropped_revision_is_refused(location: &Location) {
    let store = open(location).await;
    let writers = (0..64).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut revisions = Vec::new();
            for number in 0..100 {
                revisions.push(
                    store
                        .commit(batch([put(&writer.to_string(), &number.to_string())]))
                        .await
                        .unwrap(),
                );
            }
            revisions
        })
    });
    let mut committed = Vec::new();
    for writer in writers.collect::<Vec<_>>() {
        committed.extend(writer.await.unwrap());
    }
    committed.sort_unstable();
    let first = store.watch(0).await.unwrap().next().await.unwrap();
    assert!(matches!(first, Err(StoreError::Compacted { .. })), "{first:?}");
    let (revision, entries) = entries(&*store).await;
    assert!(revision >= committed[6_399]);
    assert_eq!(entries.len(), 64);
    let kept = follow(&*store, committed[6_394], 5).await;
    assert_eq!(kept.iter().map(|commit| commit.revision).collect::<Vec<_>>(), committed[6_395..]);
}

async fn clause_5_a_failed_precondition_changes_nothing(location: &Location) {
    let store = open(location).await;
    let first = store.commit(with_precondition("k", None, put("k", "1"))).await.unwrap();
    for wrong in [None, Some(first + 1_000)] {
        let refused = store.commit(with_precondition("k", wrong, put("k", "2"))).await;
        assert!(matches!(refused, Err(StoreError::Conflict { .. })), "{refused:?}");
    }
    assert_eq!(read(&*store).await, pairs(&[("k", "1")]));
    let second = store.commit(with_precondition("k", Some(first), put("k", "3"))).await.unwrap();
    assert_eq!(read(&*store).await, pairs(&[("k", "3")]));
    store.commit(batch([delete("k")])).await.unwrap();
    assert!(store.commit(with_precondition("k", Some(second), put("k", "4"))).await.is_err());
    assert!(store.commit(with_precondition("k", None, put("k", "5"))).await.is_ok());
}

async fn clause_5_one_of_many_with_equal_preconditions_succeeds(location: &Location) {
    let store = open(location).await;
    let writers = (0..64).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            store.commit(with_precondition("k", None, put("k", &writer.to_string()))).await.is_ok()
        })
    });
    let mut succeeded = 0;
    for writer in writers.collect::<Vec<_>>() {
        succeeded += usize::from(writer.await.unwrap());
    }
    assert_eq!((succeeded, read(&*store).await.len()), (1, 1));
}

async fn clause_6_keys_and_values_are_any_bytes(location: &Location) {
    let store = open(location).await;
    let key = vec![0, 255, b'/', 0];
    let operations = vec![
        Operation::Put { key: key.clone(), value: Vec::new() },
        Operation::Put { key: vec![255], value: vec![0; 10_000] },
    ];
    store.commit(batch(operations)).await.unwrap();
    drop(store);
    let (_, entries) = entries(&*open(location).await).await;
    assert_eq!((&entries[0].key, entries[0].value.len()), (&key, 0));
    assert_eq!((&entries[1].key, entries[1].value.len()), (&vec![255], 10_000));
}

async fn clause_8_the_latest_revision_is_linearizable(location: &Location) {
    let store = open(location).await;
    for number in 0..20 {
        let answered = store.commit(batch([put("key", &number.to_string())])).await.unwrap();
        let latest = store.latest_revision().await.unwrap();
        let next = store.commit(batch([put("key", "next")])).await.unwrap();
        assert!((answered..next).contains(&latest), "{latest} between {answered} and {next}");
    }
}

macro_rules! contract {
    ($($clause:ident),+ $(,)?) => {
        mod sled_engine {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $clause() {
                    let directory = tempfile::tempdir().unwrap();
                    let memory = super::Memory { cache_bytes: 1 << 20, ..super::Memory::default() };
                    let path = directory.path().to_path_buf();
                    super::$clause(&super::Location::Directory { path, memory }).await;
                }
            )+
        }

        mod etcd_engine {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $clause() {
                    if let Some(etcd) = super::Etcd::start(1, &[]) {
                        super::$clause(&etcd.location()).await;
                    }
                }
            )+
        }

        mod double_engine {
            $(
                #[tokio::test(start_paused = true)]
                async fn $clause() {
                    super::$clause(&super::Double::new(1).location()).await;
                }
            )+
        }
    };
}

contract!(
    clause_1_a_commit_is_atomic_and_applied_in_order,
    clause_1_concurrent_commits_are_each_atomic,
    clause_2_revisions_increase_and_survive_restarts,
    clause_3_a_snapshot_is_of_one_revision_while_others_write,
    clause_3_a_snapshot_has_every_key_of_any_shape,
    clause_4_a_watcher_gets_every_commit_once_and_in_order,
    clause_4_snapshot_and_feed_together_are_complete,
    clause_4_a_watch_from_a_dropped_revision_is_refused,
    clause_5_a_failed_precondition_changes_nothing,
    clause_5_one_of_many_with_equal_preconditions_succeeds,
    clause_6_keys_and_values_are_any_bytes,
    clause_7_history_has_every_event_once_in_both_orders,
    clause_7_history_survives_a_crash,
    clause_7_dropped_history_is_reported_without_holes,
    clause_7_history_is_read_while_others_write,
    clause_8_the_latest_revision_is_linearizable,
    clause_9_a_copy_equals_the_store_under_any_writes,
);
