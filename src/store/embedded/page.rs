//! Pages of an embedded engine: a page is a run of records in key order, stored as one value of the
//! tree. Fewer and larger values take less memory and are read faster.

use super::memtable::Mutation;
use crate::{
    proto::store_v1 as pb,
    store::{
        Revision, StoreError,
        codec::{self, checksum},
    },
};

/// A page beyond this size is split. Twice the size would halve the tree's memory and double the
/// bytes that a single change writes.
pub(super) const SPLIT_BYTES: usize = 1_024;
/// Size of a record beside its key and value.
const RECORD_BYTES: usize = 12;

/// One record of a page.
#[derive(Clone)]
pub(in crate::store) struct Record {
    pub(in crate::store) key: Vec<u8>,
    pub(in crate::store) revision: Revision,
    pub(in crate::store) value: Vec<u8>,
}

/// Decodes the page under this key of the tree. Errors: [`StoreError::Corrupt`].
pub(in crate::store) fn decode(fence: &[u8], bytes: &[u8]) -> Result<Vec<Record>, StoreError> {
    let page: pb::Page = codec::unframe(fence, bytes)?;
    let mut records: Vec<Record> = Vec::with_capacity(page.records.len());
    for pb::PageRecord { shared_bytes, key_rest, revision, value } in page.records {
        let previous_key = records.last().map_or(&[][..], |previous| &previous.key);
        let shared = previous_key.get(..shared_bytes as usize).ok_or_else(|| {
            codec::corrupt(fence, "a key of a page shares more bytes than the key before it has")
        })?;
        records.push(Record { key: [shared, &key_rest].concat(), revision, value });
    }
    Ok(records)
}

/// Encodes the page under this key of the tree.
pub(in crate::store) fn encode(fence: &[u8], records: &[Record]) -> Vec<u8> {
    let mut previous_key: &[u8] = &[];
    let encoded = records.iter().map(|record| {
        let shared = previous_key.iter().zip(&record.key).take_while(|(a, b)| a == b).count();
        let shared_bytes = u32::try_from(shared).unwrap_or(0);
        previous_key = &record.key;
        pb::PageRecord {
            shared_bytes,
            key_rest: record.key[shared_bytes as usize..].to_vec(),
            revision: record.revision,
            value: record.value.clone(),
        }
    });
    let page = pb::Page { records: encoded.collect() };
    codec::frame(fence, &page)
}

/// Applies changes, in key order, to the records of a page, and updates the checksum.
pub(super) fn merge(
    old: Vec<Record>,
    changes: &[(&Vec<u8>, &Mutation)],
    checksum: &mut RecordChecksum,
) -> Vec<Record> {
    let mut merged = Vec::with_capacity(old.len() + changes.len());
    let mut changes = changes.iter().peekable();
    for record in old {
        while let Some((key, change)) = changes.next_if(|(key, _)| **key < record.key) {
            put(&mut merged, key, change, checksum);
        }
        match changes.next_if(|(key, _)| **key == record.key) {
            Some((key, change)) => {
                checksum.remove(&record);
                put(&mut merged, key, change, checksum);
            }
            None => merged.push(record),
        }
    }
    changes.for_each(|(key, change)| put(&mut merged, key, change, checksum));
    merged
}

fn put(merged: &mut Vec<Record>, key: &[u8], change: &Mutation, checksum: &mut RecordChecksum) {
    if let Some((revision, value)) = change {
        let record = Record { key: key.to_vec(), revision: *revision, value: value.clone() };
        checksum.add(&record);
        merged.push(record);
    }
}

/// Splits records into pages of about the same size.
pub(super) fn split(records: &[Record]) -> Vec<&[Record]> {
    let total: usize = records.iter().map(size).sum();
    let target = total.div_ceil(total.div_ceil(SPLIT_BYTES).max(1));
    let mut pages = Vec::new();
    let mut start = 0;
    let mut bytes = 0;
    for (index, record) in records.iter().enumerate() {
        if bytes >= target {
            pages.push(&records[start..index]);
            start = index;
            bytes = 0;
        }
        bytes += size(record);
    }
    if start < records.len() {
        pages.push(&records[start..]);
    }
    pages
}

fn size(record: &Record) -> usize {
    record.key.len() + record.value.len() + RECORD_BYTES
}

/// The number of records and the sum of their checksums, in any order. It is stored with the latest
/// revision, and finds records that sled loses or returns in an older version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RecordChecksum {
    pub(super) records: u64,
    pub(super) sum: u64,
}

impl RecordChecksum {
    pub(super) fn add(&mut self, record: &Record) {
        self.records = self.records.wrapping_add(1);
        self.sum = self.sum.wrapping_add(checksum_of(record));
    }

    pub(super) fn remove(&mut self, record: &Record) {
        self.records = self.records.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(checksum_of(record));
    }

    /// As it is stored, with the revision that it belongs to.
    pub(super) fn encode(self, revision: Revision) -> Vec<u8> {
        [revision, self.records, self.sum].map(u64::to_be_bytes).concat()
    }
}

fn checksum_of(record: &Record) -> u64 {
    checksum([&record.key, &record.revision.to_be_bytes(), &record.value]).into()
}
