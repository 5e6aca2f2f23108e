//! Reads a large range of keys in pages.
//!
//! For each request, a member counts every key up to the end of the requested range, whatever the
//! limit is. If every request extended to the end of the whole range, each would count all keys
//! that are left. So each request ends at an estimate: about as far from its first key as the last
//! page reached. For the estimate, keys are numbers whose digits are the bytes seen at each
//! position (`alphabet.rs`). With all 256 bytes as digits, a step over one room would be as wide as
//! a step over a hundred. If a request returns few keys, the next one extends further.

use std::time::Duration;

use super::{
    alphabet::Alphabets,
    client::Etcd,
    kv::{KeyRange, RangeOptions, RangePage},
    layout::next_key,
};
use crate::store::StoreError;

/// Size of the first page, in records. The later ones aim at `PAGE_BYTES`.
const FIRST_PAGE_RECORDS: u64 = 1_000;
const PAGE_BYTES: usize = 1 << 20;
/// Bounds a page when large records, of up to 16 KiB, follow small ones.
const MAX_PAGE_RECORDS: u64 = 4_096;
/// How many digits a step is measured in, from the first that differs.
const STEP_DIGITS: usize = 3;
/// Above this step, the scan measures it in fewer digits.
const MAX_STEP: u64 = 1 << 32;
/// Long, because a busy member may have to count millions of keys.
const PAGE_TIMEOUT: Duration = Duration::from_secs(40);

pub(super) struct Scan {
    /// All keys before this one are read.
    start: Vec<u8>,
    /// The end of the whole range.
    end: Vec<u8>,
    alphabets: Alphabets,
    /// The next request ends at the first `depth` bytes of its first key, taken as a number, plus
    /// `step`.
    depth: usize,
    step: u64,
    /// The end of the last request, if it still has keys to read.
    last_request_end: Option<Vec<u8>>,
    limit: u64,
}

/// A request for one page.
pub(super) struct ScanRequest {
    range: KeyRange,
    options: RangeOptions,
}

impl ScanRequest {
    /// Errors: [`StoreError::Unavailable`], [`StoreError::Compacted`].
    pub(super) async fn send(&self, etcd: &Etcd) -> Result<RangePage, StoreError> {
        etcd.range(&self.range, self.options, PAGE_TIMEOUT).await
    }
}

impl Scan {
    pub(super) fn of(range: KeyRange) -> Self {
        let depth = range.start.len() + 1;
        Self {
            start: range.start,
            end: range.end,
            alphabets: Alphabets::default(),
            depth,
            step: 1,
            last_request_end: None,
            limit: FIRST_PAGE_RECORDS,
        }
    }

    /// All keys before this one are read.
    pub(super) fn covered(&self) -> &[u8] {
        &self.start
    }

    /// Reads the next page, which may be empty; `None` at the end. With `revision` 0, each page is
    /// as of the latest revision. After an error, the call may be repeated.
    ///
    /// Errors: [`StoreError::Unavailable`], [`StoreError::Compacted`].
    pub(super) async fn next(
        &mut self,
        etcd: &Etcd,
        revision: u64,
    ) -> Result<Option<RangePage>, StoreError> {
        let Some(request) = self.request(revision) else { return Ok(None) };
        let page = request.send(etcd).await?;
        self.advance(&page);
        Ok(Some(page))
    }

    /// The request for the next page; `None` at the end.
    pub(super) fn request(&self, revision: u64) -> Option<ScanRequest> {
        let range = KeyRange { start: self.start.clone(), end: self.request_end() };
        let options = RangeOptions { revision, limit: self.limit, ..RangeOptions::default() };
        (self.start < self.end).then_some(ScanRequest { range, options })
    }

    fn request_end(&self) -> Vec<u8> {
        let estimate = || {
            let above = self.alphabets.above(&self.start, self.depth, self.step);
            above.filter(|end| *end < self.end)
        };
        self.last_request_end.clone().or_else(estimate).unwrap_or_else(|| self.end.clone())
    }

