//! The answers to requests with an id, of all apps: found by app and id, and in the order in which
//! they are to go.
//!
//! Only writes with a request id look here, so that one lock is enough. An answer that has ended
//! may lie here until the sweeper has removed it ([`Requests::due`] tells it which); whoever looks
//! one up decides with its own clock.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use super::versioned::Versioned;
use crate::{model::IdempotencyRecord, store::Revision};

/// An answer counts once for each KiB that it begins.
const UNIT_BYTES: usize = 1 << 10;

/// An answer that is to go.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct ExpiredRequest {
    pub app: Arc<str>,
    pub id: Arc<str>,
    pub revision: Revision,
}

#[derive(Default)]
pub(super) struct Requests(RwLock<Table>);

#[derive(Default)]
struct Table {
    /// By app and id; ordered maps, because a large hash table stops the feed when it grows.
    apps: HashMap<Arc<str>, OfApp>,
    /// End, app and id of each: the oldest first, because all are kept equally long.
    ends: BTreeSet<(u64, Arc<str>, Arc<str>)>,
}

#[derive(Default)]
struct OfApp {
    ids: BTreeMap<Arc<str>, Versioned<IdempotencyRecord>>,
    units: u64,
}

impl Requests {
    pub(super) fn get(&self, app: &str, id: &str) -> Option<Versioned<IdempotencyRecord>> {
        self.table().apps.get(app)?.ids.get(id).cloned()
    }

    pub(super) fn len(&self) -> u64 {
        self.table().ends.len() as u64
    }

    /// Applies one change of the feed; nothing as value is a removal.
    pub(super) fn apply(
        &self,
        app: &str,
        id: &str,
        value: Option<IdempotencyRecord>,
        revision: Revision,
    ) {
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        table.remove(app, id);
        if let Some(value) = value {
            table.insert(app, id, Versioned { value, revision });
        }
    }

    /// How many answers of an app are kept; a long one counts for several.
    pub(super) fn units(&self, app: &str) -> u64 {
        self.table().apps.get(app).map_or(0, |app| app.units)
    }

    /// The same of the app that has most.
    pub(super) fn most(&self) -> u64 {
        self.table().apps.values().map(|app| app.units).max().unwrap_or(0)
    }

    /// Answers that have ended: at most `limit` of them.
    pub(super) fn due(&self, now_ms: u64, limit: usize) -> Vec<ExpiredRequest> {
        let table = self.table();
        let ended = table.ends.iter().take(limit).take_while(|(end_ms, ..)| *end_ms <= now_ms);
        let due = ended.filter_map(|(_, app, id)| {
            let revision = table.apps.get(app)?.ids.get(id)?.revision;
            Some(ExpiredRequest { app: app.clone(), id: id.clone(), revision })
        });
        due.collect()
    }

    fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn insert(&mut self, app: &str, id: &str, held: Versioned<IdempotencyRecord>) {
        let app = self.apps.get_key_value(app).map_or_else(|| app.into(), |(app, _)| app.clone());
        let id: Arc<str> = id.into();
        self.ends.insert((held.value.end_ms(), app.clone(), id.clone()));
        let of_app = self.apps.entry(app).or_default();
        of_app.units += held.value.units();
        of_app.ids.insert(id, held);
    }

    fn remove(&mut self, app: &str, id: &str) {
        let Some((app, _)) = self.apps.get_key_value(app) else { return };
        let app = app.clone();
        let Some(of_app) = self.apps.get_mut(&app) else { return };
        let Some((id, held)) = of_app.ids.remove_entry(id) else { return };
        of_app.units -= held.value.units();
        self.ends.remove(&(held.value.end_ms(), app, id));
    }
}

impl IdempotencyRecord {
    fn units(&self) -> u64 {
        self.answer.len().div_ceil(UNIT_BYTES).max(1) as u64
    }

    fn end_ms(&self) -> u64 {
        self.expire.ms().unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Expire;

    fn answered(bytes: usize, end_ms: u64) -> Option<IdempotencyRecord> {
        Some(IdempotencyRecord {
            fingerprint: [0; 16],
            answer: vec![0; bytes].into(),
            expire: Expire::at_ms(end_ms),
        })
    }

    fn due(requests: &Requests, now_ms: u64, limit: usize) -> Vec<(String, Revision)> {
        requests
            .due(now_ms, limit)
            .into_iter()
            .map(|due| (due.id.to_string(), due.revision))
            .collect()
    }

    #[test]
    fn what_has_ended_goes_the_oldest_first() {
        let requests = Requests::default();
        for (revision, (app, id, end_ms)) in
            [("b", "1", 10), ("a", "2", 20), ("b", "3", 30)].into_iter().enumerate()
        {
            requests.apply(app, id, answered(1, end_ms), revision as u64);
        }
        assert_eq!(due(&requests, 9, 9), []);
        assert_eq!(due(&requests, 20, 9), [("1".to_owned(), 0), ("2".to_owned(), 1)]);
        assert_eq!(due(&requests, 99, 2).len(), 2);
    }

    #[test]
    fn a_long_answer_counts_for_several_of_its_app_and_nothing_is_left_of_what_was_replaced_or_removed()
     {
        let requests = Requests::default();
        requests.apply("a", "1", answered(2_049, 10), 1);
        requests.apply("a", "2", answered(1_024, 20), 2);
        requests.apply("b", "2", answered(1_024, 20), 2);
        assert_eq!([requests.units("a"), requests.units("b"), requests.units("c")], [4, 1, 0]);
        requests.apply("a", "1", answered(0, 30), 3);
        assert_eq!(requests.get("a", "1").map(|held| held.revision), Some(3));
        assert_eq!((requests.len(), requests.units("a")), (3, 2));
        requests.apply("a", "1", None, 4);
        requests.apply("a", "2", None, 5);
        requests.apply("b", "2", None, 6);
        assert_eq!((requests.len(), requests.units("a"), requests.get("a", "1")), (0, 0, None));
        assert_eq!(due(&requests, 99, 9), []);
    }
}
