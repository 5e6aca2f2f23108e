//! The keys of the cluster engine, below its prefix. A NUL follows the prefix. No prefix contains
//! one, so the keys of two services never mix, whatever their prefixes. Then comes a letter, the
//! kind of the key:
//!
//! - `d KEY`: the record of this key.
//! - `n`: the current segment of history. Each commit has the precondition that it is unchanged.
//! - `h SEGMENT`: the header of a segment that is kept: when it began.
//! - `e SEGMENT ID`: the events of one transaction, under the segment it was written in. The id is
//!   random.
//! - `t REPLICA`: a tick, written by that replica at intervals to confirm that its feed is
//!   complete. Its value is the replica's wall clock.
//!
//! # Revisions
//! One transaction has one *cluster revision* and may hold several commits. So the revision of a
//! commit is the cluster revision times 128, plus the commit's slot in the transaction.

use super::kv::KeyRange;
use crate::store::Revision;

const PREFIX_END: u8 = 0;
const RECORD: u8 = b'd';
const CURRENT_SEGMENT: u8 = b'n';
const HEADER: u8 = b'h';
const EVENT: u8 = b'e';
const TICK: u8 = b't';

/// Slots for commits in one cluster revision.
pub(super) const SLOTS: usize = 128;

/// The id of a transaction.
pub(super) type TxnId = [u8; 16];

/// The id of one run of a replica; a restart draws another.
pub(super) type ReplicaId = [u8; 8];

/// The kind of a key.
pub(super) enum Kind<'a> {
    Record(&'a [u8]),
    CurrentSegment,
    Header,
    /// Events in the segment of this number.
    Event(u64),
    Tick(ReplicaId),
    /// A key that this service does not write.
    Foreign,
}

/// The keys below a prefix.
pub(super) struct Layout {
    prefix: Vec<u8>,
}

impl Layout {
    pub(super) fn new(prefix: &str) -> Self {
        let mut prefix = prefix.as_bytes().to_vec();
        prefix.push(PREFIX_END);
        Self { prefix }
    }

    /// Where versions before this layout kept the current segment: without a NUL.
    pub(super) fn earlier_current_segment(prefix: &str) -> KeyRange {
        KeyRange::single([prefix.as_bytes(), &[CURRENT_SEGMENT]].concat())
    }

    pub(super) fn all(&self) -> KeyRange {
        prefix_range(self.prefix.clone())
    }

    pub(super) fn record(&self, key: &[u8]) -> Vec<u8> {
        self.key(RECORD, &[key])
    }

    pub(super) fn records(&self) -> KeyRange {
        prefix_range(self.record(&[]))
    }

    pub(super) fn current_segment(&self) -> Vec<u8> {
        self.key(CURRENT_SEGMENT, &[])
    }

    pub(super) fn tick(&self, replica: ReplicaId) -> Vec<u8> {
        self.key(TICK, &[&replica])
    }

    pub(super) fn ticks(&self) -> KeyRange {
        prefix_range(self.key(TICK, &[]))
    }

    pub(super) fn header(&self, segment: u64) -> Vec<u8> {
        self.key(HEADER, &[&segment.to_be_bytes()])
    }

    pub(super) fn headers(&self) -> KeyRange {
        prefix_range(self.key(HEADER, &[]))
    }

    pub(super) fn event(&self, segment: u64, id: &TxnId) -> Vec<u8> {
        self.key(EVENT, &[&segment.to_be_bytes(), id])
    }

    pub(super) fn events(&self, segment: u64) -> KeyRange {
        prefix_range(self.key(EVENT, &[&segment.to_be_bytes()]))
    }

    pub(super) fn kind<'a>(&self, key: &'a [u8]) -> Kind<'a> {
        match key.strip_prefix(self.prefix.as_slice()).and_then(<[u8]>::split_first) {
            Some((&RECORD, key)) => Kind::Record(key),
            Some((&CURRENT_SEGMENT, [])) => Kind::CurrentSegment,
            Some((&HEADER, segment)) if segment.len() == size_of::<u64>() => Kind::Header,
            Some((&EVENT, rest)) if rest.len() == size_of::<u64>() + size_of::<TxnId>() => rest
                .first_chunk()
                .map_or(Kind::Foreign, |segment| Kind::Event(u64::from_be_bytes(*segment))),
            Some((&TICK, replica)) => replica.try_into().map_or(Kind::Foreign, Kind::Tick),
            _ => Kind::Foreign,
        }
    }

    fn key(&self, kind: u8, parts: &[&[u8]]) -> Vec<u8> {
        let mut key = self.prefix.clone();
        key.push(kind);
        parts.iter().for_each(|part| key.extend_from_slice(part));
        key
    }
}

/// The revision of the commit in this slot of a cluster revision.
pub(super) fn revision(cluster_revision: u64, slot: u64) -> Revision {
    cluster_revision * SLOTS as u64 + slot
}

/// The highest revision that a commit of this cluster revision can have.
pub(super) fn last_revision(cluster_revision: u64) -> Revision {
    revision(cluster_revision, SLOTS as u64 - 1)
}

/// The cluster revision of a commit.
pub(super) fn cluster_revision(revision: Revision) -> u64 {
    revision / SLOTS as u64
}

/// All keys with this prefix.
pub(super) fn prefix_range(prefix: Vec<u8>) -> KeyRange {
    let end = prefix_end(&prefix);
    KeyRange { start: prefix, end }
}

/// The first key after all keys with this prefix.
fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while end.pop_if(|last| *last == u8::MAX).is_some() {}
    match end.last_mut() {
        Some(last) => *last += 1,
        // To etcd, a range end of one NUL is the end of the keyspace.
        None => end.push(0),
    }
    end
}

/// The key that directly follows this one.
pub(super) fn next_key(mut key: Vec<u8>) -> Vec<u8> {
    key.push(0);
    key
}
