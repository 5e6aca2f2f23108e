//! Which apps have events where in the history, as far as it was read: whoever has none there
//! passes it over. So an app that has few, or none, costs a walk over those of all others once, and
//! then nothing.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::store::Revision;

/// Kept at most; beyond that all are forgotten, and found again. A million events are 4,000 of
/// them.
const MOST: usize = 16_384;

/// Spans of the history that were read.
#[derive(Default)]
pub struct Spans(Mutex<BTreeMap<Revision, Span>>);

/// From one revision, its key, to before another: whose events are there. Nothing is ever added to
/// it.
struct Span {
    end: Revision,
    /// Hashes of app keys, in order. Two that are the same cost a look at what could be passed
    /// over.
    apps: Box<[u64]>,
}

impl Spans {
    /// Notes of which apps the events are that there are from one revision to before another, which
    /// has been given out already.
    pub fn note(&self, first: Revision, end: Revision, apps: &[String]) {
        let mut apps: Vec<_> = apps.iter().map(|app| hash(app)).collect();
        apps.sort_unstable();
        apps.dedup();
        let mut spans = self.spans();
        if spans.len() >= MOST {
            spans.clear();
        }
        let is_longer = spans.get(&first).is_none_or(|known| known.end < end);
        if first < end && is_longer {
            spans.insert(first, Span { end, apps: apps.into() });
        }
    }

    /// Before which revision events of the app may be, of those before this one.
    #[must_use]
    pub fn before(&self, app: &str, mut before: Revision) -> Revision {
        let (app, spans) = (hash(app), self.spans());
        while let Some((first, span)) = spans.range(..before).next_back()
            && span.is_passed_over(app, before.saturating_sub(1))
        {
            before = *first;
        }
        before
    }

    /// After which revision events of the app may be, of those after this one.
    #[must_use]
    pub fn after(&self, app: &str, mut after: Revision) -> Revision {
        let (app, spans) = (hash(app), self.spans());
        while let Some((_, span)) = spans.range(..=after + 1).next_back()
            && span.is_passed_over(app, after + 1)
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
    fn is_passed_over(&self, app: u64, revision: Revision) -> bool {
        revision < self.end && self.apps.binary_search(&app).is_err()
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
    fn what_has_no_events_of_an_app_is_passed_over_and_nothing_else() {
        let spans = Spans::default();
        assert_eq!((spans.before("a", 100), spans.after("a", 0)), (100, 0), "nothing was read");
        spans.note(10, 20, &apps(&["b", "c", "", "b"]));
        spans.note(20, 30, &apps(&["a"]));
        spans.note(30, 40, &apps(&["b"]));
        // Of those two that overlap, as pages of two readers do.
        spans.note(35, 50, &apps(&["b"]));
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
        // A shorter one takes the place of none.
        spans.note(20, 21, &[]);
        assert_eq!(spans.before("b", 30), 20);
    }

    #[test]
    fn no_more_are_kept_than_there_is_room_for() {
        let spans = Spans::default();
        (0..MOST as u64 + 5).for_each(|at| spans.note(at * 2, at * 2 + 1, &[]));
        assert_eq!(spans.spans().len(), 5);
    }
}
