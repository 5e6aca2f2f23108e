//! The content of a store, an export or a backup: the number of records of each kind, and a hash.
//!
//! The hash is the SHA-256 of the records' export lines, in key order. It depends neither on
//! revisions nor on the encoding of an engine or version: the same records have the same hash
//! everywhere.

use std::{collections::BTreeMap, fmt};

use base16ct::lower as hex;
use sha2::{Digest as _, Sha256};

use super::{
    record::{Kind, KnownRecord},
    stored::{Stored, Tombstones},
};
use crate::store::{Entry, Revision, StoreError};

/// The records counted so far.
#[derive(Clone, Default)]
pub struct Content {
    counts: BTreeMap<Kind, u64>,
    hash: Sha256,
    tombstones: Tombstones,
}

impl Content {
    /// Checks the next record in key order, and counts it if it is live and of this app (`None`: of
    /// any). Returns its export line if it counts. Errors: [`StoreError::Corrupt`].
    pub fn add(&mut self, entry: &Entry, app: Option<&str>) -> Result<Option<String>, StoreError> {
        match self.tombstones.classify(entry)? {
            Stored::Live(record) if app.is_none_or(|app| app == record.app) => {
                Ok(Some(self.add_live(&record)))
            }
            Stored::Live(_) | Stored::Deleted | Stored::Other => Ok(None),
        }
    }

    fn add_live(&mut self, record: &KnownRecord) -> String {
        let text = record.line.text();
        self.hash.update(&text);
        *self.counts.entry(record.kind).or_default() += 1;
        text
    }

    /// The number of records of all kinds.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.counts.values().sum()
    }

    /// The hash, in hex.
    #[must_use]
    pub fn sha256(&self) -> String {
        hex::encode_string(&self.hash.clone().finalize())
    }

    /// A report for a person: a line for each kind, their sum, the revision and the hash.
    #[must_use]
    pub fn report(&self, revision: Revision) -> impl fmt::Display {
        let mut rows: Vec<_> = Kind::ALL
            .map(|kind| (kind.as_str(), self.counts.get(&kind).copied().unwrap_or(0)))
            .into();
        rows.extend([("records", self.records()), ("revision", revision)]);
        let rows = rows.into_iter().map(|(name, number)| format!("{name:<20}{number:>20}\n"));
        rows.collect::<String>() + &format!("sha256 {}\n", self.sha256())
    }
}
