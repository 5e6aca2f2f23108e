//! The faults of the double's network and members, one at a time: this shows that a simulation,
//! which combines them, meets each of them.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, TryStreamExt as _};
use mute_service::store::{
    self, EncodedBatch, Operation, Precondition, Retention, Revision, Store, StoreError, Update,
};
use tokio::time::{Instant, sleep, timeout};

use super::{
    Double, Network,
    link::{Loss, State},
};

const KEEP_ALL: Retention = Retention { events: 1_000_000, age_ms: u64::MAX };

async fn open(network: &Network) -> Arc<dyn Store> {
    store::open(&network.location(), KEEP_ALL).await.unwrap()
}

fn put_new(key: &str) -> EncodedBatch {
    EncodedBatch {
        preconditions: vec![Precondition { key: key.into(), revision: None }],
        operations: vec![Operation::Put { key: key.into(), value: b"v".to_vec() }],
        event: key.as_bytes().to_vec(),
        is_alone: false,
        at_ms: 1,
    }
}

/// How often an event of this name was committed.
async fn count_events(store: &dyn Store, name: &str) -> usize {
    let events = store.events(store::EventRange::default(), false, 1_000).await.unwrap();
    events.iter().filter(|stored| stored.event == name.as_bytes()).count()
}

async fn records(store: &dyn Store) -> usize {
    let pages: Vec<_> = store.snapshot().await.unwrap().pages.try_collect().await.unwrap();
    pages.concat().len()
}

async fn wait_for_event(store: &dyn Store, after: Revision, name: &str) {
    let mut feed = store.watch(after).await.unwrap();
    while feed.next().await.unwrap().unwrap().event != name.as_bytes() {}
}

