//! Events as an embedded engine logs them, by revision.

use super::{
    Commit, Revision, StoreError,
    codec::{self, corrupt},
};
use crate::proto::store_v1 as pb;

/// What the keys of the log begin with.
pub(super) const LOG: u8 = b'l';

/// One entry of the log.
pub(super) struct Logged {
    pub(super) revision: Revision,
    pub(super) at_ms: u64,
}

/// The key of an event; keys are in the order of revisions.
pub(super) fn log_key(revision: Revision) -> [u8; 9] {
    let mut key = [LOG; 9];
    key[1..].copy_from_slice(&revision.to_be_bytes());
    key
}

/// The event of a commit, sealed under its key.
pub(super) fn encode_event(key: &[u8], commit: &Commit) -> Vec<u8> {
    codec::seal(key, &pb::LoggedEvent { event: commit.event.clone(), at_ms: commit.at_ms })
}

/// The entry under this key. Errors: [`StoreError::Corrupt`].
pub(super) fn decode_event(key: &[u8], value: &[u8]) -> Result<Logged, StoreError> {
    let revision = key.get(1..).and_then(|bytes| bytes.try_into().ok()).map(Revision::from_be_bytes);
    let revision = revision.ok_or_else(|| corrupt(key, "a log key that is no revision"))?;
    let message: pb::LoggedEvent = codec::unseal(key, value)?;
    Ok(Logged { revision, at_ms: message.at_ms })
}
