//! Which apps have events in which spans of the history, as far as it was read. A reader skips the
//! spans without events of its app. So an app with few events costs one walk over the events of all
//! apps, and then next to nothing.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::store::Revision;

/// Spans in memory, at most. Beyond it all are dropped, and learnt again. A million events make
/// 4,000 spans.
const SPANS_MAX: usize = 16_384;

/// The spans of the history that were read, by their first revision.
#[derive(Default)]
pub struct Spans(Mutex<BTreeMap<Revision, Span>>);

/// The apps that have events from the first revision, the key, to before `end`. History does not
/// change, so neither does this.
struct Span {
    end: Revision,
    /// Hashes of app keys, sorted. A collision only makes a reader read a span that it could skip.
    app_hashes: Box<[u64]>,
}

impl Spans {
    /// Records the apps that have events from `first` to before `end`. All those revisions must be
    /// committed already.
    pub fn insert(&self, first: Revision, end: Revision, apps: &[String]) {
        let mut app_hashes: Vec<_> = apps.iter().map(|app| hash(app)).collect();
        app_hashes.sort_unstable();
        app_hashes.dedup();
        let mut spans = self.spans();
        if spans.len() >= SPANS_MAX {
            spans.clear();
        }
        let is_longer = spans.get(&first).is_none_or(|span| span.end < end);
        if first < end && is_longer {
            spans.insert(first, Span { end, app_hashes: app_hashes.into() });
        }
    }

    /// The lowest revision before which, going back from `before`, an event of the app may lie.
    #[must_use]
    pub fn before(&self, app: &str, mut before: Revision) -> Revision {
        let app_hash = hash(app);
        let spans = self.spans();
        while let Some((first, span)) = spans.range(..before).next_back()
            && span.skips(app_hash, before.saturating_sub(1))
        {
            before = *first;
        }
        before
    }

    /// The highest revision after which, going on from `after`, an event of the app may lie.
    #[must_use]
    pub fn after(&self, app: &str, mut after: Revision) -> Revision {
        let app_hash = hash(app);
        let spans = self.spans();
        while let Some((_, span)) = spans.range(..=after + 1).next_back()
            && span.skips(app_hash, after + 1)
        {
            after = span.end - 1;
        }
        after
    }

    fn spans(&self) -> MutexGuard<'_, BTreeMap<Revision, Span>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Span {
    /// Whether the revision is in the span, and no event of the app is.
    fn skips(&self, app_hash: u64, revision: Revision) -> bool {
        revision < self.end && self.app_hashes.binary_search(&app_hash).is_err()
    }
}

fn hash(app: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    app.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apps(apps: &[&str]) -> Vec<String> {
        apps.iter().map(|app| (*app).to_owned()).collect()
    }

    #[test]
    fn only_spans_without_events_of_the_app_are_skipped() {
        let spans = Spans::default();
        assert_eq!((spans.before("a", 100), spans.after("a", 0)), (100, 0), "nothing was read");
        spans.insert(10, 20, &apps(&["b", "c", "", "b"]));
        spans.insert(20, 30, &apps(&["a"]));
        spans.insert(30, 40, &apps(&["b"]));
        // It overlaps the one before, as pages of two readers do.
        spans.insert(35, 50, &apps(&["b"]));
        for (before, of_a, of_b, of_c) in [
            (50, 30, 50, 20),
            (45, 30, 45, 20),
            (51, 51, 51, 51),
            (40, 30, 40, 20),
            (20, 10, 20, 20),
            (10, 10, 10, 10),
            (15, 10, 15, 15),
        ] {
            assert_eq!(
                ["a", "b", "c"].map(|app| spans.before(app, before)),
                [of_a, of_b, of_c],
                "before {before}"
            );
        }
        for (after, of_a, of_b, of_c) in [
            (9, 19, 9, 9),
            (8, 8, 8, 8),
            (19, 19, 29, 49),
            (24, 24, 29, 49),
            (29, 49, 29, 49),
            (49, 49, 49, 49),
        ] {
            assert_eq!(
                ["a", "b", "c"].map(|app| spans.after(app, after)),
                [of_a, of_b, of_c],
                "after {after}"
            );
        }
        // A shorter span does not replace a longer one.
        spans.insert(20, 21, &[]);
        assert_eq!(spans.before("b", 30), 20);
    }

    #[test]
    fn the_number_of_spans_is_bounded() {
        let spans = Spans::default();
        (0..SPANS_MAX as u64 + 5).for_each(|at| spans.insert(at * 2, at * 2 + 1, &[]));
        assert_eq!(spans.spans().len(), 5);
    }
}
