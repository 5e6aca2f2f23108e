//! Exports, imports, backups and restores of a store.
//!
//! An **export** is readable: JSON lines, one record each ([`export`]). [`import`] reads it, and
//! [`merge`] commits it to any store. A **backup** is exact: all records of one revision, with
//! their own revisions, in one file ([`backup`]). It is taken while the service runs, and restored
//! into an empty directory. [`content`] counts and hashes the records of a store, an export or a
//! backup: the same records have the same hash everywhere.
//!
//! Everything here works over [`Store`], with any engine. Idempotency records are in backups, but
//! neither in exports nor in the hash; [`record`] lists the kinds that are.

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
pub mod record;
pub mod stored;

/// These commands prune no history.
const KEEP_ALL: Retention = Retention { events: u64::MAX, age_ms: u64::MAX };

/// The name and version of this program, as written into files.
pub const PROGRAM: &str = concat!("mute-service ", env!("CARGO_PKG_VERSION"));

/// Why an export, import, backup or restore has failed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Failure {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{what}: {source}")]
    File { what: String, source: io::Error },
    #[error("the backup {what}: {source}")]
    Backup { what: String, source: BackupError },
    #[error("the backup could not be fetched from {from}: {what}")]
    Fetch { from: String, what: String },
    #[error("there is no store in {0}")]
    NoStore(String),
    #[error(
        "nothing was imported, because standard input is empty; if another command feeds it, see the error of that command"
    )]
    EmptyInput,
    #[error("{what} cannot be imported; nothing was changed:\n{faults}")]
    Faults { what: String, faults: import::Faults },
    #[error(
        "another writer changed the store during the import; the records that were imported so far remain: run the import again"
    )]
    Conflict,
}

impl Failure {
    /// For an I/O error of the file at this path.
    #[must_use]
    pub fn file(path: &Path, source: io::Error) -> Self {
        Self::File { what: path.display().to_string(), source }
    }
}

/// Opens an existing store; with `create` also a new one. Errors: [`Failure::NoStore`], and those
/// of [`store::open`].
pub async fn open(location: &Location, create: bool) -> Result<Arc<dyn Store>, Failure> {
    if !create && !store::exists(location).await? {
        return Err(Failure::NoStore(location.to_string()));
    }
    Ok(store::open(location, KEEP_ALL).await?)
}
