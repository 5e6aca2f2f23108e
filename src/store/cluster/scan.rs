//! Reads the keys of a large range in pages. A member counts every key up to the end of what it is asked for, whatever the limit is: asked for page
//! after page up to the end of all, it would count all keys for each. So each question ends near: it is about the keys whose first bytes, as a number,
//! are not much above those of the first key. Where that leaves too many for later, the next question looks at more bytes; where it brings few, the
//! next one reaches further.

use std::time::Duration;

use super::layout::after;
use crate::store::{
    StoreError,
    etcd::{Etcd, Page, Span, Wanted},
};

/// Records of the first page; the others have as many as make about this many bytes.
const FIRST: u64 = 1_000;
const PAGE_BYTES: usize = 1 << 20;
/// Of a range that is counted with each page, at most so many pages are left for later.
const PAGES_AHEAD: u64 = 4;
/// For an answer: a member that is busy may count millions of keys.
const TIMEOUT: Duration = Duration::from_secs(40);

pub(super) struct Scan {
    /// All keys before it are read.
    from: Vec<u8>,
    /// The end of the range.
    end: Vec<u8>,
    /// How many bytes of a key the end of a question is made of, and by how much it is above the first key in them.
    depth: usize,
    reach: u64,
    /// The end of the last question, where its keys are not all read.
    until: Option<Vec<u8>>,
    limit: u64,
}

/// A page that is wanted.
pub(super) struct Question {
    span: Span,
    wanted: Wanted,
}

impl Question {
    /// Errors: [`StoreError::Unavailable`], [`StoreError::Compacted`].
    pub(super) async fn ask(&self, etcd: &Etcd) -> Result<Page, StoreError> {
        etcd.range(&self.span, self.wanted, TIMEOUT).await
    }
}

impl Scan {
    pub(super) fn of(span: Span) -> Self {
        let depth = span.from.len() + 1;
        Self { from: span.from, end: span.until, depth, reach: 1, until: None, limit: FIRST }
    }

    /// All keys before this one are read.
    pub(super) fn covered(&self) -> &[u8] {
        &self.from
    }

    /// The next page, which may have no records; nothing at the end. `revision` 0 is the newest there is, with each page. After an error it may be asked
    /// for again. Errors: [`StoreError::Unavailable`], [`StoreError::Compacted`].
    pub(super) async fn next(&mut self, etcd: &Etcd, revision: u64) -> Result<Option<Page>, StoreError> {
        let Some(question) = self.question(revision) else { return Ok(None) };
        let page = question.ask(etcd).await?;
        self.turn_page(&page);
        Ok(Some(page))
    }

    /// What the next page is asked for with. Nothing at the end.
    pub(super) fn question(&self, revision: u64) -> Option<Question> {
        let span = Span { from: self.from.clone(), until: self.until() };
        let wanted = Wanted { revision, limit: self.limit, ..Wanted::default() };
        (self.from < self.end).then_some(Question { span, wanted })
    }

    fn until(&self) -> Vec<u8> {
        let until = || above(&self.from, self.depth, self.reach).map_or(self.end.clone(), |until| until.min(self.end.clone()));
        self.until.clone().unwrap_or_else(until)
    }

    /// Goes on to what is after this page, the answer to the last question.
    pub(super) fn turn_page(&mut self, page: &Page) {
        let until = self.until();
        let read = page.records.len() as u64;
        let bytes: usize = page.records.iter().map(|record| record.key.len() + record.value.len()).sum();
        match (page.records.first(), page.records.last()) {
            (Some(first), Some(last)) if page.more => {
                self.from = after(last.key.clone());
                let is_near = page.count.saturating_sub(read) <= PAGES_AHEAD * self.limit;
                self.until = is_near.then_some(until);
                if !is_near {
                    // As far as this page has come, which is where its first and last key begin to differ.
                    let shared = first.key.iter().zip(&last.key).take_while(|(a, b)| a == b).count();
                    let byte = |key: &[u8]| u64::from(key.get(shared).copied().unwrap_or(0));
                    (self.depth, self.reach) = (shared + 1, byte(&last.key).saturating_sub(byte(&first.key)).max(1));
                }
            }
            _ => {
                (self.from, self.until) = (until, None);
                match page.count {
                    // Most keys are text, so that there is nothing after the last letter that is used.
                    0 => self.reach_further(4),
                    few if few < self.limit / 2 => self.reach_further(2),
                    _ => {}
                }
            }
        }
        if let Some(limit) = (page.records.len() * PAGE_BYTES).checked_div(bytes) {
            self.limit = limit.max(1) as u64;
        }
    }

