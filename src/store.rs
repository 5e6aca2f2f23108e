//! The store: durable commits, snapshots, the change feed and history, on one of two engines.
//! `contract.rs` is what every engine guarantees. Keys and values are opaque to an engine; `codec`
//! defines what they mean.

use std::{path::Path, sync::Arc};

pub mod backup;
mod batch;
mod cluster;
pub mod codec;
mod connector;
mod contract;
mod embedded;
mod error;
mod feed_buffer;

pub use batch::Batch;
pub use connector::{Connection, Connector};
pub use contract::{
    ClusterConfig, ClusterTls, ClusterUser, Commit, EncodedBatch, Engine, Entry, EventRange, Feed,
    Location, MAX_SKEW_MS, Memory, Operation, Precondition, Retention, Revision, Snapshot, Store,
    StoredEvent, Update, Updates,
};
pub use error::StoreError;

/// Opens the store at this location, and creates it if there is none. May take seconds.
///
/// Errors: [`StoreError::InUse`], [`StoreError::Corrupt`], [`StoreError::EarlierLayout`],
/// [`StoreError::Unavailable`].
pub async fn open(location: &Location, retention: Retention) -> Result<Arc<dyn Store>, StoreError> {
    match location.clone() {
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

/// Whether this location has a store, which the first [`open`] creates.
///
/// Errors: [`StoreError::Unavailable`].
pub async fn exists(location: &Location) -> Result<bool, StoreError> {
    match location {
        Location::Directory { path, .. } => Ok(embedded::is_store(path)),
        Location::Cluster(config) => cluster::exists(config).await,
    }
}

/// Creates an embedded store from records, in a directory that is empty or does not exist.
///
/// The records come in key order and keep their revisions; `revision` becomes the store's latest.
/// The store has no events. The directory opens as a store only once all of it is on stable
/// storage. Blocks for as long as that takes: do not call it on an async thread.
///
/// Errors: [`StoreError::NotEmpty`], [`StoreError::Full`], [`StoreError::Unavailable`], and those
/// of `records`.
pub fn restore<E: From<StoreError>>(
    directory: &Path,
    records: impl Iterator<Item = Result<Vec<Entry>, E>>,
    revision: Revision,
) -> Result<(), E> {
    embedded::restore(directory, Memory::default(), records, revision)
}
