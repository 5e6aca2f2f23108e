//! Reads history, one segment at a time (clause 7 of the contract).

use std::time::Duration;

use prost::Message as _;

use super::{
    kv::{KeyValue, RangeOptions},
    layout,
    shared::{REQUEST_TIMEOUT, Segment, Shared},
};
use crate::proto::store_v1 as pb;
use crate::store::{EventRange, Revision, StoreError, StoredEvent, codec::corrupt};

/// How long a read is repeated while the cluster is compacted during it.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

impl Shared {
    pub(super) async fn events(
        &self,
        range: EventRange,
        newest_first: bool,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let read = async {
            loop {
                match self.read_events(range, newest_first, limit).await {
                    // The cluster was compacted between two requests.
                    Err(StoreError::Compacted { oldest: 0 }) => {}
                    read => return read,
                }
            }
        };
        tokio::time::timeout(READ_TIMEOUT, read).await.map_err(|_| {
            StoreError::Unavailable("history is compacted faster than it can be read".to_owned())
        })?
    }

    async fn read_events(
        &self,
        range: EventRange,
        newest_first: bool,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let (mut segments, as_of) = self.segments().await?;
        // Events up to this revision are deleted. Before segment 1 there were none.
        let deleted_up_to = segments
            .first()
            .filter(|oldest| oldest.number > 1)
            .map_or(0, |oldest| layout::last_revision(oldest.opened_revision));
        if range.after.is_some_and(|after| after < deleted_up_to) {
            return Err(StoreError::Compacted { oldest: deleted_up_to + 1 });
        }
        let after = range.after.unwrap_or(0);
        let before = range.before.unwrap_or(Revision::MAX);
        // A segment ends where the next begins; the current one has no end.
        let ends: Vec<_> = segments
            .iter()
            .skip(1)
            .map(|next| layout::revision(next.opened_revision, 0))
            .chain([Revision::MAX])
            .collect();
        let mut in_range: Vec<_> = segments
            .drain(..)
            .zip(ends)
            .filter(|(segment, end)| {
                layout::last_revision(segment.opened_revision) < before && *end > after
            })
            .collect();
        if newest_first {
            in_range.reverse();
        }
        let mut events = Vec::new();
        for (segment, _) in in_range {
            let mut page = self.read_segment(segment.number, as_of).await?;
            page.retain(|event| event.revision > after && event.revision < before);
            if newest_first {
                page.reverse();
            }
            events.append(&mut page);
            if events.len() >= limit {
                break;
            }
        }
        events.truncate(limit);
        Ok(events)
    }

    /// The segments that are kept, the oldest first, and the cluster revision they are as of. Their
    /// counts of commits and bytes are not filled in.
    pub(super) async fn segments(&self) -> Result<(Vec<Segment>, u64), StoreError> {
        let page = self
            .etcd
            .range(&self.layout.headers(), RangeOptions::default(), REQUEST_TIMEOUT)
            .await?;
        let headers = page.records.iter().map(Segment::decode);
        Ok((headers.collect::<Result<_, _>>()?, page.revision))
    }

    /// All events of a segment as of a cluster revision, in order.
    async fn read_segment(&self, number: u64, as_of: u64) -> Result<Vec<StoredEvent>, StoreError> {
        let options = RangeOptions { revision: as_of, ..RangeOptions::default() };
        let page = self.etcd.range(&self.layout.events(number), options, REQUEST_TIMEOUT).await?;
        let mut events = Vec::new();
        for KeyValue { key, value, revision } in page.records {
            let stored = pb::ClusterCommits::decode(&*value)
                .map_err(|_| corrupt(&key, "the value is not the events of a transaction"))?;
            events.extend(stored.commits.into_iter().enumerate().map(|(slot, commit)| {
                let revision = layout::revision(revision, slot as u64);
                StoredEvent { revision, at_ms: commit.at_ms, event: commit.event }
            }));
        }
        events.sort_unstable_by_key(|event| event.revision);
        Ok(events)
    }
}
