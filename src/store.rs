//! The store: durable commits, a snapshot, and the change feed, over one of two engines. Keys and
//! values are bytes to it; `codec` says what they mean, and `contract.rs` what every engine
//! promises.

use std::{path::Path, sync::Arc};

pub mod backup;
mod cluster;
pub mod codec;
mod connector;
mod contract;
mod embedded;
mod error;
mod feed_buffer;

pub use connector::{Connection, Connector};
pub use contract::{
    Batch, ClusterConfig, ClusterTls, ClusterUser, Commit, Engine, Entry, EventRange, Feed,
    Location, MAX_SKEW_MS, Memory, Operation, Precondition, Retention, Revision, Snapshot, Store,
    StoredEvent, Update, Updates,
};
pub use error::StoreError;

/// Opens the store of this place, creating it where there is none; may take a while.
/// Errors: [`StoreError::InUse`], [`StoreError::Corrupt`], [`StoreError::Unavailable`].
pub async fn open(place: &Location, retention: Retention) -> Result<Arc<dyn Store>, StoreError> {
    match place.clone() {
        Location::Directory { path, memory } => {
            let open = move || embedded::Embedded::open(&path, memory, retention);
            let opened = tokio::task::spawn_blocking(open).await;
            Ok(Arc::new(opened.map_err(|error| StoreError::Unavailable(error.to_string()))??))
        }
        Location::Cluster(config) => {
            Ok(Arc::new(cluster::Cluster::open(&config, retention).await?))
        }
    }
}

/// Whether a store was ever opened there. An open creates one where it was not. Errors:
/// [`StoreError::Unavailable`].
pub async fn exists(place: &Location) -> Result<bool, StoreError> {
    match place {
        Location::Directory { path, .. } => Ok(embedded::is_store(path)),
        Location::Cluster(config) => cluster::exists(config).await,
    }
}

/// Makes an embedded store of records, which keep their revisions, with this one as its newest and
/// no events, in an empty directory or one that is not there yet. It opens as a store only when all
/// of it is on stable storage. Takes a while; call it off the async threads. Errors:
/// [`StoreError::NotEmpty`], [`StoreError::Full`], [`StoreError::Unavailable`], and those of the
/// records.
pub fn restore<E: From<StoreError>>(
    directory: &Path,
    records: impl Iterator<Item = Result<Vec<Entry>, E>>,
    revision: Revision,
) -> Result<(), E> {
    embedded::restore(directory, Memory::default(), records, revision)
}
