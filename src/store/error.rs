//! What can go wrong in a store, and what a caller is told of it.

use crate::error::{Error, Reason};

/// What went wrong in an engine. `error.rs` says what a caller is told of it.
#[derive(Clone, Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum StoreError {
    #[error("an expectation of the commit did not hold at revision {revision}")]
    Conflict { revision: u64 },
    #[error("commits up to revision {oldest} are no longer kept")]
    Compacted { oldest: u64 },
    #[error(
        "the cluster went back to before revision {seen}: an older state was put in its place; start again, to read it"
    )]
    RevisionRegressed { seen: u64 },
    #[error(
        "the keys below {prefix} are those of an earlier version, which this one does not read: export them with the version that wrote them, and \
         import them with this one, below another --etcd-prefix"
    )]
    EarlierLayout { prefix: String },
    #[error("the store is full: {0}")]
    Full(String),
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    #[error(
        "the store is damaged, at {place}: {what}; put the newest backup back: of a data directory with `mute-service restore --data-dir DIR FILE`, into an empty one; of a cluster with etcd's own `etcdutl snapshot restore`"
    )]
    Corrupt { place: String, what: String },
    #[error(
        "the data directory {directory} is in use by another mute-service: stop that one, or give this one another --data-dir"
    )]
    InUse { directory: String },
    #[error(
        "the data directory {directory} is not empty: a backup is put back into an empty one only"
    )]
    NotEmpty { directory: String },
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Full(_) => Self {
                cause: Some(error.to_string().into()),
                ..Self::new(Reason::StoreFull, "the store has no room for writes")
            },
            StoreError::Compacted { .. } => Self::compacted(),
            StoreError::Conflict { .. }
            | StoreError::RevisionRegressed { .. }
            | StoreError::Unavailable(_) => Self::unavailable(error),
            StoreError::Corrupt { .. }
            | StoreError::InUse { .. }
            | StoreError::NotEmpty { .. }
            | StoreError::EarlierLayout { .. } => Self::internal(error),
        }
    }
}
