//! The store's contract, one function a clause, for every engine. The clauses stand at the top of `src/store.rs`.

use std::{path::Path, sync::Arc};

use futures_util::{StreamExt as _, TryStreamExt as _};
use mute_service::store::{
    self, Batch, Commit, Engine, Entry, EventRange, Expectation, Memory, Operation, Retention, Revision, Store, StoreError,
};

const KEEP_ALL: Retention = Retention { events: 1_000_000, age_ms: u64::MAX };

/// Opens the engine under test, anew at each call, on the same place.
struct Place<'a> {
    open: &'a dyn Fn(Retention) -> Arc<dyn Store>,
}

impl Place<'_> {
    fn open(&self) -> Arc<dyn Store> {
        (self.open)(KEEP_ALL)
    }
}

fn put(key: &str, value: &str) -> Operation {
    Operation::Put { key: key.into(), value: value.into() }
}

fn batch(operations: impl IntoIterator<Item = Operation>) -> Batch {
    Batch { operations: operations.into_iter().collect(), event: b"event".to_vec(), at_ms: 1, ..Batch::default() }
}

fn expecting(key: &str, revision: Option<Revision>, operation: Operation) -> Batch {
    Batch { expectations: vec![Expectation { key: key.into(), revision }], ..batch([operation]) }
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
    store.watch(after).await.unwrap().take(count).try_collect().await.unwrap()
}

async fn clause_1_a_commit_is_all_and_its_operations_are_applied_in_order(place: Place<'_>) {
    let store = place.open();
    store.commit(batch([put("a/1", "x"), put("a/2", "x"), put("b/1", "x")])).await.unwrap();
    let delete = Operation::DeletePrefix { prefix: "a/".into() };
    store.commit(batch([put("a/3", "x"), delete, put("a/4", "y"), Operation::Delete { key: "b/1".into() }])).await.unwrap();
    assert_eq!(read(&*store).await, pairs(&[("a/4", "y")]));
}

async fn clause_1_commits_at_the_same_moment_are_each_whole(place: Place<'_>) {
    let store = place.open();
    let writers = (0..64).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            let keys = (0..8).map(|key| put(&format!("{writer:02}/{key}"), "x"));
            store.commit(batch(keys)).await.unwrap();
            // Sees what the same group of commits may still be holding back.
            store.commit(batch([Operation::DeletePrefix { prefix: format!("{writer:02}/").into() }])).await.unwrap();
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
    assert_eq!((revision, entries.len()), (192, 64));
    assert!(entries.iter().all(|entry| entry.key.ends_with(b"/last")));
}

async fn clause_2_revisions_increase_over_restarts_and_records_keep_theirs(place: Place<'_>) {
    let store = place.open();
    assert_eq!(entries(&*store).await, (0, Vec::new()));
    let first = store.commit(batch([put("a", "1")])).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let store = place.open();
    let second = store.commit(batch([put("b", "2")])).await.unwrap();
    assert!(second > first && first > 0);
    drop(store);
    let store = place.open();
    let (revision, entries) = entries(&*store).await;
    assert_eq!(revision, second);
    assert_eq!(entries.iter().map(|entry| entry.revision).collect::<Vec<_>>(), [first, second]);
}

