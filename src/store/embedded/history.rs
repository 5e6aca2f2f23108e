//! The history of the embedded engine: the latest events are in the memtables, older ones in the
//! tree.

use std::ops::Range;

use super::{shared::Shared, tree::Tree};
use crate::store::{EventRange, Revision, StoreError, StoredEvent};

impl Shared {
    /// Clause 7. Takes no lock over the whole read: events that the flusher moves into the tree
    /// meanwhile were already read from memory, and if some were pruned meanwhile it starts again.
    pub(super) fn events(
        &self,
        range: EventRange,
        newest_first: bool,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        loop {
            let kept = self.kept_events(range.after)?;
            let revisions = range.select(kept.clone(), newest_first, limit)?;
            let (from_memory, in_tree) = {
                let memtables = self.memtables();
                let in_tree = revisions.start..revisions.end.min(memtables.after() + 1);
                (memtables.events(&revisions), in_tree)
            };
            let mut events = if in_tree.is_empty() {
                Vec::new()
            } else {
                self.with_tree(|tree| tree.events(&in_tree))?
            };
            events.extend(from_memory);
            if events.iter().map(|event| event.revision).eq(revisions) {
                if newest_first {
                    events.reverse();
                }
                return Ok(events);
            }
            if self.kept_events(range.after)?.start == kept.start {
                let place = self.directory.path().display().to_string();
                return Err(StoreError::Corrupt {
                    place,
                    what: "a gap in the event log".to_owned(),
                });
            }
        }
    }

    /// The commits whose events are kept. A caller that needs only those after `needed_after` may
    /// get a range without older ones, which saves reading the tree.
    fn kept_events(&self, needed_after: Option<Revision>) -> Result<Range<Revision>, StoreError> {
        let (after, latest) = {
            let memtables = self.memtables();
            (memtables.after(), memtables.active.revision)
        };
        let oldest_in_tree =
            if needed_after >= Some(after) { None } else { self.with_tree(Tree::oldest_event)? };
        Ok(oldest_in_tree.map_or(after + 1, |oldest| oldest.min(after + 1))..latest + 1)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::{EncodedBatch, Memory, Retention, Store as _, embedded::Embedded};

    const KEEP_ALL: Retention = Retention { events: 1_000_000, age_ms: u64::MAX };

    /// Commits this many small events, and to seal the memtable, a few large ones.
    async fn make_history(store: &Embedded, small: usize, seal_memtable: bool) {
        let large = if seal_memtable { 4 } else { 0 };
        let sizes = std::iter::repeat_n(1 << 10, small).chain(std::iter::repeat_n(1 << 20, large));
        for bytes in sizes {
            let at_ms = store.shared.feed_buffer.latest_revision() + 1;
            let event = at_ms.to_be_bytes().into_iter().cycle().take(bytes).collect();
            assert_eq!(
                store
                    .commit(EncodedBatch { event, at_ms, ..EncodedBatch::default() })
                    .await
                    .unwrap(),
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

    /// Reads every range, in both directions, with limits that end it before, at and after every
    /// boundary.
    async fn check_all_ranges(store: &Embedded, boundaries: &[Revision]) {
        let latest = store.shared.feed_buffer.latest_revision();
        let near = |boundary: &Revision| [boundary.saturating_sub(1), *boundary, boundary + 1];
        for after in boundaries.iter().flat_map(near).filter(|after| *after <= latest) {
            for limit in boundaries
                .iter()
                .flat_map(near)
                .map(|boundary| boundary.saturating_sub(after) as usize)
            {
                let expected: Vec<_> = (after + 1..=latest).take(limit).collect();
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
            (1..=latest).collect::<Vec<_>>()
        );
        assert_eq!(
            revisions(store, EventRange::default(), true, usize::MAX).await,
            (1..=latest).rev().collect::<Vec<_>>()
        );
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn history_reads_span_tree_and_memtables() {
        let directory = tempfile::tempdir().unwrap();
        let store = Embedded::open(directory.path(), Memory::default(), KEEP_ALL).unwrap();
        make_history(&store, 40, false).await;
        store.close().await.unwrap();
        drop(store);
        let store = Embedded::open(directory.path(), Memory::default(), KEEP_ALL).unwrap();
        let boundaries = {
            let resume_flusher = pause_flusher(&store);
            make_history(&store, 6, true).await;
            make_history(&store, 6, true).await;
            make_history(&store, 10, false).await;
            let boundaries = {
                let memtables = store.shared.memtables();
                [
                    memtables.after(),
                    memtables.sealed[1].after,
                    memtables.active.after,
                    memtables.active.revision,
                ]
            };
            assert_eq!(boundaries, [40, 50, 60, 70]);
            check_all_ranges(&store, &boundaries).await;
            resume_flusher.send(()).unwrap();
            boundaries
        };
        // Again during the flush, and after it.
        while store.shared.memtables().after() < 60 {
            assert_eq!(
                revisions(&store, EventRange::default(), false, 100).await,
                (1..=70).collect::<Vec<_>>()
            );
            assert_eq!(
                revisions(&store, EventRange::default(), true, 100).await,
                (1..=70).rev().collect::<Vec<_>>()
            );
        }
        check_all_ranges(&store, &boundaries).await;
    }

    /// Keeps the flusher from writing the tree until a message is sent.
    fn pause_flusher(store: &Embedded) -> std::sync::mpsc::Sender<()> {
        let shared = store.shared.clone();
        let (paused_sender, paused) = std::sync::mpsc::channel();
        let (resume_sender, resume) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let _no_flush = shared.flush_lock.read().unwrap();
            paused_sender.send(()).unwrap();
            let _ = resume.recv();
        });
        paused.recv().unwrap();
        resume_sender
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn history_that_is_pruned_during_a_read_has_no_gap() {
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
        let mut compacted = 0;
        while !writer.is_finished() || compacted == 0 {
            let oldest_first = revisions(&store, EventRange::default(), false, usize::MAX).await;
            assert!(oldest_first.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{oldest_first:?}");
            match store.events(EventRange { after: Some(0), before: None }, false, 3).await {
                Ok(events) => {
                    assert!(
                        compacted == 0 && events.first().is_none_or(|event| event.revision == 1)
                    )
                }
                Err(StoreError::Compacted { .. }) => compacted += 1,
                Err(other) => panic!("{other}"),
            }
        }
        writer.await.unwrap();
    }
}
