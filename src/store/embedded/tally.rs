//! What all records of an embedded engine add up to, kept with the newest revision: it finds what an engine leaves out, or has an older value of.

use super::page::Record;
use crate::store::{Revision, codec::checksum};

/// What records add up to, in any order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) records: u64,
    pub(super) sum: u64,
}

impl Tally {
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
