//! The idempotency records of all apps: by app and request id, and in the order of their expiry.
//!
//! Only writes with a request id read them, so one lock is enough. An expired record may stay here
//! until the sweeper has removed it ([`IdempotencyRecords::expired`]); a reader decides with its
//! own clock.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use super::versioned::Versioned;
use crate::{model::IdempotencyRecord, store::Revision};

/// A record counts as one unit per started KiB of its answer.
const UNIT_BYTES: usize = 1 << 10;

/// An expired idempotency record.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct ExpiredRequest {
    pub app: Arc<str>,
    pub id: Arc<str>,
    pub revision: Revision,
}

#[derive(Default)]
pub(super) struct IdempotencyRecords(RwLock<Table>);

#[derive(Default)]
struct Table {
    /// By app and id. Ordered maps, because a large hash table blocks the feed while it grows.
    apps: HashMap<Arc<str>, AppRecords>,
    /// Expiry, app and id of each record.
    by_expiry: BTreeSet<(u64, Arc<str>, Arc<str>)>,
}

#[derive(Default)]
struct AppRecords {
    by_id: BTreeMap<Arc<str>, Versioned<IdempotencyRecord>>,
    units: u64,
}

impl IdempotencyRecords {
    pub(super) fn get(&self, app: &str, id: &str) -> Option<Versioned<IdempotencyRecord>> {
        self.table().apps.get(app)?.by_id.get(id).cloned()
    }

    pub(super) fn len(&self) -> u64 {
        self.table().by_expiry.len() as u64
    }

    /// Applies one change of the feed. `None` removes the record.
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

    /// The units of an app's records.
    pub(super) fn units(&self, app: &str) -> u64 {
        self.table().apps.get(app).map_or(0, |app| app.units)
    }

    /// The units of the app that has the most.
    pub(super) fn most_units(&self) -> u64 {
        self.table().apps.values().map(|app| app.units).max().unwrap_or(0)
    }

    /// Expired records, the earliest first, at most `limit`.
    pub(super) fn expired(&self, now_ms: u64, limit: usize) -> Vec<ExpiredRequest> {
        let table = self.table();
        let entries = table.by_expiry.iter().take(limit);
        let expired = entries.take_while(|(expire_ms, ..)| *expire_ms <= now_ms);
        expired
            .filter_map(|(_, app, id)| {
                let revision = table.apps.get(app)?.by_id.get(id)?.revision;
                Some(ExpiredRequest { app: app.clone(), id: id.clone(), revision })
            })
            .collect()
    }

    fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn insert(&mut self, app: &str, id: &str, record: Versioned<IdempotencyRecord>) {
        let app = self.apps.get_key_value(app).map_or_else(|| app.into(), |(app, _)| app.clone());
        let id: Arc<str> = id.into();
        self.by_expiry.insert((record.value.expire_ms(), app.clone(), id.clone()));
        let records = self.apps.entry(app).or_default();
        records.units += record.value.units();
        records.by_id.insert(id, record);
    }

    fn remove(&mut self, app: &str, id: &str) {
        let Some((app, _)) = self.apps.get_key_value(app) else { return };
        let app = app.clone();
        let Some(records) = self.apps.get_mut(&app) else { return };
        let Some((id, record)) = records.by_id.remove_entry(id) else { return };
        records.units -= record.value.units();
        self.by_expiry.remove(&(record.value.expire_ms(), app, id));
    }
}

impl IdempotencyRecord {
    fn units(&self) -> u64 {
        self.answer.len().div_ceil(UNIT_BYTES).max(1) as u64
    }

    fn expire_ms(&self) -> u64 {
        self.expire.ms().unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Expire;

    fn record(bytes: usize, expire_ms: u64) -> Option<IdempotencyRecord> {
        Some(IdempotencyRecord {
            fingerprint: [0; 16],
            answer: vec![0; bytes].into(),
            expire: Expire::at_ms(expire_ms),
        })
    }

    fn expired(records: &IdempotencyRecords, now_ms: u64, limit: usize) -> Vec<(String, Revision)> {
        records
            .expired(now_ms, limit)
            .into_iter()
            .map(|expired| (expired.id.to_string(), expired.revision))
            .collect()
    }

    #[test]
    fn expired_records_come_the_earliest_first() {
        let records = IdempotencyRecords::default();
        for (revision, (app, id, expire_ms)) in
            [("b", "1", 10), ("a", "2", 20), ("b", "3", 30)].into_iter().enumerate()
        {
            records.apply(app, id, record(1, expire_ms), revision as u64);
        }
        assert_eq!(expired(&records, 9, 9), []);
        assert_eq!(expired(&records, 20, 9), [("1".to_owned(), 0), ("2".to_owned(), 1)]);
        assert_eq!(expired(&records, 99, 2).len(), 2);
    }

    #[test]
    fn units_of_an_app_follow_the_length_of_its_answers() {
        let records = IdempotencyRecords::default();
        records.apply("a", "1", record(2_049, 10), 1);
        records.apply("a", "2", record(1_024, 20), 2);
        records.apply("b", "2", record(1_024, 20), 2);
        assert_eq!([records.units("a"), records.units("b"), records.units("c")], [4, 1, 0]);
        records.apply("a", "1", record(0, 30), 3);
        assert_eq!(records.get("a", "1").map(|record| record.revision), Some(3));
        assert_eq!((records.len(), records.units("a")), (3, 2));
        records.apply("a", "1", None, 4);
        records.apply("a", "2", None, 5);
        records.apply("b", "2", None, 6);
        assert_eq!((records.len(), records.units("a"), records.get("a", "1")), (0, 0, None));
        assert_eq!(expired(&records, 99, 9), []);
    }
}
