//! Snapshots of the embedded engine during writes: no writer waits for a reader, and each snapshot
//! is of one revision.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{TryStreamExt as _, future::join_all};
use mute_service::store::{
    self, EncodedBatch, Location, Memory, Operation, Retention, Revision, Store,
};
use rand::{RngExt as _, rngs::StdRng};

use crate::ledger::random;

const KEYS: u32 = 20_000;
const MEMORY: Memory = Memory { cache_bytes: 1 << 20, journal_bytes: 64 << 10 };
/// Less than the time a blocking reader would block a writer.
const TIMEOUT: Duration = Duration::from_secs(60);

type Records = BTreeMap<Vec<u8>, (Revision, Vec<u8>)>;

fn key(number: u32) -> Vec<u8> {
    format!("key {number:08}").into_bytes()
}

/// Commits these keys: two of three get a value, the third is deleted.
async fn commit(store: &dyn Store, records: &mut Records, numbers: &[u32]) {
    let value = vec![numbers.len() as u8; 40];
    let operation = |number: &u32| match number % 3 {
        0 if numbers.len() < 100 => Operation::Delete { key: key(*number) },
        _ => Operation::Put { key: key(*number), value: value.clone() },
    };
    let operations: Vec<_> = numbers.iter().map(operation).collect();
    let batch = EncodedBatch {
        operations: operations.clone(),
        event: b"event".to_vec(),
        at_ms: 1,
        ..EncodedBatch::default()
    };
    let revision = tokio::time::timeout(TIMEOUT, store.commit(batch))
        .await
        .expect("a commit waits for a reader")
        .unwrap();
    for operation in operations {
        match operation {
            Operation::Put { key, value } => drop(records.insert(key, (revision, value))),
            Operation::Delete { key } => drop(records.remove(&key)),
        }
    }
}

async fn commit_at_random(
    store: &dyn Store,
    records: &mut Records,
    random: &mut StdRng,
    count: usize,
) {
    for _ in 0..count {
        // Keys that exist, and some after them.
        let numbers: Vec<_> = (0..10).map(|_| random.random_range(0..KEYS + 1_000)).collect();
        commit(store, records, &numbers).await;
    }
}

async fn read(snapshot: store::Snapshot) -> Records {
    let pages: Vec<_> = snapshot.pages.try_collect().await.unwrap();
    pages.concat().into_iter().map(|entry| (entry.key, (entry.revision, entry.value))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_snapshot_reader_blocks_no_writer() {
    let directory = tempfile::tempdir().unwrap();
    let location = Location::Directory { path: directory.path().to_path_buf(), memory: MEMORY };
    let store: Arc<dyn Store> =
        store::open(&location, Retention { events: 1_000, age_ms: u64::MAX }).await.unwrap();
    let mut random = random();
    let mut records = Records::new();
    for first in (0..KEYS).step_by(500) {
        commit(&*store, &mut records, &(first..first + 500).collect::<Vec<_>>()).await;
    }
    let mut snapshots = Vec::new();
    for commits in [400, 400, 400] {
        let snapshot = store.snapshot().await.unwrap();
        assert_eq!(snapshot.revision, store.latest_revision().await.unwrap());
        snapshots.push((snapshot, records.clone()));
        commit_at_random(&*store, &mut records, &mut random, commits).await;
    }
    // One more snapshot, which is read slowly.
    let snapshot = store.snapshot().await.unwrap();
    let expected = records.clone();
    let revision = snapshot.revision;
    let mut pages = snapshot.pages;
    let mut part = Vec::new();
    while let Some(page) = pages.try_next().await.unwrap() {
        part.push(page);
        commit_at_random(&*store, &mut records, &mut random, 20).await;
    }
    let part: Records =
        part.concat().into_iter().map(|entry| (entry.key, (entry.revision, entry.value))).collect();
    assert!(part == expected, "a part of the snapshot of {revision} is of another revision");
    tokio::time::timeout(TIMEOUT, store.close())
        .await
        .expect("a close waits for a reader")
        .unwrap();
    for (snapshot, expected) in snapshots {
        let revision = snapshot.revision;
        assert!(
            read(snapshot).await == expected,
            "a part of the snapshot of {revision} is of another revision"
        );
    }
    assert!(read(store.snapshot().await.unwrap()).await == records);
    let late = store.snapshot().await.unwrap();
    drop(store);
    // A snapshot keeps the directory open for at most the time of one page.
    let reopened =
        join_all([store::open(&location, Retention { events: 1_000, age_ms: u64::MAX })]).await;
    assert!(reopened[0].is_ok() && late.pages.try_collect::<Vec<_>>().await.is_err());
}
