//! Where the cluster engine keeps what, below its prefix: after it stands a NUL, which no prefix
//! has, so that no service's keys lie among those of another, whatever their prefixes; then a
//! letter that says of which kind a key is.
//!
//! - `d KEY`: the record of this key.
//! - `n`: the segment of history that is being written. Each commit expects that it still is.
//! - `h SEGMENT`: when a segment that is kept was begun.
//! - `e SEGMENT ID`: the events of the commits of one transaction, by the segment it was written
//!   in; the id is random.
//! - `t REPLICA`: written by that replica from time to time, to know that what it has seen is all
//!   there is. Its value is the wall clock then.
//!
//! # Revisions
//! The commits of one transaction are one revision of the cluster. So our revisions are those of
//! the cluster times 128, with the place of the commit among them.

use super::client::KeyRange;
use crate::store::Revision;

const END_OF_PREFIX: u8 = 0;
const RECORD: u8 = b'd';
const NOW: u8 = b'n';
const HEADER: u8 = b'h';
const EVENT: u8 = b'e';
const TICK: u8 = b't';

/// Places in a revision of the cluster.
pub(super) const SLOTS: usize = 128;

/// The id of a transaction.
pub(super) type Id = [u8; 16];

/// A replica, from its start to its end.
pub(super) type ReplicaId = [u8; 8];

/// What a key is for.
pub(super) enum Kind<'a> {
    Record(&'a [u8]),
    Now,
    Header,
    /// Of this segment.
    Event(u64),
    Tick(ReplicaId),
    /// None that this service writes.
    Foreign,
}

/// The keys below a prefix.
pub(super) struct Layout {
    prefix: Vec<u8>,
}

impl Layout {
    pub(super) fn below(prefix: &str) -> Self {
        let mut prefix = prefix.as_bytes().to_vec();
        prefix.push(END_OF_PREFIX);
        Self { prefix }
    }

    /// Where versions before this layout kept what `now` is, without a NUL.
    pub(super) fn now_of_earlier_layout(prefix: &str) -> KeyRange {
        KeyRange::of([prefix.as_bytes(), &[NOW]].concat())
    }

    pub(super) fn all(&self) -> KeyRange {
        with_prefix(self.prefix.clone())
    }

    pub(super) fn record(&self, key: &[u8]) -> Vec<u8> {
        self.key(RECORD, &[key])
    }

    pub(super) fn records(&self) -> KeyRange {
        with_prefix(self.record(&[]))
    }

    pub(super) fn now(&self) -> Vec<u8> {
        self.key(NOW, &[])
    }

    pub(super) fn tick(&self, replica: ReplicaId) -> Vec<u8> {
        self.key(TICK, &[&replica])
    }

    pub(super) fn ticks(&self) -> KeyRange {
        with_prefix(self.key(TICK, &[]))
    }

    pub(super) fn header(&self, segment: u64) -> Vec<u8> {
        self.key(HEADER, &[&segment.to_be_bytes()])
    }

    pub(super) fn headers(&self) -> KeyRange {
        with_prefix(self.key(HEADER, &[]))
    }

    pub(super) fn event(&self, segment: u64, id: &Id) -> Vec<u8> {
        self.key(EVENT, &[&segment.to_be_bytes(), id])
    }

    pub(super) fn events(&self, segment: u64) -> KeyRange {
        with_prefix(self.key(EVENT, &[&segment.to_be_bytes()]))
    }

    pub(super) fn kind<'a>(&self, key: &'a [u8]) -> Kind<'a> {
        match key.strip_prefix(self.prefix.as_slice()).and_then(<[u8]>::split_first) {
            Some((&RECORD, key)) => Kind::Record(key),
            Some((&NOW, [])) => Kind::Now,
            Some((&HEADER, segment)) if segment.len() == size_of::<u64>() => Kind::Header,
            Some((&EVENT, rest)) if rest.len() == size_of::<u64>() + size_of::<Id>() => rest
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

/// The commit at this place of a revision of the cluster.
pub(super) fn revision(cluster: u64, place: u64) -> Revision {
    cluster * SLOTS as u64 + place
}

/// The last place of a revision of the cluster.
pub(super) fn end_of(cluster: u64) -> Revision {
    revision(cluster, SLOTS as u64 - 1)
}

/// The revision of the cluster that a commit is part of.
pub(super) fn cluster(revision: Revision) -> u64 {
    revision / SLOTS as u64
}

/// All keys with this prefix.
pub(super) fn with_prefix(prefix: Vec<u8>) -> KeyRange {
    let until = end_of_prefix(&prefix);
    KeyRange { from: prefix, until }
}

/// The first key that is after all with this prefix.
fn end_of_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut until = prefix.to_vec();
    while until.pop_if(|last| *last == u8::MAX).is_some() {}
    match until.last_mut() {
        Some(last) => *last += 1,
        // To etcd that is the end of everything.
        None => until.push(0),
    }
    until
}

/// The key after this one.
pub(super) fn after(mut key: Vec<u8>) -> Vec<u8> {
    key.push(0);
    key
}
