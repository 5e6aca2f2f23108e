//! Events of an embedded engine in chunks: some that follow each other are one value of the tree,
//! under the revision of the first.

use std::ops::Range;

use crate::{
    proto::store_v1 as pb,
    store::{
        EventRange, Revision, StoreError, StoredEvent,
        codec::{self, corrupt},
    },
};

/// A chunk is closed beyond this many bytes.
const CHUNK_BYTES: usize = 16 << 10;

/// Cuts events, which have no gaps, into chunks: the revision of the first of each, and its events.
pub(super) fn chunks(events: &[StoredEvent]) -> Vec<(Revision, &[StoredEvent])> {
    let (mut chunks, mut rest) = (Vec::new(), events);
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
    /// Which of the events that are kept, which have no gaps, are asked for: at most `limit`.
    /// Errors: [`StoreError::Compacted`].
    pub(super) fn among(
        self,
        kept: Range<Revision>,
        newest_first: bool,
        limit: usize,
    ) -> Result<Range<Revision>, StoreError> {
        let from = self.after.map_or(kept.start, |after| after.saturating_add(1));
        if from < kept.start {
            return Err(StoreError::Compacted { oldest: kept.start });
        }
        let (to, limit) =
            (self.before.map_or(kept.end, |before| before.min(kept.end)), limit as Revision);
        let from = from.min(to);
        Ok(if newest_first {
            from.max(to.saturating_sub(limit))..to
        } else {
            from..to.min(from.saturating_add(limit))
        })
    }
}

/// The bytes of a chunk under this key of the tree.
pub(super) fn encode(key: &[u8], first_revision: Revision, events: &[StoredEvent]) -> Vec<u8> {
    let event =
        |logged: &StoredEvent| pb::StoredEvent { event: logged.event.clone(), at_ms: logged.at_ms };
    codec::frame(
        key,
        &pb::EventChunk { first_revision, events: events.iter().map(event).collect() },
    )
}

/// The events under this key of the tree; at least one. Errors: [`StoreError::Corrupt`].
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
