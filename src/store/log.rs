//! Events of an embedded engine in chunks: some that follow each other are one value of the tree, under the revision of the first.

use super::{
    Logged, Revision, StoreError,
    codec::{self, corrupt},
};
use crate::proto::store_v1 as pb;

/// A chunk is closed beyond this many bytes.
const CHUNK_BYTES: usize = 16 << 10;

/// Cuts events, which have no gaps, into chunks: the revision of the first of each, and its events.
pub(super) fn chunks(events: &[Logged]) -> Vec<(Revision, &[Logged])> {
    let (mut chunks, mut rest) = (Vec::new(), events);
    while let Some(first) = rest.first() {
        let mut bytes = 0;
        let fits = |event: &&Logged| {
            let fits = bytes < CHUNK_BYTES;
            bytes += event.event.len();
            fits
        };
        let (chunk, after) = rest.split_at(rest.iter().take_while(fits).count());
        chunks.push((first.revision, chunk));
        rest = after;
    }
    chunks
}

/// The bytes of a chunk under this key of the tree.
pub(super) fn encode(key: &[u8], first_revision: Revision, events: &[Logged]) -> Vec<u8> {
    let event = |logged: &Logged| pb::LoggedEvent { event: logged.event.clone(), at_ms: logged.at_ms };
    codec::seal(key, &pb::EventChunk { first_revision, events: events.iter().map(event).collect() })
}

/// The events under this key of the tree; at least one. Errors: [`StoreError::Corrupt`].
pub(super) fn decode(key: &[u8], bytes: &[u8]) -> Result<Vec<Logged>, StoreError> {
    let chunk: pb::EventChunk = codec::unseal(key, bytes)?;
    if chunk.events.is_empty() {
        return Err(corrupt(key, "a chunk without events"));
    }
    let events = chunk.events.into_iter().zip(chunk.first_revision..);
    Ok(events.map(|(event, revision)| Logged { revision, at_ms: event.at_ms, event: event.event }).collect())
}
