//! A way in and out: exports, which a person can read, and backups, which are exact; and what says
//! whether two stores hold the same.
//!
//! An **export** is JSON lines, one record each ([`export`]); [`import`] puts them into any store,
//! in commits like anybody else's. A **backup** is all records of one revision in one file
//! ([`backup`]), taken while the service runs; it is put back into an empty directory, and keeps
//! every revision. [`content`] counts and hashes what is in either, and in a store: it is of the
//! records alone, so that the same records have the same hash wherever they are kept.
//!
//! Everything here works over [`Store`], whatever engine it is. Answers to requests with an id are
//! the service's own matter: a backup has them, an export and a hash do not ([`record`] says what
//! does).

use std::{io, path::Path, sync::Arc};

use crate::store::{self, Location, Retention, Store, StoreError, backup::BackupError};

pub mod backup;
pub mod content;
pub mod export;
pub mod fetch;
pub mod fold;
pub mod import;
pub mod line;
pub mod merge;
pub mod output;
pub mod record;
pub mod stored;

/// Nothing of the history is forgotten for them.
const KEEP_ALL: Retention = Retention { events: u64::MAX, age_ms: u64::MAX };

/// This program, as files tell who has written them.
pub const PROGRAM: &str = concat!("mute-service ", env!("CARGO_PKG_VERSION"));

/// Why a way in or out has failed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Failure {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{what}: {source}")]
    File { what: String, source: io::Error },
    #[error("the backup {what}: {source}")]
    Backup { what: String, source: BackupError },
    #[error("a backup could not be had from {from}: {what}")]
    Fetch { from: String, what: String },
    #[error("there is no store in {0}")]
    NoStore(String),
    #[error("{what} cannot be imported, and nothing was changed:\n{faults}")]
    Faults { what: String, faults: import::Faults },
    #[error(
        "the store was changed by somebody else meanwhile; what was imported so far stays: run the import again"
    )]
    Conflict,
}

impl Failure {
    /// Of a file at this path.
    #[must_use]
    pub fn file(path: &Path, source: io::Error) -> Self {
        Self::File { what: path.display().to_string(), source }
    }
}

/// Opens a store that is there, or with `create` one that may not be. Errors: [`Failure::NoStore`],
/// and those of [`store::open`].
pub async fn open(place: &Location, create: bool) -> Result<Arc<dyn Store>, Failure> {
    if !create && !store::exists(place).await? {
        return Err(Failure::NoStore(place.to_string()));
    }
    Ok(store::open(place, KEEP_ALL).await?)
}
