//! Reads the keys of a large range in pages. A member counts every key up to the end of what it is asked for, whatever the limit is: asked for page
//! after page up to the end of all, it would count all keys for each. So the end of each question is near: that of the keys which share a prefix
//! with the last one read. Where many share it, the next question is about a longer prefix; where they are exhausted, about a shorter one.

use std::time::Duration;

use super::layout::{after, end_of_prefix};
use crate::store::{
    StoreError,
    etcd::{Etcd, Page, Record, Span, Wanted},
};

/// Records of the first page; the others have as many as make about this many bytes.
const FIRST: u64 = 1_000;
const PAGE_BYTES: usize = 1 << 20;
/// Of a range that is counted with each page, at most so many pages are left.
const PAGES_AHEAD: u64 = 8;
/// For an answer: the first question may count millions of keys.
const TIMEOUT: Duration = Duration::from_secs(40);

pub(super) struct Scan {
    /// All keys before it are read.
    from: Vec<u8>,
    /// The end of the range.
    end: Vec<u8>,
    /// What the next question is about: keys with this prefix. Empty where that is all up to the end.
    prefix: Vec<u8>,
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
        Self { from: span.from, end: span.until, prefix: Vec::new(), limit: FIRST }
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
        if self.prefix.is_empty() { self.end.clone() } else { end_of_prefix(&self.prefix).min(self.end.clone()) }
    }

    /// Goes on to what is after this page, the answer to the last question.
    pub(super) fn turn_page(&mut self, page: &Page) {
        let bytes: usize = page.records.iter().map(|record| record.key.len() + record.value.len()).sum();
        let left = page.count.saturating_sub(page.records.len() as u64);
        match (page.records.first(), page.records.last()) {
            (Some(first), Some(last)) if page.more => {
                if left > PAGES_AHEAD * self.limit {
                    self.prefix = narrower(&self.prefix, first, last);
                }
                self.from = after(last.key.clone());
            }
            _ => {
                self.from = self.until();
                self.widen();
            }
        }
        if let Some(limit) = (page.records.len() * PAGE_BYTES).checked_div(bytes) {
            self.limit = limit.max(1) as u64;
        }
    }

    /// Goes on to the keys with a prefix that is shorter by a byte, those that are not read yet.
    fn widen(&mut self) {
        while self.prefix.pop().is_some() && end_of_prefix(&self.prefix) <= self.from {}
    }
}

/// A byte more than what the keys of the page share, and at least one more than before.
fn narrower(prefix: &[u8], first: &Record, last: &Record) -> Vec<u8> {
    let shared = first.key.iter().zip(&last.key).take_while(|(a, b)| a == b).count();
    let length = (shared.max(prefix.len()) + 1).min(last.key.len());
    last.key[..length].to_vec()
}
