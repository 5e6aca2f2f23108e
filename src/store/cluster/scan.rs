//! Reads the keys of a large range in pages. A member counts every key up to the end of what it is
//! asked for, whatever the limit is: asked for page after page up to the end of all, it would count
//! all keys for each. So each question ends near: about as far from its first key as the last page
//! has come. Keys are numbers for that, whose digits are the bytes that keys are seen to use at
//! each place (`alphabet.rs`): with those of all bytes a step of one room would be as wide as one
//! of a hundred. Where a question brings few keys, the next one reaches further.

use std::time::Duration;

use super::{
    alphabet::Alphabets,
    client::{Etcd, KeyRange, RangeOptions, RangePage},
    layout::after,
};
use crate::store::StoreError;

/// Records of the first page; the others have as many as make about this many bytes.
const FIRST: u64 = 1_000;
const PAGE_BYTES: usize = 1 << 20;
/// What comes after small records may be large ones, of 16 KiB.
const MAX_PAGE: u64 = 4_096;
/// How many digits a step is measured in, beginning with the first that differs.
const DIGITS: usize = 3;
/// The largest step; one that has to be larger is measured in fewer bytes.
const MAX_REACH: u64 = 1 << 32;
/// For an answer: a member that is busy may count millions of keys.
const TIMEOUT: Duration = Duration::from_secs(40);

pub(super) struct Scan {
    /// All keys before it are read.
    from: Vec<u8>,
    /// The end of the range.
    end: Vec<u8>,
    alphabets: Alphabets,
    /// How many bytes of a key the end of a question is made of, and by how much it is above the
    /// first key in them.
    depth: usize,
    reach: u64,
    /// The end of the last question, where its keys are not all read.
    until: Option<Vec<u8>>,
    limit: u64,
}

/// A page that is wanted.
pub(super) struct ScanRequest {
    span: KeyRange,
    wanted: RangeOptions,
}

impl ScanRequest {
    /// Errors: [`StoreError::Unavailable`], [`StoreError::Compacted`].
    pub(super) async fn send(&self, etcd: &Etcd) -> Result<RangePage, StoreError> {
        etcd.range(&self.span, self.wanted, TIMEOUT).await
    }
}

impl Scan {
    pub(super) fn of(span: KeyRange) -> Self {
        let depth = span.from.len() + 1;
        Self {
            from: span.from,
            end: span.until,
            alphabets: Alphabets::default(),
            depth,
            reach: 1,
            until: None,
            limit: FIRST,
        }
    }

    /// All keys before this one are read.
    pub(super) fn covered(&self) -> &[u8] {
        &self.from
    }

    /// The next page, which may have no records; nothing at the end. `revision` 0 is the newest
    /// there is, with each page. After an error it may be asked for again. Errors:
    /// [`StoreError::Unavailable`], [`StoreError::Compacted`].
    pub(super) async fn next(
        &mut self,
        etcd: &Etcd,
        revision: u64,
    ) -> Result<Option<RangePage>, StoreError> {
        let Some(request) = self.request(revision) else { return Ok(None) };
        let page = request.send(etcd).await?;
        self.turn_page(&page);
        Ok(Some(page))
    }

    /// What the next page is asked for with. Nothing at the end.
    pub(super) fn request(&self, revision: u64) -> Option<ScanRequest> {
        let span = KeyRange { from: self.from.clone(), until: self.until() };
        let wanted = RangeOptions { revision, limit: self.limit, ..RangeOptions::default() };
        (self.from < self.end).then_some(ScanRequest { span, wanted })
    }

    fn until(&self) -> Vec<u8> {
        let until = || {
            self.alphabets
                .above(&self.from, self.depth, self.reach)
                .filter(|until| *until < self.end)
        };
        self.until.clone().or_else(until).unwrap_or_else(|| self.end.clone())
    }

    /// Goes on to what is after this page, the answer to the last question.
    pub(super) fn turn_page(&mut self, page: &RangePage) {
        let until = self.until();
        let read = page.records.len() as u64;
        let bytes: usize =
            page.records.iter().map(|record| record.key.len() + record.value.len()).sum();
        self.alphabets.learn(page.records.iter().map(|record| &*record.key));
        match (page.records.first(), page.records.last()) {
            (Some(first), Some(last)) if page.more => {
                self.from = after(last.key.clone());
                // What is left is counted again with the next page.
                let is_near = page.count.saturating_sub(read) <= self.limit;
                self.until = is_near.then_some(until);
                self.reach_as_far(&first.key, &last.key);
            }
            _ => {
                (self.from, self.until) = (until, None);
                match page.count {
                    0 => self.reach_further(4),
                    few if few < self.limit / 2 => self.reach_further(2),
                    _ => {}
                }
            }
        }
        if let Some(limit) = (page.records.len() * PAGE_BYTES).checked_div(bytes) {
            self.limit = (limit as u64).clamp(1, MAX_PAGE);
        }
    }

    /// As far as from one key to the other, or somewhat less, so that a page is rarely cut short of
    /// the end of its question.
    fn reach_as_far(&mut self, first: &[u8], last: &[u8]) {
        let shared = first.iter().zip(last).take_while(|(a, b)| a == b).count();
        self.depth = shared + DIGITS;
        self.reach = (self.alphabets.distance(first, last, shared..self.depth) / 8 * 7).max(1);
    }

    fn reach_further(&mut self, times: u64) {
        self.reach *= times;
        while self.reach > MAX_REACH && self.depth > 0 {
            self.depth -= 1;
            self.reach /= self.alphabets.digits(self.depth);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::cluster::client::KeyValue;

    /// Reads these keys as a member would give them, and answers how many questions there were, and
    /// how many keys were counted for them.
    fn scan(keys: &[Vec<u8>], value_bytes: usize) -> (usize, usize) {
        let mut scan = Scan::of(KeyRange { from: b"p".to_vec(), until: b"q".to_vec() });
        let (mut read, mut questions, mut counted) = (Vec::new(), 0, 0);
        while let Some(ScanRequest { span, wanted }) = scan.request(0) {
            let in_span = &keys[keys.partition_point(|key| *key < span.from)
                ..keys.partition_point(|key| *key < span.until)];
            let taken = &in_span[..in_span.len().min(wanted.limit as usize)];
            let record = |key: &Vec<u8>| KeyValue {
                key: key.clone(),
                value: vec![0; value_bytes],
                revision: 1,
            };
            let page = RangePage {
                revision: 1,
                records: taken.iter().map(record).collect(),
                more: taken.len() < in_span.len(),
                count: in_span.len() as u64,
            };
            read.extend_from_slice(taken);
            questions += 1;
            counted += in_span.len();
            scan.turn_page(&page);
        }
        assert!(read == keys, "{} of {} keys", read.len(), keys.len());
        (questions, counted)
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
            let (questions, counted) = scan(&keys, 100);
            let pages = keys.len() * 120 / PAGE_BYTES + 1;
            let what = format!("{} keys of {apps} x {rooms} x {users} like {}", keys.len(), id(7));
            assert!(
                questions <= 100 + 3 * pages + 40 * apps,
                "{questions} questions for {pages} pages: {what}"
            );
            assert!(counted <= 3 * keys.len() + 1_000, "{counted} counted: {what}");
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