#[tokio::test(start_paused = true)]
async fn a_commit_takes_effect_once_whatever_the_network_does() {
    let double = Double::new(3);
    let network = double.network();
    let store = open(&network).await;
    let links = &network.links;
    let faults: [(&str, &dyn Fn()); 7] = [
        ("answers lost without an error", &|| {
            links[..2].iter().for_each(|link| link.lose_answers(1, Loss::Silent))
        }),
        ("answers lost with their connections", &|| {
            links.iter().for_each(|link| link.lose_answers(1, Loss::Reset))
        }),
        ("two members cut off", &|| links[..2].iter().for_each(|link| link.set(State::Cut))),
        ("two members silent", &|| links[1..].iter().for_each(|link| link.set(State::Stalled))),
        ("members restarted", &|| (0..3).for_each(|member| double.restart(member))),
        ("members without a leader", &|| {
            (0..2).for_each(|member| double.set_has_leader(member, false))
        }),
        ("a slow network", &|| {
            links.iter().for_each(|link| link.pace(Duration::from_millis(50), Some(20_000)))
        }),
    ];
    for (name, begin) in faults {
        begin();
        let revision =
            timeout(Duration::from_secs(10), store.commit(put_new(name))).await.unwrap().unwrap();
        for link in links {
            link.set(State::Up);
        }
        (0..3).for_each(|member| double.set_has_leader(member, true));
        timeout(Duration::from_secs(10), wait_for_event(&*store, revision - 1, name))
            .await
            .unwrap();
        assert_eq!(count_events(&*store, name).await, 1, "{name}");
    }
    assert_eq!(records(&*store).await, 7);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_lags_is_late_and_misses_nothing() {
    let double = Double::new(1);
    let store = open(&double.network()).await;
    double.lag(0, 700);
    let started = Instant::now();
    for number in 0..20 {
        let name = number.to_string();
        let revision = store.commit(put_new(&name)).await.unwrap();
        wait_for_event(&*store, revision - 1, &name).await;
    }
    assert!(started.elapsed() > Duration::from_secs(13), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_full_cluster_says_so_and_a_compacted_one_goes_on() {
    let double = Double::new(1);
    let store = open(&double.network()).await;
    store.commit(put_new("first")).await.unwrap();
    double.set_full(true);
    assert!(matches!(store.commit(put_new("full")).await, Err(StoreError::Full(_))));
    double.set_full(false);
    double.compact(double.revision());
    store.commit(put_new("second")).await.unwrap();
    assert_eq!(records(&*store).await, 2);
}

#[tokio::test(start_paused = true)]
async fn an_older_state_in_the_place_of_the_cluster_is_noticed() {
    let double = Double::new(1);
    let store = open(&double.network()).await;
    store.commit(put_new("kept")).await.unwrap();
    let backup = double.backup();
    for number in 0..20 {
        store.commit(put_new(&number.to_string())).await.unwrap();
    }
    sleep(Duration::from_secs(3)).await;
    double.restore(backup);
    let why = timeout(Duration::from_secs(10), store.fatal_error()).await.unwrap();
    assert!(matches!(why, StoreError::RevisionRegressed { .. }), "{why}");
}

#[tokio::test(start_paused = true)]
async fn a_start_after_a_bumped_restore_has_the_restored_state() {
    let double = Double::new(1);
    let store = open(&double.network()).await;
    let revision = store.commit(put_new("kept")).await.unwrap();
    let mut backup = double.backup();
    store.commit(put_new("lost")).await.unwrap();
    drop(store);
    backup.bump(1_000_000);
    double.restore(backup);
    let store = open(&double.network()).await;
    assert_eq!(records(&*store).await, 1);
    assert!(store.commit(put_new("next")).await.unwrap() > revision + 1_000_000);
}

#[tokio::test(start_paused = true)]
async fn a_copy_is_complete_once_its_feed_passed_what_it_read() {
    let double = Double::new(1);
    let networks = [double.network(), double.network()];
    let writer = open(&networks[0]).await;
    let reader = open(&networks[1]).await;
    double.lag(0, 1_000);
    let written = writer.commit(put_new("written")).await.unwrap();
    let mut updates = reader.follow().await.unwrap();
    let mut has_read = false;
    let revision = loop {
        match updates.next().await.unwrap().unwrap() {
            Update::Records(entries) => {
                has_read = entries.iter().any(|entry| entry.key == b"written")
            }
            Update::Complete(revision) => break revision,
            Update::Reset | Update::Commit(_) => {}
        }
    };
    assert!(
        has_read && revision >= written,
        "complete at {revision} with what was written at {written}: {has_read}"
    );
}

#[tokio::test(start_paused = true)]
async fn events_are_dropped_by_age_once_all_clocks_agree() {
    const NOW_MS: u64 = 1_000_000;
    let double = Double::new(1);
    // A segment is full when it spans a second.
    let retention = Retention { events: 1_000_000, age_ms: 16_000 };
    let networks = [double.network(), double.network()];
    let store = store::open(&networks[0].location(), retention).await.unwrap();
    let other = store::open(&networks[1].location(), retention).await.unwrap();
    let write = async |name: &str, at_ms: u64| {
        store.commit(EncodedBatch { at_ms, ..put_new(name) }).await.unwrap();
        // A segment ends after the commit that fills it.
        sleep(Duration::from_millis(500)).await;
    };
    write("first", NOW_MS).await;
    write("ahead", NOW_MS + 60_000).await;
    write("before clocks were compared", NOW_MS + 80_000).await;
    assert_eq!(count_events(&*store, "first").await, 1);
    store.report_certain_time(NOW_MS);
    other.report_certain_time(NOW_MS + 60_000);
    sleep(Duration::from_secs(5)).await;
    write("clocks differ", NOW_MS + 90_000).await;
    other.report_certain_time(NOW_MS + 5_500);
    sleep(Duration::from_secs(6)).await;
    write("it is not late enough", NOW_MS + 92_000).await;
    assert_eq!(count_events(&*store, "first").await, 1);
    [&store, &other].iter().for_each(|store| store.report_certain_time(NOW_MS + 110_000));
    sleep(Duration::from_secs(6)).await;
    write("late enough", NOW_MS + 110_000).await;
    assert_eq!(count_events(&*store, "first").await, 0);
    assert_eq!(count_events(&*store, "late enough").await, 1);
}