    /// Moves on past this page, the answer to the last request.
    pub(super) fn advance(&mut self, page: &RangePage) {
        let request_end = self.request_end();
        let read = page.records.len() as u64;
        let bytes: usize =
            page.records.iter().map(|record| record.key.len() + record.value.len()).sum();
        self.alphabets.learn(page.records.iter().map(|record| &*record.key));
        match (page.records.first(), page.records.last()) {
            (Some(first), Some(last)) if page.has_more => {
                self.start = next_key(last.key.clone());
                // Keep the end only if one more page reaches it, since that page counts the
                // remaining keys again.
                let is_near = page.count.saturating_sub(read) <= self.limit;
                self.last_request_end = is_near.then_some(request_end);
                self.set_step(&first.key, &last.key);
            }
            _ => {
                self.start = request_end;
                self.last_request_end = None;
                match page.count {
                    0 => self.widen_step(4),
                    few if few < self.limit / 2 => self.widen_step(2),
                    _ => {}
                }
            }
        }
        if let Some(limit) = (page.records.len() * PAGE_BYTES).checked_div(bytes) {
            self.limit = (limit as u64).clamp(1, MAX_PAGE_RECORDS);
        }
    }

    /// Sets the step to 7/8 of the distance between the two keys: somewhat less than the page
    /// covered, so that the limit rarely cuts a request short.
    fn set_step(&mut self, first: &[u8], last: &[u8]) {
        let shared = first.iter().zip(last).take_while(|(a, b)| a == b).count();
        self.depth = shared + STEP_DIGITS;
        self.step = (self.alphabets.distance(first, last, shared..self.depth) / 8 * 7).max(1);
    }

    fn widen_step(&mut self, factor: u64) {
        self.step *= factor;
        while self.step > MAX_STEP && self.depth > 0 {
            self.depth -= 1;
            self.step /= self.alphabets.radix(self.depth);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::cluster::kv::KeyValue;

    /// Reads these keys as a member would return them. Returns the number of requests, and the
    /// number of keys that the member counted for them.
    fn scan(keys: &[Vec<u8>], value_bytes: usize) -> (usize, usize) {
        let mut scan = Scan::of(KeyRange { start: b"p".to_vec(), end: b"q".to_vec() });
        let mut read = Vec::new();
        let mut requests = 0;
        let mut counted = 0;
        while let Some(ScanRequest { range, options }) = scan.request(0) {
            let in_range = &keys[keys.partition_point(|key| *key < range.start)
                ..keys.partition_point(|key| *key < range.end)];
            let taken = &in_range[..in_range.len().min(options.limit as usize)];
            let record = |key: &Vec<u8>| KeyValue {
                key: key.clone(),
                value: vec![0; value_bytes],
                revision: 1,
            };
            let page = RangePage {
                revision: 1,
                records: taken.iter().map(record).collect(),
                has_more: taken.len() < in_range.len(),
                count: in_range.len() as u64,
            };
            read.extend_from_slice(taken);
            requests += 1;
            counted += in_range.len();
            scan.advance(&page);
        }
        assert!(read == keys, "{} of {} keys", read.len(), keys.len());
        (requests, counted)
    }

    #[test]
    fn every_key_is_read_once_and_few_are_counted_often() {
        type Id = fn(usize) -> String;
        let hex: Id =
            |number| format!("{:016x}", (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let decimal: Id = |number| format!("{number:09}");
        let short: Id = |number| number.to_string();
        let shapes = [
            (decimal, 1, 300, 1_000),
            (short, 1, 300, 1_000),
            (hex, 1, 300, 1_000),
            (decimal, 1, 1, 300_000),
            (hex, 1, 1, 300_000),
            (decimal, 1, 300_000, 1),
            (hex, 300, 100, 10),
            (short, 3, 7, 11),
            (hex, 0, 0, 0),
        ];
        for (id, apps, rooms, users) in shapes {
            let keys = (0..apps).flat_map(|app| {
                (0..rooms).flat_map(move |room| {
                    (0..users)
                        .map(move |user| format!("pR{}\0{}\0mu{}", id(app), id(room), id(user)))
                })
            });
            let mut keys: Vec<_> = keys.map(String::into_bytes).collect();
            keys.sort();
            let (requests, counted) = scan(&keys, 100);
            let pages = keys.len() * 120 / PAGE_BYTES + 1;
            let case = format!("{} keys of {apps} x {rooms} x {users} like {}", keys.len(), id(7));
            assert!(
                requests <= 100 + 3 * pages + 40 * apps,
                "{requests} requests for {pages} pages: {case}"
            );
            assert!(counted <= 3 * keys.len() + 1_000, "{counted} counted: {case}");
        }
    }

    #[test]
    fn keys_of_any_bytes_are_read() {
        let mut keys: Vec<Vec<u8>> =
            (0..=u8::MAX).flat_map(|a| (0..=u8::MAX).map(move |b| vec![b'p', a, b])).collect();
        keys.extend([b"p".to_vec(), b"p\xff\xff\xff\xff".to_vec()]);
        keys.sort();
        scan(&keys, 2_000);
        scan(&keys, 1);
    }
}