    fn reach_further(&mut self, times: u64) {
        self.reach *= times;
        if self.reach > u64::from(u8::MAX) {
            (self.depth, self.reach) = (self.depth.saturating_sub(1), 1);
        }
    }
}

/// The first `depth` bytes of the key, and as much more as a number. Nothing where no key is above that.
fn above(key: &[u8], depth: usize, more: u64) -> Option<Vec<u8>> {
    let mut above = key[..key.len().min(depth)].to_vec();
    above.resize(depth, 0);
    let mut carry = more;
    for byte in above.iter_mut().rev() {
        carry += u64::from(*byte);
        *byte = carry.to_le_bytes()[0];
        carry >>= 8;
    }
    (carry == 0 && depth > 0).then_some(above)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::etcd::Record;

    #[test]
    fn an_end_is_above_in_the_bytes_that_are_looked_at() {
        assert_eq!(above(b"ab", 2, 1).as_deref(), Some(&b"ac"[..]));
        assert_eq!(above(b"abc", 2, 2).as_deref(), Some(&b"ad"[..]));
        assert_eq!(above(b"a", 3, 1).as_deref(), Some(&b"a\0\x01"[..]));
        assert_eq!(above(b"a\xff", 2, 1).as_deref(), Some(&b"b\0"[..]));
        assert_eq!((above(b"\xff", 1, 1), above(b"a", 0, 1)), (None, None));
    }

    /// Reads these keys as a member would give them, and answers how many questions there were, and how many keys were counted for them.
    fn scan(keys: &[Vec<u8>], value_bytes: usize) -> (usize, usize) {
        let mut scan = Scan::of(Span { from: b"p".to_vec(), until: b"q".to_vec() });
        let (mut read, mut questions, mut counted) = (Vec::new(), 0, 0);
        while let Some(Question { span, wanted }) = scan.question(0) {
            let in_span = &keys[keys.partition_point(|key| *key < span.from)..keys.partition_point(|key| *key < span.until)];
            let taken = &in_span[..in_span.len().min(wanted.limit as usize)];
            let record = |key: &Vec<u8>| Record { key: key.clone(), value: vec![0; value_bytes], revision: 1 };
            let page = Page {
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
        let of = |apps: usize, rooms: usize, users: usize| {
            let keys = (0..apps).flat_map(move |app| {
                (0..rooms).flat_map(move |room| (0..users).map(move |user| format!("pRapp{app:03}\0room{room:05}\0mu{user:09}")))
            });
            let mut keys: Vec<_> = keys.map(String::into_bytes).collect();
            keys.sort();
            keys
        };
        for (apps, rooms, users) in [(1, 300, 1_000), (1, 1, 300_000), (1, 300_000, 1), (300, 100, 10), (3, 7, 11), (0, 0, 0)] {
            let keys = of(apps, rooms, users);
            let (questions, counted) = scan(&keys, 100);
            let pages = keys.len() * 120 / PAGE_BYTES + 1;
            assert!(questions <= 100 + 10 * pages + 60 * apps, "{questions} questions for {pages} pages of {apps} apps");
            assert!(counted <= 6 * keys.len() + 1_000, "{counted} counted of {} keys of {apps} x {rooms} x {users}", keys.len());
        }
    }

    #[test]
    fn keys_of_any_bytes_are_read() {
        let mut keys: Vec<Vec<u8>> = (0..=u8::MAX).flat_map(|a| (0..=u8::MAX).map(move |b| vec![b'p', a, b])).collect();
        keys.extend([b"p".to_vec(), b"p\xff\xff\xff\xff".to_vec()]);
        keys.sort();
        scan(&keys, 2_000);
        scan(&keys, 1);
    }
}
