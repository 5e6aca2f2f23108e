//! Records of an embedded engine in pages: some that follow each other in the order of keys are one
//! value of the tree, because a tree that holds fewer and larger values takes less memory and is
//! read faster.

use super::memtable::Mutation;
use crate::{
    proto::store_v1 as pb,
    store::{
        Revision, StoreError,
        codec::{self, checksum},
    },
};

/// A page is split beyond this many bytes. Twice as many would halve the tree's memory and double
/// what a single change has to write.
pub(super) const FULL_BYTES: usize = 1_024;
/// What a record takes beside its bytes.
const RECORD_BYTES: usize = 12;

/// One record of a page.
#[derive(Clone)]
pub(in crate::store) struct Record {
    pub(in crate::store) key: Vec<u8>,
    pub(in crate::store) revision: Revision,
    pub(in crate::store) value: Vec<u8>,
}

/// The records of a page under this key of the tree. Errors: [`StoreError::Corrupt`].
pub(in crate::store) fn decode(fence: &[u8], bytes: &[u8]) -> Result<Vec<Record>, StoreError> {
    let page: pb::Page = codec::unframe(fence, bytes)?;
    let mut records: Vec<Record> = Vec::with_capacity(page.records.len());
    for pb::PageRecord { shared_bytes, key_rest, revision, value } in page.records {
        let shared =
            records.last().map_or(&[][..], |before| &before.key).get(..shared_bytes as usize);
        let shared =
            shared.ok_or_else(|| codec::corrupt(fence, "a page whose keys do not fit together"))?;
        records.push(Record { key: [shared, &key_rest].concat(), revision, value });
    }
    Ok(records)
}

/// The bytes of a page under this key of the tree.
pub(in crate::store) fn encode(fence: &[u8], records: &[Record]) -> Vec<u8> {
    let mut before: &[u8] = &[];
    let record = |record: &'_ Record| pb::PageRecord {
        shared_bytes: 0,
        key_rest: record.key.clone(),
        revision: record.revision,
        value: record.value.clone(),
    };
    let mut page = pb::Page { records: records.iter().map(record).collect() };
    for (packed, record) in page.records.iter_mut().zip(records) {
        let shared = before.iter().zip(&record.key).take_while(|(a, b)| a == b).count();
        packed.shared_bytes = u32::try_from(shared).unwrap_or(0);
        packed.key_rest.drain(..packed.shared_bytes as usize);
        before = &record.key;
    }
    codec::frame(fence, &page)
}

/// Makes the changes, which are in the order of keys, and keeps the tally.
pub(super) fn merge(
    old: Vec<Record>,
    changes: &[(&Vec<u8>, &Mutation)],
    tally: &mut RecordChecksum,
) -> Vec<Record> {
    let mut merged = Vec::with_capacity(old.len() + changes.len());
    let mut changes = changes.iter().peekable();
    for record in old {
        while let Some((key, change)) = changes.next_if(|(key, _)| **key < record.key) {
            put(&mut merged, key, change, tally);
        }
        match changes.next_if(|(key, _)| **key == record.key) {
            Some((key, change)) => {
                tally.remove(&record);
                put(&mut merged, key, change, tally);
            }
            None => merged.push(record),
        }
    }
    changes.for_each(|(key, change)| put(&mut merged, key, change, tally));
    merged
}

fn put(merged: &mut Vec<Record>, key: &[u8], change: &Mutation, tally: &mut RecordChecksum) {
    if let Some((revision, value)) = change {
        let record = Record { key: key.to_vec(), revision: *revision, value: value.clone() };
        tally.add(&record);
        merged.push(record);
    }
}

/// Cuts records into pages of about the same size, none of them too large.
pub(super) fn split(records: &[Record]) -> Vec<&[Record]> {
    let size = |record: &Record| record.key.len() + record.value.len() + RECORD_BYTES;
    let total: usize = records.iter().map(size).sum();
    let target = total.div_ceil(total.div_ceil(FULL_BYTES).max(1));
    let (mut pages, mut start, mut bytes) = (Vec::new(), 0, 0);
    for (at, record) in records.iter().enumerate() {
        if bytes >= target {
            pages.push(&records[start..at]);
            (start, bytes) = (at, 0);
        }
        bytes += size(record);
    }
    if start < records.len() {
        pages.push(&records[start..]);
    }
    pages
}

/// What all records add up to, in any order. It is kept with the newest revision, and finds what an
/// engine leaves out, or has an older value of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RecordChecksum {
    pub(super) records: u64,
    pub(super) sum: u64,
}

impl RecordChecksum {
    pub(super) fn add(&mut self, record: &Record) {
        self.records = self.records.wrapping_add(1);
        self.sum = self.sum.wrapping_add(sum(record));
    }

    pub(super) fn remove(&mut self, record: &Record) {
        self.records = self.records.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(sum(record));
    }

    pub(super) fn value(self, revision: Revision) -> Vec<u8> {
        [revision, self.records, self.sum].map(u64::to_be_bytes).concat()
    }
}

fn sum(record: &Record) -> u64 {
    checksum([&record.key, &record.revision.to_be_bytes(), &record.value]).into()
}
