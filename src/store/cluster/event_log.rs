//! Clause 7: history, a segment at a time.

use std::time::Duration;

use prost::Message as _;

use super::{
    client::{KeyValue, RangeOptions},
    layout,
    shared::{REQUEST_TIMEOUT, Shared, corrupt},
};
use crate::proto::store_v1 as pb;
use crate::store::{EventRange, Revision, StoreError, StoredEvent};

/// For how long a read that was overtaken by compaction is begun again.
const RETRY_DELAY: Duration = Duration::from_secs(5);

/// A segment that is kept.
pub(super) struct Kept {
    pub(super) number: u64,
    /// The revision of the cluster it was begun at.
    opened: u64,
    pub(super) at_ms: u64,
    pub(super) commits_before: u64,
}

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
                    // The cluster was compacted between two of our questions.
                    Err(StoreError::Compacted { oldest: 0 }) => {}
                    read => return read,
                }
            }
        };
        let late =
            |_| StoreError::Unavailable("history was compacted faster than it was read".to_owned());
        tokio::time::timeout(RETRY_DELAY, read).await.map_err(late)?
    }

    async fn read_events(
        &self,
        range: EventRange,
        newest_first: bool,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let (mut segments, as_of) = self.segments().await?;
        // Nothing has gone before the first segment of all.
        let oldest = segments
            .first()
            .filter(|oldest| oldest.number > 1)
            .map_or(0, |oldest| layout::end_of(oldest.opened));
        if range.after.is_some_and(|after| after < oldest) {
            return Err(StoreError::Compacted { oldest: oldest + 1 });
        }
        let (after, before) = (range.after.unwrap_or(0), range.before.unwrap_or(Revision::MAX));
        // The next segment begins where one ends; the last has no end.
        let ends: Vec<_> = segments
            .iter()
            .skip(1)
            .map(|next| layout::revision(next.opened, 0))
            .chain([Revision::MAX])
            .collect();
        let mut wanted: Vec<_> = segments
            .drain(..)
            .zip(ends)
            .filter(|(segment, end)| layout::end_of(segment.opened) < before && *end > after)
            .collect();
        if newest_first {
            wanted.reverse();
        }
        let mut events = Vec::new();
        for (segment, _) in wanted {
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

    /// The segments that are kept, the oldest first, and as of which revision of the cluster.
    pub(super) async fn segments(&self) -> Result<(Vec<Kept>, u64), StoreError> {
        let page = self
            .etcd
            .range(&self.layout.headers(), RangeOptions::default(), REQUEST_TIMEOUT)
            .await?;
        let read = |record: KeyValue| {
            let segment = pb::ClusterSegment::decode(&*record.value)
                .map_err(|_| corrupt(&record.key, "no segment of history"))?;
            let pb::ClusterSegment { number, at_ms, commits_before } = segment;
            Ok(Kept { number, opened: record.revision, at_ms, commits_before })
        };
        Ok((page.records.into_iter().map(read).collect::<Result<_, StoreError>>()?, page.revision))
    }

    /// All events of a segment as of a revision of the cluster, in order.
    async fn read_segment(&self, number: u64, as_of: u64) -> Result<Vec<StoredEvent>, StoreError> {
        let wanted = RangeOptions { revision: as_of, ..RangeOptions::default() };
        let page = self.etcd.range(&self.layout.events(number), wanted, REQUEST_TIMEOUT).await?;
        let mut events = Vec::new();
        for KeyValue { key, value, revision } in page.records {
            let stored = pb::ClusterCommits::decode(&*value)
                .map_err(|_| corrupt(&key, "no events of commits"))?;
            events.extend(stored.commits.into_iter().enumerate().map(|(place, commit)| {
                let revision = layout::revision(revision, place as u64);
                StoredEvent { revision, at_ms: commit.at_ms, event: commit.event }
            }));
        }
        events.sort_unstable_by_key(|event| event.revision);
        Ok(events)
    }
}
