//! Errors of a store, and the API error that a caller gets for each.

use crate::error::{Error, Reason};

/// An error of a storage engine. Its text is for logs and operators; a caller of the API gets only
/// the [`Error`] it converts to.
#[derive(Clone, Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum StoreError {
    #[error("a precondition of the commit did not hold at revision {revision}")]
    Conflict { revision: u64 },
    #[error("commits before revision {oldest} are no longer kept")]
    Compacted { oldest: u64 },
    #[error(
        "the cluster lacks revision {observed}, which this process has read: an older state has \
         replaced it; restart this process to read that state"
    )]
    RevisionRegressed { observed: u64 },
    #[error(
        "the keys below {prefix} have the layout of an earlier version, which this version cannot \
         read: export them with the version that wrote them, and import them with this one under \
         another --etcd-prefix"
    )]
    EarlierLayout { prefix: String },
    #[error("the store is full: {0}")]
    Full(String),
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    #[error(
        "the store is damaged at {place}: {what}; restore the latest backup: a data directory \
         with `mute-service restore --data-dir DIR FILE`, into an empty directory; a cluster with \
         etcd's own `etcdutl snapshot restore`"
    )]
    Corrupt { place: String, what: String },
    #[error(
        "the data directory {directory} is in use by another mute-service process: stop that \
         process, or choose another --data-dir"
    )]
    InUse { directory: String },
    #[error(
        "the data directory {directory} is not empty: restore a backup into an empty directory"
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
