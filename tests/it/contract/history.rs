//! Clause 7: the history.

use super::*;

/// A range of the history. Checks that each event has the content that `make_history` gave it.
async fn history(
    store: &dyn Store,
    range: EventRange,
    newest_first: bool,
    limit: usize,
) -> Vec<StoredEvent> {
    let events = store.events(range, newest_first, limit).await.unwrap();
    assert!(
        events.iter().all(|stored| stored.event == format!("e{}", stored.at_ms / 10).into_bytes())
    );
    events
}

fn numbers(events: &[StoredEvent]) -> Vec<u64> {
    events.iter().map(|stored| stored.at_ms / 10).collect()
}

/// Makes this many commits, each with an event of its own and a time of ten times its number.
/// Returns their revisions.
async fn make_history(store: &dyn Store, from: u64, count: u64) -> Vec<Revision> {
    let mut revisions = Vec::new();
    for number in from..from + count {
        let batch = EncodedBatch {
            event: format!("e{number}").into(),
            at_ms: number * 10,
            ..batch([put("k", "v")])
        };
        revisions.push(store.commit(batch).await.unwrap());
    }
    revisions
}

fn counted(numbers: impl Iterator<Item = u64>) -> Vec<u64> {
    numbers.collect()
}

pub(super) async fn clause_7_history_has_every_event_once_in_both_orders(location: &Location) {
    let store = open(location).await;
    let all = EventRange::default();
    assert!(history(&*store, all, false, 10).await.is_empty());
    assert!(
        history(&*store, EventRange { after: Some(0), before: None }, true, 10).await.is_empty()
    );
    // The revision of event 1 has index 1.
    let mut revisions = vec![0];
    revisions.extend(make_history(&*store, 1, 20).await);
    store.close().await.unwrap();
    drop(store);
    let store = open(location).await;
    revisions.extend(make_history(&*store, 21, 20).await);
    let listed = history(&*store, all, false, 1_000).await;
    assert_eq!(listed.iter().map(|stored| stored.revision).collect::<Vec<_>>(), revisions[1..]);
    assert_eq!(numbers(&listed), counted(1..=40));
    assert_eq!(numbers(&history(&*store, all, true, 1_000).await), counted((1..=40).rev()));
    let middle = EventRange { after: Some(revisions[10]), before: Some(revisions[31]) };
    assert_eq!(numbers(&history(&*store, middle, false, 15).await), counted(11..=25));
    assert_eq!(numbers(&history(&*store, middle, true, 15).await), counted((16..=30).rev()));
    let empty_ranges = [
        (revisions[40], None),
        (revisions[40] + 1_000, None),
        (Revision::MAX, None),
        (revisions[20], Some(revisions[21])),
        (revisions[20], Some(revisions[5])),
    ];
    for (after, before) in empty_ranges {
        assert!(
            history(&*store, EventRange { after: Some(after), before }, true, 10).await.is_empty(),
            "{after} {before:?}"
        );
    }
    let beyond = EventRange { after: None, before: Some(Revision::MAX) };
    assert_eq!(numbers(&history(&*store, beyond, true, 1).await), [40]);
}

pub(super) async fn clause_7_history_survives_a_crash(location: &Location) {
    for round in 0..3 {
        let store = open(location).await;
        make_history(&*store, round * 20 + 1, 20).await;
        if round == 1 {
            store.close().await.unwrap();
        }
    }
    let store = open(location).await;
    let all = EventRange { after: Some(0), before: None };
    assert_eq!(numbers(&history(&*store, all, false, 1_000).await), counted(1..=60));
    assert_eq!(numbers(&history(&*store, all, true, 50).await), counted((11..=60).rev()));
}

pub(super) async fn clause_7_dropped_history_is_reported_without_holes(location: &Location) {
    // Engines drop old events many at a time: one of them when it is closed, the other while it
    // commits.
    let mut made = 0;
    let mut kept = Vec::new();
    let mut store = open(location).await;
    while kept.len() as u64 == made {
        assert!(made < 2_000, "nothing was dropped");
        store.close().await.unwrap();
        drop(store);
        let keeping_ten =
            store::open(location, Retention { events: 10, age_ms: u64::MAX }).await.unwrap();
        make_history(&*keeping_ten, made + 1, 20).await;
        keeping_ten.close().await.unwrap();
        drop(keeping_ten);
        store = open(location).await;
        // This commit comes after everything that the closed store may still have sent.
        make_history(&*store, made + 21, 1).await;
        made += 21;
        kept = history(&*store, EventRange::default(), false, 3_000).await;
    }
    let oldest = numbers(&kept)[0];
    assert!(kept.len() >= 10, "{:?} of {made}", numbers(&kept));
    assert_eq!(numbers(&kept), counted(oldest..=made));
    for newest_first in [true, false] {
        let after = |after| EventRange { after: Some(after), before: None };
        let Err(StoreError::Compacted { oldest: reported }) =
            store.events(after(0), newest_first, 1).await
        else {
            panic!("dropped events are not reported");
        };
        assert!(reported <= kept[0].revision);
        assert_eq!(
            history(&*store, after(reported - 1), newest_first, 1_000).await.len(),
            kept.len()
        );
        let before = EventRange { after: None, before: Some(kept[0].revision) };
        assert!(history(&*store, before, newest_first, 10).await.is_empty());
    }
    assert_eq!(
        numbers(&history(&*store, EventRange::default(), true, 1_000).await),
        counted((oldest..=made).rev())
    );
}

pub(super) async fn clause_7_history_is_read_while_others_write(location: &Location) {
    let store = open(location).await;
    let writer = {
        let store = store.clone();
        tokio::spawn(async move { make_history(&*store, 1, 300).await })
    };
    let mut read = Vec::new();
    while read.len() < 300 {
        let after = Some(read.last().map_or(0, |last: &StoredEvent| last.revision));
        read.extend(history(&*store, EventRange { after, before: None }, false, 7).await);
    }
    assert_eq!(
        read.iter().map(|stored| stored.revision).collect::<Vec<_>>(),
        writer.await.unwrap()
    );
    assert_eq!(numbers(&read), counted(1..=300));
}
