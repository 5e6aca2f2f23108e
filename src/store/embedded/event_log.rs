//! The event log of an embedded engine, in chunks: a chunk is a run of consecutive events, stored
//! as one value of the tree under the revision of the first.

use std::ops::Range;

use crate::{
    proto::store_v1 as pb,
    store::{
        EventRange, Revision, StoreError, StoredEvent,
        codec::{self, corrupt},
    },
};

/// A chunk ends with the event that brings it to this size.
const CHUNK_BYTES: usize = 16 << 10;

/// Splits events, which have no gaps, into chunks, each with the revision of its first event.
pub(super) fn split(events: &[StoredEvent]) -> Vec<(Revision, &[StoredEvent])> {
    let mut chunks = Vec::new();
    let mut rest = events;
    while let Some(first) = rest.first() {
        let mut bytes = 0;
        let fits = |event: &&StoredEvent| {
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

impl EventRange {
    /// The revisions to read of those that are kept, which have no gaps: at most `limit`. Errors:
    /// [`StoreError::Compacted`].
    pub(super) fn select(
        self,
        kept: Range<Revision>,
        newest_first: bool,
        limit: usize,
    ) -> Result<Range<Revision>, StoreError> {
        let from = self.after.map_or(kept.start, |after| after.saturating_add(1));
        if from < kept.start {
            return Err(StoreError::Compacted { oldest: kept.start });
        }
        let to = self.before.map_or(kept.end, |before| before.min(kept.end));
        let limit = limit as Revision;
        let from = from.min(to);
        Ok(if newest_first {
            from.max(to.saturating_sub(limit))..to
        } else {
            from..to.min(from.saturating_add(limit))
        })
    }
}

/// Encodes the chunk under this key of the tree.
pub(super) fn encode(key: &[u8], first_revision: Revision, events: &[StoredEvent]) -> Vec<u8> {
    let events = events
        .iter()
        .map(|stored| pb::StoredEvent { event: stored.event.clone(), at_ms: stored.at_ms })
        .collect();
    codec::frame(key, &pb::EventChunk { first_revision, events })
}

/// Decodes the chunk under this key of the tree: at least one event. Errors:
/// [`StoreError::Corrupt`].
pub(super) fn decode(key: &[u8], bytes: &[u8]) -> Result<Vec<StoredEvent>, StoreError> {
    let chunk: pb::EventChunk = codec::unframe(key, bytes)?;
    if chunk.events.is_empty() {
        return Err(corrupt(key, "a chunk without events"));
    }
    let events = chunk.events.into_iter().zip(chunk.first_revision..);
    Ok(events
        .map(|(event, revision)| StoredEvent { revision, at_ms: event.at_ms, event: event.event })
        .collect())
}
