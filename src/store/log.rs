//! Commits as an embedded engine logs them: the change feed is read from there, and can start anywhere in what is kept.

use super::{
    Batch, Commit, Operation, Revision, StoreError,
    codec::{self, corrupt},
};
use crate::proto::store_v1 as pb;

/// What the keys of the log begin with.
pub(super) const LOG: u8 = b'l';

/// The key of a commit; keys are in the order of revisions.
pub(super) fn log_key(revision: Revision) -> [u8; 9] {
    let mut key = [LOG; 9];
    key[1..].copy_from_slice(&revision.to_be_bytes());
    key
}

/// The commit of a batch, sealed under its key.
pub(super) fn encode_commit(key: &[u8], batch: Batch) -> Vec<u8> {
    use pb::operation::Action;
    let message = |operation| match operation {
        Operation::Put { key, value } => pb::Operation { key, action: Some(Action::Put(value)) },
        Operation::Delete { key } => pb::Operation { key, action: Some(Action::Delete(true)) },
        Operation::DeletePrefix { prefix } => pb::Operation { key: prefix, action: Some(Action::DeletePrefix(true)) },
    };
    let operations = batch.operations.into_iter().map(message).collect();
    codec::seal(key, &pb::Commit { operations, event: batch.event, at_ms: batch.at_ms })
}

/// The commit under this key. Errors: [`StoreError::Corrupt`].
pub(super) fn decode_commit(key: &[u8], value: &[u8]) -> Result<Commit, StoreError> {
    use pb::operation::Action;
    let revision = key.get(1..).and_then(|bytes| bytes.try_into().ok()).map(Revision::from_be_bytes);
    let revision = revision.ok_or_else(|| corrupt(key, "a log key that is no revision"))?;
    let message: pb::Commit = codec::unseal(key, value)?;
    let operation = |operation: pb::Operation| match operation.action {
        Some(Action::Put(value)) => Ok(Operation::Put { key: operation.key, value }),
        Some(Action::Delete(_)) => Ok(Operation::Delete { key: operation.key }),
        Some(Action::DeletePrefix(_)) => Ok(Operation::DeletePrefix { prefix: operation.key }),
        None => Err(corrupt(key, "an operation of no known kind")),
    };
    let operations = message.operations.into_iter().map(operation).collect::<Result<_, _>>()?;
    Ok(Commit { revision, operations, event: message.event, at_ms: message.at_ms })
}
