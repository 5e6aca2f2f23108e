//! What all records of an embedded engine add up to, kept with each commit: it finds what an engine leaves out, or has an older value of.

use super::{Revision, codec::checksum};

/// What records add up to, in any order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) records: u64,
    pub(super) sum: u64,
}

impl Tally {
    pub(super) fn add(&mut self, key: &[u8], stored: &[u8]) {
        self.records = self.records.wrapping_add(1);
        self.sum = self.sum.wrapping_add(checksum(key, stored).into());
    }

    pub(super) fn remove(&mut self, key: &[u8], stored: &[u8]) {
        self.records = self.records.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(checksum(key, stored).into());
    }

    pub(super) fn value(self, revision: Revision) -> Vec<u8> {
        [revision, self.records, self.sum].map(u64::to_be_bytes).concat()
    }
}
