//! What is in a store, an export or a backup: how many records of each kind, and a hash of them.
//!
//! The hash is the SHA-256 of the lines that an export has for the records, in the order of keys.
//! Revisions are not in it, nor how an engine or this version of it writes a record: the same
//! records have the same hash everywhere.

use std::{collections::BTreeMap, fmt};

use sha2::{Digest as _, Sha256};

use super::{
    record::{Kind, KnownRecord},
    stored::{Stored, Tombstones},
};
use crate::store::{Entry, Revision, StoreError};

/// What has been counted so far. Equal where the records are.
#[derive(Clone, Default)]
pub struct Content {
    counts: BTreeMap<Kind, u64>,
    hash: Sha256,
    tombstones: Tombstones,
}

impl Content {
    /// Counts the next record in the order of keys, where it counts and its app is the one, and
    /// checks it. Answers its line. Errors: [`StoreError::Corrupt`].
    pub fn add(&mut self, entry: &Entry, app: Option<&str>) -> Result<Option<String>, StoreError> {
        match self.tombstones.look_at(entry)? {
            Stored::Live(known) if app.is_none_or(|app| app == known.app) => {
                Ok(Some(self.add_known(&known)))
            }
            Stored::Live(_) | Stored::Deleted | Stored::Other => Ok(None),
        }
    }

    fn add_known(&mut self, known: &KnownRecord) -> String {
        let text = known.line.text();
        self.hash.update(&text);
        *self.counts.entry(known.kind).or_default() += 1;
        text
    }

    /// How many there are in all.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.counts.values().sum()
    }

    /// In hex.
    #[must_use]
    pub fn sha256(&self) -> String {
        hex(self.hash.clone())
    }

    /// What a person is told: a line for each kind, their sum, the revision and the hash.
    #[must_use]
    pub fn report(&self, revision: Revision) -> impl fmt::Display {
        let mut rows: Vec<_> = Kind::ALL
            .map(|kind| (kind.as_str(), self.counts.get(&kind).copied().unwrap_or(0)))
            .into();
        rows.extend([("records", self.records()), ("revision", revision)]);
        let rows = rows.into_iter().map(|(what, number)| format!("{what:<20}{number:>20}\n"));
        rows.collect::<String>() + &format!("sha256 {}\n", self.sha256())
    }
}

pub(super) fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