async fn clause_3_a_snapshot_is_of_one_revision_while_others_write(place: Place<'_>) {
    let store = place.open();
    // Enough records for several pages, the first and the last always written together.
    for chunk in 0..30 {
        store.commit(batch((0..100).map(|key| put(&format!("m{chunk:02}{key:02}"), "x")))).await.unwrap();
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

async fn clause_4_a_watcher_gets_every_commit_once_and_in_order(place: Place<'_>) {
    let store = place.open();
    for number in 1..=200 {
        store.commit(batch([put("k", &number.to_string())])).await.unwrap();
    }
    let live = {
        let store = store.clone();
        tokio::spawn(async move { follow(&*store, 100, 160).await })
    };
    for number in 201..=260 {
        store.commit(batch([put("k", &number.to_string())])).await.unwrap();
    }
    let commits = live.await.unwrap();
    let revisions: Vec<_> = commits.iter().map(|commit| commit.revision).collect();
    assert_eq!(revisions, (101..=260).collect::<Vec<_>>());
    assert_eq!(commits[0].operations, [put("k", "101")]);
    assert_eq!(
        (commits[159].operations.as_slice(), commits[159].event.as_slice()),
        ([put("k", "260")].as_slice(), &b"event"[..])
    );
}

async fn clause_4_a_snapshot_and_the_feed_after_it_are_everything_over_a_restart_too(place: Place<'_>) {
    let store = place.open();
    store.commit(batch([put("a", "1")])).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let store = place.open();
    let (revision, entries) = entries(&*store).await;
    assert_eq!(entries.len(), 1);
    let feed = store.watch(revision).await.unwrap();
    let next = store.commit(batch([put("b", "2")])).await.unwrap();
    let commits: Vec<_> = feed.take(1).try_collect().await.unwrap();
    assert_eq!((commits[0].revision, commits[0].operations.as_slice()), (next, [put("b", "2")].as_slice()));
}

async fn clause_4_a_watcher_of_what_is_no_longer_kept_is_told_so(place: Place<'_>) {
    let store = (place.open)(Retention { events: 10, age_ms: u64::MAX });
    let writers = (0..64).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for number in 0..100 {
                store.commit(batch([put(&writer.to_string(), &number.to_string())])).await.unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let first = store.watch(0).await.unwrap().next().await.unwrap();
    assert!(matches!(first, Err(StoreError::Compacted { .. })), "{first:?}");
    let (revision, entries) = entries(&*store).await;
    assert_eq!((revision, entries.len()), (6_400, 64));
    let kept = follow(&*store, 6_395, 5).await;
    assert_eq!(kept.iter().map(|commit| commit.revision).collect::<Vec<_>>(), [6_396, 6_397, 6_398, 6_399, 6_400]);
}

async fn clause_5_an_expectation_that_does_not_hold_changes_nothing(place: Place<'_>) {
    let store = place.open();
    let first = store.commit(expecting("k", None, put("k", "1"))).await.unwrap();
    for wrong in [None, Some(first + 1)] {
        let refused = store.commit(expecting("k", wrong, put("k", "2"))).await;
        assert!(matches!(refused, Err(StoreError::Conflict { .. })), "{refused:?}");
    }
    assert_eq!(entries(&*store).await.0, first);
    let second = store.commit(expecting("k", Some(first), put("k", "3"))).await.unwrap();
    assert_eq!(read(&*store).await, pairs(&[("k", "3")]));
    store.commit(batch([Operation::DeletePrefix { prefix: "k".into() }])).await.unwrap();
    assert!(store.commit(expecting("k", Some(second), put("k", "4"))).await.is_err());
    assert!(store.commit(expecting("k", None, put("k", "5"))).await.is_ok());
}

async fn clause_5_of_many_with_the_same_expectation_one_gets_through(place: Place<'_>) {
    let store = place.open();
    let writers = (0..64).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move { store.commit(expecting("k", None, put("k", &writer.to_string()))).await.is_ok() })
    });
    let mut through = 0;
    for writer in writers.collect::<Vec<_>>() {
        through += usize::from(writer.await.unwrap());
    }
    assert_eq!((through, read(&*store).await.len()), (1, 1));
}

async fn clause_6_keys_and_values_are_any_bytes(place: Place<'_>) {
    let store = place.open();
    let key = vec![0, 255, b'/', 0];
    let operations =
        vec![Operation::Put { key: key.clone(), value: Vec::new() }, Operation::Put { key: vec![255], value: vec![0; 10_000] }];
    store.commit(batch(operations)).await.unwrap();
    drop(store);
    let (_, entries) = entries(&*place.open()).await;
    assert_eq!((&entries[0].key, entries[0].value.len()), (&key, 0));
    assert_eq!((&entries[1].key, entries[1].value.len()), (&vec![255], 10_000));
}

/// Revisions and events of a stretch of history.
async fn history(store: &dyn Store, range: EventRange, newest_first: bool, limit: usize) -> Vec<(Revision, String)> {
    let events = store.events(range, newest_first, limit).await.unwrap();
    assert!(events.iter().all(|logged| logged.at_ms == logged.revision * 10));
    events.into_iter().map(|logged| (logged.revision, String::from_utf8(logged.event).unwrap())).collect()
}

/// Commits this many, each with an event of its own and a time of ten times its revision.
async fn make_history(store: &dyn Store, from: Revision, count: u64) {
    for number in from..from + count {
        let batch = Batch { event: format!("e{number}").into(), at_ms: number * 10, ..batch([put("k", "v")]) };
        assert_eq!(store.commit(batch).await.unwrap(), number);
    }
}

fn numbered(numbers: impl Iterator<Item = Revision>) -> Vec<(Revision, String)> {
    numbers.map(|number| (number, format!("e{number}"))).collect()
}

