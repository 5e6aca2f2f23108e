//! The history of the embedded engine: the newest events are in memory, with the memtables; the
//! older ones are in the tree.

use std::ops::Range;

use super::{shared::Shared, tree::Tree};
use crate::store::{EventRange, Revision, StoreError, StoredEvent};

impl Shared {
    /// Clause 7. Nothing stands still for it: events that the tree takes in meanwhile are read from
    /// memory, and where some have gone from the tree it looks again.
    pub(super) fn events(
        &self,
        range: EventRange,
        newest_first: bool,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        loop {
            let kept = self.kept_events(range.after)?;
            let wanted = range.among(kept.clone(), newest_first, limit)?;
            let (recent, in_tree) = {
                let pending = self.pending();
                (pending.events(&wanted), wanted.start..wanted.end.min(pending.after() + 1))
            };
            let mut events = if in_tree.is_empty() {
                Vec::new()
            } else {
                self.with_tree(|tree| tree.events(&in_tree))?
            };
            events.extend(recent);
            if events.iter().map(|event| event.revision).eq(wanted) {
                if newest_first {
                    events.reverse();
                }
                return Ok(events);
            }
            if self.kept_events(range.after)?.start == kept.start {
                let place = self.directory.path().display().to_string();
                return Err(StoreError::Corrupt {
                    place,
                    what: "a gap in the log of events".to_owned(),
                });
            }
        }
    }

    /// The commits whose events are kept; of those up to `up_to` nothing need be said.
    fn kept_events(&self, up_to: Option<Revision>) -> Result<Range<Revision>, StoreError> {
        let (after, newest) = {
            let pending = self.pending();
            (pending.after(), pending.active.revision)
        };
        let in_tree = if up_to >= Some(after) { None } else { self.with_tree(Tree::oldest_event)? };
        Ok(in_tree.map_or(after + 1, |oldest| oldest.min(after + 1))..newest + 1)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::{Batch, Memory, Retention, Store as _, embedded::Embedded};

    const KEEP_ALL: Retention = Retention { events: 1_000_000, age_ms: u64::MAX };

    /// Commits this many small events, and a few large ones that fill the memtable where it is to
    /// be full.
    async fn make_history(store: &Embedded, small: usize, is_to_be_full: bool) {
        let sizes = std::iter::repeat_n(1 << 10, small)
            .chain(std::iter::repeat_n(1 << 20, if is_to_be_full { 4 } else { 0 }));
        for bytes in sizes {
            let at_ms = store.shared.recent.latest_revision() + 1;
            let event = at_ms.to_be_bytes().into_iter().cycle().take(bytes).collect();
            assert_eq!(
                store.commit(Batch { event, at_ms, ..Batch::default() }).await.unwrap(),
                at_ms
            );
        }
    }

    async fn revisions(
        store: &Embedded,
        range: EventRange,
        newest_first: bool,
        limit: usize,
    ) -> Vec<Revision> {
        let events = store.events(range, newest_first, limit).await.unwrap();
        assert!(events.iter().all(|event| event.at_ms == event.revision
            && event.event.starts_with(&event.at_ms.to_be_bytes())));
        events.into_iter().map(|event| event.revision).collect()
    }

    /// Every stretch, in both directions, with limits that end it before, at and behind every
    /// border.
    async fn read_all_stretches(store: &Embedded, borders: &[Revision]) {
        let newest = store.shared.recent.latest_revision();
        let near = |border: &Revision| [border.saturating_sub(1), *border, border + 1];
        for after in borders.iter().flat_map(near).filter(|after| *after <= newest) {
            for limit in
                borders.iter().flat_map(near).map(|border| border.saturating_sub(after) as usize)
            {
                let expected: Vec<_> = (after + 1..=newest).take(limit).collect();
                let oldest_first =
                    revisions(store, EventRange { after: Some(after), before: None }, false, limit)
                        .await;
                assert_eq!(oldest_first, expected, "{limit} after {after}");
                let expected: Vec<_> = (1..=after).rev().take(limit).collect();
                let newest_first = revisions(
                    store,
                    EventRange { after: None, before: Some(after + 1) },
                    true,
                    limit,
                )
                .await;
                assert_eq!(newest_first, expected, "{limit} before {}", after + 1);
            }
        }
        assert_eq!(
            revisions(store, EventRange::default(), false, usize::MAX).await,
            (1..=newest).collect::<Vec<_>>()
        );
        assert_eq!(
            revisions(store, EventRange::default(), true, usize::MAX).await,
            (1..=newest).rev().collect::<Vec<_>>()
        );
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn history_is_told_out_of_the_tree_the_full_memtables_and_the_active_one_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let store = Embedded::open(directory.path(), Memory::default(), KEEP_ALL).unwrap();
        make_history(&store, 40, false).await;
        store.close().await.unwrap();
        drop(store);
        let store = Embedded::open(directory.path(), Memory::default(), KEEP_ALL).unwrap();
        let borders = {
            let flusher = hold(&store);
            make_history(&store, 6, true).await;
            make_history(&store, 6, true).await;
            make_history(&store, 10, false).await;
            let borders = {
                let pending = store.shared.pending();
                [
                    pending.after(),
                    pending.full[1].after,
                    pending.active.after,
                    pending.active.revision,
                ]
            };
            assert_eq!(borders, [40, 50, 60, 70]);
            read_all_stretches(&store, &borders).await;
            flusher.send(()).unwrap();
            borders
        };
        // Once more while they move, and when they have.
        while store.shared.pending().after() < 60 {
            assert_eq!(
                revisions(&store, EventRange::default(), false, 100).await,
                (1..=70).collect::<Vec<_>>()
            );
            assert_eq!(
                revisions(&store, EventRange::default(), true, 100).await,
                (1..=70).rev().collect::<Vec<_>>()
            );
        }
        read_all_stretches(&store, &borders).await;
    }

    /// Lets nothing come to the tree until it is told to.
    fn hold(store: &Embedded) -> std::sync::mpsc::Sender<()> {
        let (shared, (held, is_held), (go_on, told)) =
            (store.shared.clone(), std::sync::mpsc::channel(), std::sync::mpsc::channel());
        std::thread::spawn(move || {
            let _still = shared.flush_lock.read().unwrap();
            held.send(()).unwrap();
            let _ = told.recv();
        });
        is_held.recv().unwrap();
        go_on
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn history_that_goes_from_the_tree_while_it_is_read_has_no_hole() {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(
            Embedded::open(
                directory.path(),
                Memory::default(),
                Retention { events: 5, age_ms: u64::MAX },
            )
            .unwrap(),
        );
        let writer = tokio::spawn({
            let store = store.clone();
            async move {
                for _ in 0..15 {
                    make_history(&store, 4, true).await;
                }
            }
        });
        let mut cuts = 0;
        while !writer.is_finished() || cuts == 0 {
            let oldest_first = revisions(&store, EventRange::default(), false, usize::MAX).await;
            assert!(oldest_first.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{oldest_first:?}");
            match store.events(EventRange { after: Some(0), before: None }, false, 3).await {
                Ok(events) => {
                    assert!(cuts == 0 && events.first().is_none_or(|event| event.revision == 1))
                }
                Err(StoreError::Compacted { .. }) => cuts += 1,
                Err(other) => panic!("{other}"),
            }
        }
        writer.await.unwrap();
    }
}