async fn clause_7_history_tells_every_event_once_in_both_orders_over_a_restart_too(place: Place<'_>) {
    let store = place.open();
    let all = EventRange::default();
    assert!(history(&*store, all, false, 10).await.is_empty());
    assert!(history(&*store, EventRange { after: Some(0), before: None }, true, 10).await.is_empty());
    make_history(&*store, 1, 20).await;
    store.close().await.unwrap();
    drop(store);
    let store = place.open();
    make_history(&*store, 21, 20).await;
    assert_eq!(history(&*store, all, false, 1_000).await, numbered(1..=40));
    assert_eq!(history(&*store, all, true, 1_000).await, numbered((1..=40).rev()));
    let middle = EventRange { after: Some(10), before: Some(31) };
    assert_eq!(history(&*store, middle, false, 15).await, numbered(11..=25));
    assert_eq!(history(&*store, middle, true, 15).await, numbered((16..=30).rev()));
    for (after, before) in [(40, None), (1_000, None), (Revision::MAX, None), (20, Some(21)), (20, Some(5))] {
        assert!(history(&*store, EventRange { after: Some(after), before }, true, 10).await.is_empty(), "{after} {before:?}");
    }
    let beyond = EventRange { after: None, before: Some(Revision::MAX) };
    assert_eq!(history(&*store, beyond, true, 1).await, numbered(40..=40));
}

async fn clause_7_history_is_there_after_a_stop_that_was_no_orderly_one(place: Place<'_>) {
    for round in 0..3 {
        let store = place.open();
        make_history(&*store, round * 20 + 1, 20).await;
        if round == 1 {
            store.close().await.unwrap();
        }
    }
    let store = place.open();
    let all = EventRange { after: Some(0), before: None };
    assert_eq!(history(&*store, all, false, 1_000).await, numbered(1..=60));
    assert_eq!(history(&*store, all, true, 50).await, numbered((11..=60).rev()));
}

async fn clause_7_history_that_is_no_longer_kept_is_told_and_never_has_a_hole(place: Place<'_>) {
    let open = || (place.open)(Retention { events: 10, age_ms: u64::MAX });
    // Engines let go of old events many at a time, and not before a stop.
    for round in 0..5 {
        let store = open();
        make_history(&*store, round * 20 + 1, 20).await;
        store.close().await.unwrap();
    }
    let store = open();
    let kept = history(&*store, EventRange::default(), false, 1_000).await;
    assert!((10..100).contains(&kept.len()), "{kept:?}");
    let oldest = kept[0].0;
    assert_eq!(kept, numbered(oldest..=100));
    for newest_first in [true, false] {
        let after = |after| EventRange { after: Some(after), before: None };
        assert_eq!(history(&*store, after(oldest - 1), newest_first, 1_000).await.len(), kept.len());
        let cut = store.events(after(oldest - 2), newest_first, 1).await;
        assert!(matches!(cut, Err(StoreError::Compacted { oldest: told }) if told == oldest), "{cut:?}");
        assert!(history(&*store, EventRange { after: None, before: Some(oldest) }, newest_first, 10).await.is_empty());
    }
    assert_eq!(history(&*store, EventRange::default(), true, 1_000).await, numbered((oldest..=100).rev()));
}

async fn clause_7_history_is_read_while_others_write(place: Place<'_>) {
    let store = place.open();
    let writer = {
        let store = store.clone();
        tokio::spawn(async move { make_history(&*store, 1, 300).await })
    };
    let mut read = Vec::new();
    while read.len() < 300 {
        let after = Some(read.len() as Revision);
        read.extend(history(&*store, EventRange { after, before: None }, false, 7).await);
    }
    writer.await.unwrap();
    assert_eq!(read, numbered(1..=300));
}

fn sled(directory: &Path) -> impl Fn(Retention) -> Arc<dyn Store> {
    move |retention| {
        store::open(Engine::Sled, directory, Memory { cache_bytes: 1 << 20, ..Memory::default() }, retention).unwrap()
    }
}

macro_rules! contract {
    ($($clause:ident),+ $(,)?) => {
        mod sled_engine {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $clause() {
                    let directory = tempfile::tempdir().unwrap();
                    super::$clause(super::Place { open: &super::sled(directory.path()) }).await;
                }
            )+
        }
    };
}

contract!(
    clause_1_a_commit_is_all_and_its_operations_are_applied_in_order,
    clause_1_commits_at_the_same_moment_are_each_whole,
    clause_2_revisions_increase_over_restarts_and_records_keep_theirs,
    clause_3_a_snapshot_is_of_one_revision_while_others_write,
    clause_4_a_watcher_gets_every_commit_once_and_in_order,
    clause_4_a_snapshot_and_the_feed_after_it_are_everything_over_a_restart_too,
    clause_4_a_watcher_of_what_is_no_longer_kept_is_told_so,
    clause_5_an_expectation_that_does_not_hold_changes_nothing,
    clause_5_of_many_with_the_same_expectation_one_gets_through,
    clause_6_keys_and_values_are_any_bytes,
    clause_7_history_tells_every_event_once_in_both_orders_over_a_restart_too,
    clause_7_history_is_there_after_a_stop_that_was_no_orderly_one,
    clause_7_history_that_is_no_longer_kept_is_told_and_never_has_a_hole,
    clause_7_history_is_read_while_others_write,
);
